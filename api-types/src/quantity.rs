//! Resource quantities, exact: a decimal number of billionths and the family of suffixes it was written with.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub};
use std::str::FromStr;

const NANOS: i128 = 1_000_000_000;
/// Kubernetes caps quantities at 2⁶³-1 and keeps nothing below a billionth.
const NANOS_MAX: i128 = (i64::MAX as i128) * NANOS;

/// Text that is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Decimal,
    Binary,
    Exponent,
}

/// An amount of a resource. Equality and order are those of the number, however it was written.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    family: Family,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, family: Family::Decimal };

    /// Parses `100m`, `1.5Gi`, `2e3`; what is finer than a billionth is rounded up.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(QuantityError::Form);
        }
        let (family, base, exponent) = parse_suffix(suffix)?;
        let nanos = scale(whole, fraction, base, exponent).min(NANOS_MAX);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, family })
    }

    /// Parses text of an object that was checked before; what is no quantity counts as nothing.
    pub fn parse_or_zero(text: &str) -> Self {
        Self::parse(text).unwrap_or(Self::ZERO)
    }

    /// A number of thousandths, as CPU is counted.
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nanos: i128::from(milli) * (NANOS / 1000), family: Family::Decimal }
    }

    pub fn from_units(units: i64) -> Self {
        Quantity { nanos: i128::from(units) * NANOS, family: Family::Decimal }
    }

    /// A number of bytes, written with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Quantity { nanos: i128::from(bytes) * NANOS, family: Family::Binary }
    }

    /// Whole units, rounded up.
    pub fn units(&self) -> i64 {
        saturate(div_ceil(self.nanos, NANOS))
    }

    /// Thousandths, rounded up.
    pub fn milli(&self) -> i64 {
        saturate(div_ceil(self.nanos, NANOS / 1000))
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
}

fn saturate(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

/// Division that rounds away from zero.
fn div_ceil(n: i128, by: i128) -> i128 {
    let quotient = n / by;
    if n % by == 0 { quotient } else { quotient + n.signum() }
}

fn parse_suffix(suffix: &str) -> Result<(Family, i128, i32), QuantityError> {
    let decimal = |exponent| Ok((Family::Decimal, 10, exponent));
    let binary = |exponent| Ok((Family::Binary, 2, exponent));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => parse_exponent(suffix),
    }
}

fn parse_exponent(suffix: &str) -> Result<(Family, i128, i32), QuantityError> {
    let known = |c: char| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit();
    if !suffix.chars().all(known) {
        return Err(QuantityError::Form);
    }
    let digits = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let exponent = digits.parse().map_err(|_| QuantityError::Suffix)?;
    Ok((Family::Exponent, 10, exponent))
}

/// `whole.fraction × base^exponent` in billionths, rounded up; saturates far above the cap.
fn scale(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    // Digits beyond these cannot change the result other than by rounding it up.
    let kept = &fraction[..fraction.len().min(18)];
    let lost = fraction[kept.len()..].bytes().any(|b| b != b'0');
    let digits = format!("{}{kept}", whole.trim_start_matches('0'));
    if digits.bytes().all(|b| b == b'0') && !lost {
        return 0;
    }
    let Ok(mantissa) = digits.parse::<i128>().or(if digits.is_empty() { Ok(0) } else { Err(()) }) else {
        return NANOS_MAX;
    };
    let shift = 9 - i32::try_from(kept.len()).unwrap_or(0);
    let (up, down) = match base {
        2 => (pow(2, exponent).and_then(|p| p.checked_mul(pow(10, shift.max(0))?)), pow(10, -shift)),
        _ => (pow(10, exponent + shift), pow(10, -(exponent + shift))),
    };
    let (Some(up), Some(down)) = (up, down) else {
        return if exponent > 0 { NANOS_MAX } else { 1 };
    };
    match mantissa.checked_mul(up) {
        Some(n) => div_ceil(n, down) + i128::from(lost && n % down == 0),
        None => NANOS_MAX,
    }
}

/// `base^exponent`, 1 for negative exponents; none if it does not fit.
fn pow(base: i128, exponent: i32) -> Option<i128> {
    base.checked_pow(u32::try_from(exponent.max(0)).unwrap_or(0))
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

/// The canonical form: no fraction, the largest suffix of its family that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary =
            self.family == Family::Binary && self.nanos.abs() >= 1024 * NANOS && self.nanos % NANOS == 0;
        if binary {
            let suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let (number, steps) = reduce(self.nanos / NANOS, 1024, suffixes.len() - 1);
            return write!(f, "{number}{}", suffixes[steps]);
        }
        let suffixes = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let (number, steps) = reduce(self.nanos, 1000, suffixes.len() - 1);
        match (number, self.family, (steps as i32 - 3) * 3) {
            (0, ..) => f.write_str("0"),
            (n, Family::Exponent, 0) => write!(f, "{n}"),
            (n, Family::Exponent, exponent) => write!(f, "{n}e{exponent}"),
            (n, ..) => write!(f, "{n}{}", suffixes[steps]),
        }
    }
}

fn reduce(mut number: i128, by: i128, steps_max: usize) -> (i128, usize) {
    let mut steps = 0;
    while number != 0 && steps < steps_max && number % by == 0 {
        number /= by;
        steps += 1;
    }
    (number, steps)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::ZERO
    }
}

/// A sum is written like its first part, unless that is nothing.
impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let family = if self.is_zero() { other.family } else { self.family };
        Quantity { nanos: self.nanos.saturating_add(other.nanos).clamp(-NANOS_MAX, NANOS_MAX), family }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nanos: -self.nanos, ..self }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + -other
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(parts: I) -> Quantity {
        parts.fold(Quantity::ZERO, Add::add)
    }
}

impl From<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> for Quantity {
    fn from(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Self {
        Self::parse_or_zero(&quantity.0)
    }
}

impl From<Quantity> for k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, canonical: &str) {
        let shown = Quantity::parse(text).map_or_else(|e| format!("{e:?}"), |q| q.to_string());
        assert_eq!(shown, canonical, "{text}");
    }

    #[test]
    fn canonical_forms_are_those_of_kubernetes() {
        for (text, canonical) in [
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("0.1Ki", "102400m"),
            ("512Ki", "512Ki"),
            ("1e3", "1e3"),
            ("1E", "1E"),
            ("2E3", "2e3"),
            ("12e5", "1200e3"),
            ("-1.5", "-1500m"),
            ("+2", "2"),
            (".5", "500m"),
            ("5.", "5"),
            ("0", "0"),
            ("0Gi", "0"),
            ("0.1n", "1n"),
            ("0.0000000001Gi", "107374183n"),
            ("100Ei", "9223372036854775807"),
            ("1e30", "9223372036854775807"),
        ] {
            check(text, canonical);
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for (text, error) in [
            ("", "Form"),
            ("abc", "Form"),
            ("1.2.3", "Form"),
            ("1x", "Form"),
            ("1ki", "Suffix"),
            ("1mm", "Suffix"),
        ] {
            check(text, error);
        }
    }

    #[test]
    fn amounts_compare_and_add_exactly() {
        let q = Quantity::parse_or_zero;
        assert_eq!(q("0.1") + q("200m"), q("300m"));
        assert!(q("1Gi") > q("1G"));
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("100m") - q("1")).to_string(), "-900m");
        assert_eq!((q("1.1").units(), q("1.0001").milli()), (2, 1001));
        assert_eq!([q("1"), q("2")].into_iter().sum::<Quantity>(), q("3"));
    }
}
