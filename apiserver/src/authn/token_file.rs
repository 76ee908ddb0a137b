//! `--token-auth-file`: lines of `token,user,uid[,"group1,group2"]`, as kube-apiserver reads them.

use std::collections::HashMap;
use std::path::Path;

use super::{Authenticator, Outcome, Presented, UserInfo, authenticated};

/// A token file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("cannot read the token file {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("line {line} of the token file needs at least token, user name and user uid")]
    TooFewColumns { line: usize },
    #[error("line {line} of the token file has an empty token")]
    EmptyToken { line: usize },
    #[error("line {line} of the token file repeats a token")]
    RepeatedToken { line: usize },
}

pub(crate) struct TokenFile(HashMap<String, UserInfo>);

impl TokenFile {
    pub(crate) fn read(path: &Path) -> Result<Self, TokenFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenFileError::Read { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut users = HashMap::new();
        for (index, raw) in text.lines().enumerate() {
            let line = index + 1;
            if raw.trim().is_empty() || raw.trim_start().starts_with('#') {
                continue;
            }
            let columns = split_csv(raw);
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(TokenFileError::TooFewColumns { line });
            };
            if token.is_empty() {
                return Err(TokenFileError::EmptyToken { line });
            }
            let groups: Vec<&str> = rest
                .first()
                .map(|g| g.split(',').map(str::trim).filter(|g| !g.is_empty()).collect())
                .unwrap_or_default();
            let mut user = authenticated(name.clone(), &groups);
            user.uid = uid.clone();
            if users.insert(token.clone(), user).is_some() {
                return Err(TokenFileError::RepeatedToken { line });
            }
        }
        Ok(Self(users))
    }
}

impl Authenticator for TokenFile {
    fn authenticate(&self, presented: &Presented<'_>) -> Outcome {
        match presented.bearer().filter(|_| presented.are_for_server()).and_then(|token| self.0.get(token)) {
            Some(user) => Outcome::User(user.clone()),
            None => Outcome::Unknown,
        }
    }
}

/// The columns of one line; double quotes keep commas together and a doubled quote is a quote.
fn split_csv(line: &str) -> Vec<String> {
    let mut columns = vec![String::new()];
    let mut quoted = false;
    let mut letters = line.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        let last = columns.last_mut().expect("there is always a column");
        match (letter, quoted) {
            ('"', true) if letters.peek() == Some(&'"') => {
                letters.next();
                last.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => columns.push(String::new()),
            (other, _) => last.push(other),
        }
    }
    columns.into_iter().map(|column| column.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_one_quoted_column() {
        assert_eq!(split_csv(r#"t,alice,1,"a,b""#), ["t", "alice", "1", "a,b"]);
    }

    #[test]
    fn a_line_without_uid_names_its_number() {
        let error = TokenFile::parse("t,alice,1\nt2,bob").err().unwrap();
        assert_eq!(
            error.to_string(),
            "line 2 of the token file needs at least token, user name and user uid"
        );
    }
}
