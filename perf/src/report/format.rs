//! Numbers as people read them.

/// A latency given in microseconds, to three significant digits: `840 µs`, `7.94 ms`, `1.20 s`.
pub(super) fn latency(us: f64) -> String {
    if us < 999.5 {
        format!("{us:.0} µs")
    } else if us < 999_500.0 {
        format!("{} ms", three_digits(us / 1e3))
    } else {
        format!("{} s", three_digits(us / 1e6))
    }
}

/// A latency in whole microseconds, as [`latency`] writes it.
pub(super) fn latency_us(us: u64) -> String {
    latency(us as f64)
}

/// A figure of `count` latencies, as [`latency`] writes it; a dash when there were none.
pub(super) fn latency_if_any(count: u64, us: u64) -> String {
    if count == 0 { "–".to_owned() } else { latency_us(us) }
}

/// A round latency as an axis labels it: `0`, `500 µs`, `2.5 ms`.
pub(super) fn latency_tick(us: f64) -> String {
    match us {
        0.0 => "0".to_owned(),
        us if us < 1e3 => format!("{} µs", trimmed(us)),
        us if us < 1e6 => format!("{} ms", trimmed(us / 1e3)),
        us => format!("{} s", trimmed(us / 1e6)),
    }
}

/// Three significant digits for numbers below 1,000; grouped whole numbers above.
pub(super) fn three_digits(value: f64) -> String {
    match value.abs() {
        v if v < 9.995 => format!("{value:.2}"),
        v if v < 99.95 => format!("{value:.1}"),
        _ => whole(value),
    }
}

/// A number rounded to a whole one, in groups of three digits: `1,234,567`.
pub(super) fn whole(value: f64) -> String {
    group(&format!("{value:.0}"))
}

/// A count in groups of three digits: `1,234,567`.
pub(super) fn count(value: u64) -> String {
    group(&value.to_string())
}

fn group(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut out = String::from(sign);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A share of 1 as a percentage with one decimal: `12.5 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A size in bytes, in GiB with one decimal.
pub(super) fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1_u32 << 30))
}

/// Seconds without needless decimals: `10 s`, `0.5 s`.
pub(super) fn seconds(value: f64) -> String {
    format!("{} s", trimmed(value))
}

/// At most three decimals, none of them a trailing zero.
pub(super) fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A quantile as operators name it: 0.5 is `p50`, 0.9995 is `p99.95`.
pub(super) fn quantile(quantile: f64) -> String {
    let percentile = format!("{:.6}", quantile * 100.0);
    format!("p{}", percentile.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_change_unit_without_a_gap() {
        let texts = [0.0, 999.0, 999.6, 7_941.0, 99_960.0, 999_499.0, 999_600.0, 1.2e6, 3.6e9].map(latency);
        assert_eq!(
            texts,
            ["0 µs", "999 µs", "1.00 ms", "7.94 ms", "100 ms", "999 ms", "1.00 s", "1.20 s", "3,600 s"]
        );
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(whole(-12_345.6), "-12,346");
    }

    #[test]
    fn needless_decimals_go() {
        assert_eq!([10.0, 0.5, 0.1234, 100.0].map(seconds), ["10 s", "0.5 s", "0.123 s", "100 s"]);
        assert_eq!(
            [0.5, 0.9, 0.9995, 0.999999, 1.0].map(quantile),
            ["p50", "p90", "p99.95", "p99.9999", "p100"]
        );
        assert_eq!([0.0, 500.0, 2_500.0, 10e6].map(latency_tick), ["0", "500 µs", "2.5 ms", "10 s"]);
        assert_eq!((percent(0.125), gib(24 << 30)), ("12.5 %".to_owned(), "24.0 GiB".to_owned()));
    }
}
