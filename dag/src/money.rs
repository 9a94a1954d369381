//! Amounts: u64 of micro-TOP (10⁻⁶ TOP), written as decimal TOP.

/// Micro-TOP in one TOP.
pub const TOP: u64 = 1_000_000;

/// Writes an amount of micro-TOP as decimal TOP, without trailing zeros.
pub fn format(amount: u64) -> String {
    let (whole, part) = (amount / TOP, amount % TOP);
    if part == 0 {
        return whole.to_string();
    }
    format!("{whole}.{part:06}").trim_end_matches('0').to_string()
}

/// Parses decimal TOP with at most six digits behind the point. `None` for anything else, and on overflow.
pub fn parse(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 6 {
        return None;
    }
    if text.contains('.') && part.is_empty() {
        return None;
    }
    let micro: u64 = format!("{part:0<6}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(TOP)?.checked_add(micro)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(amount: u64) {
            prop_assert_eq!(parse(&format(amount)), Some(amount));
        }
    }

    #[test]
    fn odd_texts() {
        for text in ["", ".", "1.", ".5", "1.0000001", "-1", "+1", "1e3", "18446744073710", "1 "] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("0.000001"), Some(1));
        assert_eq!(format(1_500_000), "1.5");
    }
}
