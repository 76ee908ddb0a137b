//! What is said to the person at the terminal.

use std::fmt::Display;
use std::io::Write as _;

/// Prints a line. A cluster whose terminal has gone away goes on: there is nobody left to tell.
pub(crate) fn say(line: impl Display) {
    drop(writeln!(std::io::stdout(), "{line}"));
}
