//! What is wrong with an expression, in the words and the shape of cel-go.

use std::fmt;

/// One problem and where it is, in code points from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    at: u32,
    pub message: String,
}

impl Issue {
    pub(super) fn new(at: u32, message: impl Into<String>) -> Issue {
        Issue { at, message: message.into() }
    }
}

/// Why an expression does not compile. Displays as cel-go does: for each problem the place, the line and a mark.
/// Kubernetes writes `compilation failed: ` before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileErrors {
    pub issues: Vec<Issue>,
    text: String,
}

impl CompileErrors {
    pub(super) fn new(text: &str, mut issues: Vec<Issue>) -> CompileErrors {
        issues.sort_by_key(|issue| issue.at);
        CompileErrors { issues, text: text.to_owned() }
    }
}

impl std::error::Error for CompileErrors {}

impl fmt::Display for CompileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.issues.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            let before: Vec<char> = self.text.chars().take(issue.at as usize).collect();
            let line = before.iter().filter(|c| **c == '\n').count();
            let column = before.iter().rev().take_while(|c| **c != '\n').count();
            let source = self.text.split('\n').nth(line).unwrap_or_default().replace('\t', " ");
            let dots = ".".repeat(column);
            write!(
                f,
                "{separator}ERROR: <input>:{}:{}: {}\n | {source}\n | {dots}^",
                line + 1,
                column + 1,
                issue.message
            )?;
        }
        Ok(())
    }
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression's own fault: a missing key, a division by zero.
    #[error("{0}")]
    Failed(String),
    /// It has cost more than it may. Nothing after it may run on the same budget.
    #[error("operation cancelled: actual cost limit exceeded")]
    OverBudget,
}

impl EvalError {
    pub fn failed(message: impl Into<String>) -> EvalError {
        EvalError::Failed(message.into())
    }

    pub(super) fn no_overload() -> EvalError {
        EvalError::failed("no such overload")
    }

    pub(super) fn no_key(key: impl fmt::Display) -> EvalError {
        EvalError::Failed(format!("no such key: {key}"))
    }
}
