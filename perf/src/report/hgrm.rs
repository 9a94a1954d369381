//! `latency.hgrm`: the percentile distribution, as the standard HdrHistogram plotter reads it.

use std::fmt::Write as _;

use super::LatencyHistogram;

/// Rows per halving of the distance to 100 %: HdrHistogram's own default.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Values are printed in milliseconds, the unit the plotters assume.
const US_PER_MS: f64 = 1_000.0;

/// The text that HdrHistogram's `outputPercentileDistribution` (Java) prints for a scaling ratio of 1,000.
/// (Where a tick falls exactly between two samples, as it may if they are few, rounding can pick the other.)
///
/// Columns are `Value` in milliseconds, `Percentile` as a share of 1, `TotalCount` up to that value, and
/// `1/(1-Percentile)`, which the last row leaves out for being infinite.
pub fn to_hgrm(latency: &LatencyHistogram) -> String {
    let histogram = latency.as_hdr();
    let digits = usize::from(histogram.sigfig());
    let mut out =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for row in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += row.count_since_last_iteration();
        let value = row.value_iterated_to() as f64 / US_PER_MS;
        let quantile = row.quantile_iterated_to();
        write!(out, "{value:12.digits$} {quantile:2.12} {total:10}").expect("writing to a String");
        if quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - quantile)).expect("writing to a String");
        }
        out.push('\n');
    }
    out + &footer(latency)
}

fn footer(latency: &LatencyHistogram) -> String {
    let histogram = latency.as_hdr();
    let digits = usize::from(histogram.sigfig());
    let [mean, deviation, max] =
        [histogram.mean(), histogram.stdev(), histogram.max() as f64].map(|us| us / US_PER_MS);
    format!(
        "#[Mean    = {mean:12.digits$}, StdDeviation   = {deviation:12.digits$}]\n\
         #[Max     = {max:12.digits$}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]\n",
        histogram.len(),
        histogram.buckets(),
        sub_buckets(histogram.sigfig()),
    )
}

/// Slots per bucket: the power of two that tells apart 2 × 10^`digits` values (HdrHistogram's layout).
fn sub_buckets(digits: u8) -> u64 {
    (2 * 10_u64.pow(u32::from(digits))).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What HdrHistogram 2.1.11 (Java) prints for this histogram; the bytes are its own.
    #[test]
    fn prints_what_the_java_library_prints() {
        let mut latency = LatencyHistogram::new();
        for us in 1..=1_000 {
            latency.record(us * 10);
        }
        latency.record_n(250_000, 3);
        assert_eq!(to_hgrm(&latency), include_str!("testdata/thousand_and_three.hgrm"));
    }

    #[test]
    fn an_empty_histogram_has_no_rows() {
        let text = to_hgrm(&LatencyHistogram::new());
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 2);
        assert!(text.contains("Total count    =            0]"));
    }
}
