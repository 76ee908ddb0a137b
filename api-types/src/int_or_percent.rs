//! Numbers that may be given as a share of a total: `maxSurge`, `maxUnavailable`, `minAvailable`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How a share that is not whole becomes a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Up,
    Down,
}

/// Text that is no percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for IntOrString: invalid type: string is not a percentage")]
pub struct NotAPercentage;

/// The number that `value` means of `total`.
pub fn scaled(value: &IntOrString, total: i32, rounding: Rounding) -> Result<i32, NotAPercentage> {
    let percent = match value {
        IntOrString::Int(n) => return Ok(*n),
        IntOrString::String(text) => percentage(text).ok_or(NotAPercentage)?,
    };
    let hundredths = i64::from(percent) * i64::from(total);
    let whole = match rounding {
        Rounding::Up => hundredths.div_euclid(100) + i64::from(hundredths.rem_euclid(100) != 0),
        Rounding::Down => hundredths.div_euclid(100),
    };
    Ok(i32::try_from(whole).unwrap_or(i32::MAX))
}

/// The number before the sign, if `text` is a percentage.
pub fn percentage(text: &str) -> Option<i32> {
    text.strip_suffix('%')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked_and_numbers_stay() {
        let of = |text: &str, rounding| scaled(&IntOrString::String(text.into()), 10, rounding);
        assert_eq!(of("25%", Rounding::Up), Ok(3));
        assert_eq!(of("25%", Rounding::Down), Ok(2));
        assert_eq!(of("25", Rounding::Down), Err(NotAPercentage));
        assert_eq!(scaled(&IntOrString::Int(7), 10, Rounding::Up), Ok(7));
    }
}
