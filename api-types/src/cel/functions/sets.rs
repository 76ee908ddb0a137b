//! Lists as sets.

use super::super::value::Value;
use super::equality::equal;
use super::{Arguments, Cost, Row, bool, global};

pub(super) static ROWS: &[Row] = &[
    global("sets.contains", "list(A), list(A)", "bool", Cost::Product, |a| {
        bool(is_subset(&a.items(1)?, &a.items(0)?))
    }),
    global("sets.equivalent", "list(A), list(A)", "bool", Cost::Product, |a| {
        let (x, y) = (a.items(0)?, a.items(1)?);
        bool(is_subset(&x, &y) && is_subset(&y, &x))
    }),
    global("sets.intersects", "list(A), list(A)", "bool", Cost::Product, |a| {
        let (x, y) = (a.items(0)?, a.items(1)?);
        bool(x.iter().any(|item| y.iter().any(|other| equal(item, other))))
    }),
];

fn is_subset(part: &[Value<'_>], whole: &[Value<'_>]) -> bool {
    part.iter().all(|item| whole.iter().any(|other| equal(item, other)))
}
