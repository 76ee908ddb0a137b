//! What is wrong with a text that is not JSON, in the words that clients know from Go's decoder.
//!
//! Asked only of texts that could not be read, so it is made to be right about the place and not to be fast.

use serde_json::Value;

/// What is wrong with `text`; nothing if it is JSON.
pub(crate) fn fault(text: &[u8]) -> Option<String> {
    let mut scanner = Scanner { text, at: 0, open: Vec::new() };
    match scanner.run() {
        Ok(()) => None,
        Err(Fault::End) => Some("unexpected end of JSON input".to_owned()),
        Err(Fault::Character(c, context)) => Some(format!("invalid character {} {context}", quoted(c))),
    }
}

/// What Go calls a value that it cannot read into a type.
pub(crate) fn go_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

enum Fault {
    End,
    Character(u8, String),
}

/// What may come next.
#[derive(Clone, Copy)]
enum State {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    AfterValue,
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// The brackets that are open.
    open: Vec<u8>,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        let mut state = State::Value;
        loop {
            while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
                self.at += 1;
            }
            let c = match (self.peek(), state) {
                (None, State::AfterValue) if self.open.is_empty() => return Ok(()),
                (None, _) => return Err(Fault::End),
                (Some(c), _) => c,
            };
            state = match (state, c) {
                (State::ValueOrEnd, b']') | (State::KeyOrEnd, b'}') => self.close(),
                (State::Value | State::ValueOrEnd, c) => self.begin(c)?,
                (State::Key | State::KeyOrEnd, b'"') => {
                    self.string()?;
                    State::Colon
                }
                (State::Key | State::KeyOrEnd, c) => {
                    return Err(wrong(c, "looking for beginning of object key string"));
                }
                (State::Colon, b':') => self.then(State::Value),
                (State::Colon, c) => return Err(wrong(c, "after object key")),
                (State::AfterValue, c) => self.after(c)?,
            };
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, Fault> {
        let c = self.peek().ok_or(Fault::End)?;
        self.at += 1;
        Ok(c)
    }

    fn then(&mut self, state: State) -> State {
        self.at += 1;
        state
    }

    fn close(&mut self) -> State {
        self.open.pop();
        self.then(State::AfterValue)
    }

    fn begin(&mut self, c: u8) -> Result<State, Fault> {
        match c {
            b'{' | b'[' => {
                self.open.push(c);
                return Ok(self.then(if c == b'{' { State::KeyOrEnd } else { State::ValueOrEnd }));
            }
            b'"' => self.string()?,
            b'-' | b'0'..=b'9' => self.number()?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            c => return Err(wrong(c, "looking for beginning of value")),
        }
        Ok(State::AfterValue)
    }

    fn after(&mut self, c: u8) -> Result<State, Fault> {
        match (self.open.last(), c) {
            (Some(b'{'), b',') => Ok(self.then(State::Key)),
            (Some(b'['), b',') => Ok(self.then(State::Value)),
            (Some(b'{'), b'}') | (Some(b'['), b']') => Ok(self.close()),
            (Some(b'{'), c) => Err(wrong(c, "after object key:value pair")),
            (Some(_), c) => Err(wrong(c, "after array element")),
            (None, c) => Err(wrong(c, "after top-level value")),
        }
    }

    fn string(&mut self) -> Result<(), Fault> {
        self.at += 1;
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            match self.next()? {
                                c if c.is_ascii_hexdigit() => {}
                                c => return Err(wrong(c, "in \\u hexadecimal character escape")),
                            }
                        }
                    }
                    c => return Err(wrong(c, "in string escape code")),
                },
                c if c < b' ' => return Err(wrong(c, "in string literal")),
                _ => {}
            }
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits("in numeric literal")?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    /// At least one digit.
    fn digits(&mut self, context: &str) -> Result<(), Fault> {
        match self.next()? {
            c if c.is_ascii_digit() => {}
            c => return Err(wrong(c, context)),
        }
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Result<(), Fault> {
        for expected in word.bytes() {
            let c = self.next()?;
            if c != expected {
                let expected = char::from(expected);
                return Err(wrong(c, &format!("in literal {word} (expecting '{expected}')")));
            }
        }
        Ok(())
    }
}

fn wrong(c: u8, context: &str) -> Fault {
    Fault::Character(c, context.to_owned())
}

/// A byte as Go quotes the character of that number.
fn quoted(c: u8) -> String {
    match c {
        b'\'' => r"'\''".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        c if c < b' ' || c == 0x7f => format!(r"'\x{c:02x}'"),
        0x80..=0xa0 | 0xad => format!(r"'\u{c:04x}'"),
        c => format!("'{}'", char::from(c)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_character_is_told_with_its_place() {
        for (text, expected) in [
            (&b"{\"a\":1,}"[..], "invalid character '}' looking for beginning of object key string"),
            (b"not json", "invalid character 'o' in literal null (expecting 'u')"),
            (b"data: x", "invalid character 'd' looking for beginning of value"),
            (b"{\"a\":", "unexpected end of JSON input"),
            (b"", "unexpected end of JSON input"),
            (b"[1 2]", "invalid character '2' after array element"),
            (b"{\"a\" 1}", "invalid character '1' after object key"),
            (b"{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            (b"{} x", "invalid character 'x' after top-level value"),
            (b"\"a\nb\"", "invalid character '\\n' in string literal"),
            (b"\"\\x\"", "invalid character 'x' in string escape code"),
            (b"\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            (b"-x", "invalid character 'x' in numeric literal"),
            (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
            (b"1e+x", "invalid character 'x' in exponent of numeric literal"),
            (b"01", "invalid character '1' after top-level value"),
            (b"\x9e", "invalid character '\\u009e' looking for beginning of value"),
            (b"'a'", "invalid character '\\'' looking for beginning of value"),
        ] {
            assert_eq!(fault(text).as_deref(), Some(expected), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn json_has_no_fault() {
        for text in ["{}", " [1, -0.5e3, \"\\u00e9\\\"\", true, false, null, {\"a\": {}, \"b\": []}] ", "0"] {
            assert_eq!(fault(text.as_bytes()), None, "{text}");
        }
    }
}
