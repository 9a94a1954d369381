//! Latencies in microseconds, kept as an HDR histogram that serialises to text.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{DeserializeError, Deserializer, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Decimal digits every recorded latency keeps: 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// How many latencies of each size, in microseconds, to three significant digits.
///
/// Starts small and grows with the largest latency recorded (to 450 KB at most), so that one per second of a
/// run is affordable. As text, and so in JSON, it is the base64 of HdrHistogram's compressed V2 encoding: the
/// same bytes that an interval log carries.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LatencyHistogram(Histogram<u64>);

/// Text that is not an encoded histogram.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not base64.
    #[error("the histogram is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// Base64, but not of a histogram.
    #[error("the histogram's encoding is damaged: {0}")]
    Encoding(#[from] DeserializeError),
}

/// The figures a latency distribution is quoted by, in microseconds.
///
/// Each percentile is the largest value equivalent to it at the histogram's resolution, as HdrHistogram
/// reports it. All are 0 when nothing was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Latencies recorded.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest.
    pub max: u64,
}

impl LatencyHistogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self(
            Histogram::new(SIGNIFICANT_DIGITS).expect("three significant digits are within the allowed five"),
        )
    }

    /// Counts one latency of `us` microseconds.
    pub fn record(&mut self, us: u64) {
        self.record_n(us, 1);
    }

    /// Counts `count` latencies of `us` microseconds each.
    pub fn record_n(&mut self, us: u64, count: u64) {
        self.0.record_n(us, count).expect("a resizing histogram takes any u64");
    }

    /// Adds all that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("a resizing histogram takes any other");
    }

    /// Latencies recorded.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latency, in µs, that a share `quantile` (0 to 1) of those recorded does not exceed; 0 for none.
    pub fn at(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// The figures people quote.
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            count: self.len(),
            mean: self.0.mean(),
            p50: self.at(0.5),
            p90: self.at(0.9),
            p99: self.at(0.99),
            p999: self.at(0.999),
            max: self.0.max(),
        }
    }

    /// The histogram itself, for HdrHistogram's own tools.
    pub fn as_hdr(&self) -> &Histogram<u64> {
        &self.0
    }

    /// As text: base64 of the compressed V2 encoding.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.0, &mut bytes)
            .expect("writing to memory fails only for counts of 2^63 and more");
        STANDARD.encode(bytes)
    }

    /// Reads what [`encode`](Self::encode), or any HdrHistogram library, wrote.
    ///
    /// # Errors
    /// The text is not base64, or not of a histogram.
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        let bytes = STANDARD.decode(text)?;
        Ok(Deserializer::new().deserialize(&mut bytes.as_slice()).map(Histogram::into)?)
    }
}

/// The figures, not the thousands of counts.
impl fmt::Debug for LatencyHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LatencyHistogram").field(&self.percentiles()).finish()
    }
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Histogram<u64>> for LatencyHistogram {
    fn from(mut histogram: Histogram<u64>) -> Self {
        histogram.auto(true);
        Self(histogram)
    }
}

impl From<LatencyHistogram> for String {
    fn from(histogram: LatencyHistogram) -> Self {
        histogram.encode()
    }
}

impl TryFrom<String> for LatencyHistogram {
    type Error = DecodeError;

    fn try_from(text: String) -> Result<Self, DecodeError> {
        Self::decode(&text)
    }
}

impl FromIterator<u64> for LatencyHistogram {
    fn from_iter<I: IntoIterator<Item = u64>>(latencies_us: I) -> Self {
        let mut histogram = Self::new();
        latencies_us.into_iter().for_each(|us| histogram.record(us));
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_histogram_has_only_zeros() {
        assert_eq!(LatencyHistogram::new().percentiles(), Percentiles::default());
    }

    #[test]
    fn takes_the_largest_latency_there_is() {
        let histogram = LatencyHistogram::from_iter([1, u64::MAX]);
        assert_eq!(histogram.percentiles().max, u64::MAX);
    }

    #[test]
    fn merges_a_histogram_of_fixed_and_smaller_range() {
        let mut fixed = Histogram::new_with_bounds(1, 1_000, 2).expect("bounds in order");
        fixed.record(900).expect("in range");
        let mut all = LatencyHistogram::from_iter([1_000_000]);
        all.merge(&fixed.clone().into());
        assert_eq!(all.len(), 2);

        let mut grown = LatencyHistogram::from(fixed);
        grown.merge(&all);
        assert_eq!(grown.len(), 3);
        assert!(grown.percentiles().max >= 1_000_000);
    }

    #[test]
    fn refuses_what_is_no_histogram() {
        assert!(matches!(LatencyHistogram::decode("not base64!"), Err(DecodeError::Base64(_))));
        assert!(matches!(LatencyHistogram::decode("AAAAAAAA"), Err(DecodeError::Encoding(_))));
        let whole = LatencyHistogram::from_iter([5, 500, 50_000]).encode();
        assert!(LatencyHistogram::decode(&whole[..whole.len() / 8 * 4]).is_err());
    }

    proptest! {
        #[test]
        fn survives_its_own_encoding(latencies in prop::collection::vec(0..=u64::MAX, 0..200)) {
            let histogram = LatencyHistogram::from_iter(latencies);
            let back = LatencyHistogram::decode(&histogram.encode()).expect("just encoded");
            prop_assert_eq!(&back, &histogram);
        }

        #[test]
        fn bounds_every_percentile_within_its_resolution(
            mut latencies in prop::collection::vec(0..10_000_000_u64, 1..300),
        ) {
            let histogram = LatencyHistogram::from_iter(latencies.iter().copied());
            latencies.sort_unstable();
            for quantile in [0.5, 0.9, 0.99, 0.999] {
                let rank = (1..=latencies.len()).find(|&r| r as f64 >= quantile * latencies.len() as f64);
                let exact = latencies[rank.expect("quantiles are below 1") - 1];
                let reported = histogram.at(quantile);
                prop_assert!(exact <= reported && reported as f64 <= exact as f64 * 1.001 + 1.0);
            }
        }
    }
}
