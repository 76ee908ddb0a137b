//! Base64.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};

use super::super::error::EvalError;
use super::super::value::Value;
use super::{Arguments, Cost, Row, global, text};

pub(super) static ROWS: &[Row] = &[
    global("base64.decode", "string", "bytes", Cost::Text(0), |a| {
        let whole = a.text(0)?;
        let decoded = BASE64_STANDARD.decode(whole).or_else(|_| BASE64_STANDARD_NO_PAD.decode(whole));
        decoded.map(|bytes| Value::Bytes(bytes.into())).map_err(|_| EvalError::failed("illegal base64 data"))
    }),
    global("base64.encode", "bytes", "string", Cost::Text(0), |a| match &a[0] {
        Value::Bytes(bytes) => text(BASE64_STANDARD.encode(bytes)),
        _ => Err(EvalError::no_overload()),
    }),
];
