//! Text to tokens.

use super::error::Issue;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Ident(String),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    /// Operators, brackets, and the words `in`, `true`, `false`, `null`.
    Symbol(&'static str),
    End,
}

/// A token and the code points at which it begins and ends.
#[derive(Clone, Debug)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) at: u32,
    pub(super) end: u32,
}

/// Longest first.
const SYMBOLS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "+", "-", "*", "/", "%", "<", ">", "!", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}",
];
const WORDS: &[&str] = &["in", "true", "false", "null"];

pub(super) struct Lexer<'a> {
    text: &'a [char],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [char]) -> Self {
        Lexer { text, at: 0 }
    }

    pub(super) fn tokens(mut self) -> (Vec<Spanned>, Vec<Issue>) {
        let (mut tokens, mut issues) = (Vec::new(), Vec::new());
        loop {
            self.skip_space();
            let at = self.at;
            match self.next() {
                Ok(token) => {
                    let last = token == Token::End;
                    tokens.push(Spanned { token, at: at as u32, end: self.at as u32 });
                    if last {
                        return (tokens, issues);
                    }
                }
                Err(problem) => {
                    issues.push(Issue::new(at as u32, format!("Syntax error: {problem}")));
                    self.at = self.at.max(at + 1);
                }
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn skip_space(&mut self) {
        while let Some(c) = self.peek(0) {
            if c == '/' && self.peek(1) == Some('/') {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
            } else if matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{c}') {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Token, String> {
        let Some(c) = self.peek(0) else { return Ok(Token::End) };
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        if let Some((raw, bytes, skip)) = self.string_prefix() {
            self.at += skip;
            return self.string(raw, bytes);
        }
        if c.is_ascii_alphabetic() || c == '_' {
            return Ok(self.word());
        }
        self.symbol()
    }

    fn symbol(&mut self) -> Result<Token, String> {
        let fits = |symbol: &&&str| symbol.chars().enumerate().all(|(ahead, c)| self.peek(ahead) == Some(c));
        match SYMBOLS.iter().find(fits) {
            Some(symbol) => {
                self.at += symbol.len();
                Ok(Token::Symbol(symbol))
            }
            None => {
                let c = self.peek(0).unwrap_or(' ');
                self.at += 1;
                Err(format!("token recognition error at: '{c}'"))
            }
        }
    }

    fn word(&mut self) -> Token {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.at += 1;
        }
        let word: String = self.text[start..self.at].iter().collect();
        match WORDS.iter().find(|w| **w == word) {
            Some(word) => Token::Symbol(word),
            None => Token::Ident(word),
        }
    }

    fn number(&mut self) -> Result<Token, String> {
        let start = self.at;
        let is_hex = self.peek(0) == Some('0') && matches!(self.peek(1), Some('x' | 'X'));
        if is_hex {
            self.at += 2;
            while self.peek(0).is_some_and(|c| c.is_ascii_hexdigit()) {
                self.at += 1;
            }
        } else {
            self.digits();
        }
        let is_double = !is_hex && self.fraction();
        let text: String = self.text[start..self.at].iter().collect();
        if is_double {
            return text.parse().map(Token::Double).map_err(|_| "invalid double literal".to_owned());
        }
        let (digits, radix) = if is_hex { (&text[2..], 16) } else { (text.as_str(), 10) };
        if matches!(self.peek(0), Some('u' | 'U')) {
            self.at += 1;
            let parsed = u64::from_str_radix(digits, radix);
            return parsed.map(Token::Uint).map_err(|_| "invalid uint literal".to_owned());
        }
        // The one number that fits only with its sign.
        if digits == "9223372036854775808" && start > 0 && self.text[start - 1] == '-' {
            return Ok(Token::Int(i64::MIN));
        }
        i64::from_str_radix(digits, radix).map(Token::Int).map_err(|_| "invalid int literal".to_owned())
    }

    fn digits(&mut self) {
        while self.peek(0).is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// Takes what makes a number a double: a fraction, an exponent.
    fn fraction(&mut self) -> bool {
        let start = self.at;
        if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
            self.digits();
        }
        let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
        let is_exponent = matches!(self.peek(0), Some('e' | 'E'))
            && self.peek(1 + sign).is_some_and(|c| c.is_ascii_digit());
        if is_exponent {
            self.at += 1 + sign;
            self.digits();
        }
        self.at > start
    }

    /// Whether a string begins here: raw, bytes, and how long its prefix is.
    fn string_prefix(&self) -> Option<(bool, bool, usize)> {
        let (mut raw, mut bytes, mut skip) = (false, false, 0);
        loop {
            match self.peek(skip)? {
                '"' | '\'' => return Some((raw, bytes, skip)),
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                _ => return None,
            }
            skip += 1;
        }
    }

    fn string(&mut self, raw: bool, bytes: bool) -> Result<Token, String> {
        let start = self.at;
        let quote = self.peek(0).unwrap_or('"');
        let is_triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        let length = if is_triple { 3 } else { 1 };
        self.at += length;
        let mut out = Vec::new();
        loop {
            let closes = (0..length).all(|ahead| self.peek(ahead) == Some(quote));
            match self.peek(0) {
                _ if closes => {
                    self.at += length;
                    break;
                }
                None => return Err(self.unrecognized(start)),
                Some('\n' | '\r') if !is_triple => return Err(self.unrecognized(start)),
                Some('\\') if !raw => self.escape(bytes, &mut out)?,
                Some(c) => {
                    out.extend(c.encode_utf8(&mut [0; 4]).bytes());
                    self.at += 1;
                }
            }
        }
        match bytes {
            true => Ok(Token::Bytes(out)),
            false => String::from_utf8(out).map(Token::String).map_err(|_| "invalid string".to_owned()),
        }
    }

    fn unrecognized(&mut self, start: usize) -> String {
        let text: String = self.text[start..self.at].iter().collect();
        format!("token recognition error at: '{text}'")
    }

    fn escape(&mut self, bytes: bool, out: &mut Vec<u8>) -> Result<(), String> {
        let c = self.peek(1).ok_or("unable to unescape string")?;
        self.at += 2;
        let simple = match c {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '\'' | '"' | '`' | '?' => c as u8,
            'x' | 'X' => return self.code(2, 16, bytes, out),
            'u' if !bytes => return self.code(4, 16, false, out),
            'U' if !bytes => return self.code(8, 16, false, out),
            '0'..='3' => {
                self.at -= 1;
                return self.code(3, 8, bytes, out);
            }
            _ => return Err("unable to unescape string".to_owned()),
        };
        out.push(simple);
        Ok(())
    }

    fn code(&mut self, digits: usize, radix: u32, bytes: bool, out: &mut Vec<u8>) -> Result<(), String> {
        let mut code = 0;
        for _ in 0..digits {
            let digit = self.peek(0).and_then(|c| c.to_digit(radix)).ok_or("unable to unescape string")?;
            code = code * radix + digit;
            self.at += 1;
        }
        match (bytes, u8::try_from(code), char::from_u32(code)) {
            (true, Ok(byte), _) => out.push(byte),
            (false, _, Some(c)) => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            _ => return Err("unable to unescape string".to_owned()),
        }
        Ok(())
    }
}
