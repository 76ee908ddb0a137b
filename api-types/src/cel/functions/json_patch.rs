//! What mutations need to write JSON pointers.

use super::{Arguments, Cost, Row, global, text};

pub(super) static ROWS: &[Row] = &[global("jsonpatch.escapeKey", "string", "string", Cost::Text(0), |a| {
    text(a.text(0)?.replace('~', "~0").replace('/', "~1"))
})];
