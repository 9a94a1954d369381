//! How long transactions take from stage to stage, as HDR histograms.

use std::{fmt, io};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{
        DeserializeError, Deserializer as HdrDeserializer, Serializer as _, V2DeflateSerializer,
    },
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeMap};

/// Longest time that is told from longer ones, in µs: ten minutes.
const MAX_US: u64 = 600_000_000;
/// Decimal digits that a recorded time keeps: 1 %. A third digit would make the copy of the histograms, which a loop turn has
/// to bear whenever someone asks for them, seven times as long.
const SIGNIFICANT_DIGITS: u8 = 2;

/// The steps of a transaction's way through a validator, in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(usize)]
pub enum Stage {
    /// From the bytes' arrival until the record is checked and in the mempool.
    Ingress,
    /// Until its signature is verified.
    Verify,
    /// Until a block that holds it is proposed.
    Propose,
    /// Until that block is prepared by a quorum.
    Prepare,
    /// Until it is committed by a quorum.
    Commit,
    /// Until it is executed.
    Execute,
    /// Until its log record is durable.
    Durable,
    /// Until the reply is handed to the client's socket.
    Reply,
}

impl Stage {
    /// All stages, in their order.
    pub const ALL: [Stage; 8] = [
        Stage::Ingress,
        Stage::Verify,
        Stage::Propose,
        Stage::Prepare,
        Stage::Commit,
        Stage::Execute,
        Stage::Durable,
        Stage::Reply,
    ];

    /// The name in metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Ingress => "ingress",
            Stage::Verify => "verify",
            Stage::Propose => "propose",
            Stage::Prepare => "prepare",
            Stage::Commit => "commit",
            Stage::Execute => "execute",
            Stage::Durable => "durable",
            Stage::Reply => "reply",
        }
    }

    /// What the time is spent on, in a few words.
    pub fn meaning(self) -> &'static str {
        match self {
            Stage::Ingress => "read, framed and parsed",
            Stage::Verify => "signature verified",
            Stage::Propose => "placed in a block of its table",
            Stage::Prepare => "block prepared by a quorum",
            Stage::Commit => "block committed by a quorum",
            Stage::Execute => "accounts debited and credited",
            Stage::Durable => "log record synced to disk",
            Stage::Reply => "acknowledgement handed over",
        }
    }

    /// The stage of a name.
    pub fn from_name(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Clone, PartialEq)]
struct Times {
    /// Exact, unlike what the histogram's buckets would add up to.
    sum_us: u64,
    histogram: Histogram<u64>,
}

/// Times in µs, by stage. All memory is taken at the start.
///
/// As JSON an object by the stages' names, each `{"sumUs": …, "hdr": "…"}` with the base64 of HdrHistogram's compressed V2
/// encoding, so that histograms of several validators can be merged without loss by any HdrHistogram library.
#[derive(Clone, PartialEq)]
pub struct Stages([Times; Stage::ALL.len()]);

impl Stages {
    /// Nothing recorded yet.
    pub fn new() -> Stages {
        let histogram = Histogram::new_with_bounds(1, MAX_US, SIGNIFICANT_DIGITS).expect("bounds in order");
        Stages(std::array::from_fn(|_| Times { sum_us: 0, histogram: histogram.clone() }))
    }

    /// Records one time of `us` microseconds. Longer ones than ten minutes count as ten minutes.
    pub fn record(&mut self, stage: Stage, us: u64) {
        self.record_n(stage, us, 1);
    }

    /// Records a time that `count` transactions share, as those of one block do.
    pub fn record_n(&mut self, stage: Stage, us: u64, count: u64) {
        let times = &mut self.0[stage as usize];
        times.sum_us = times.sum_us.saturating_add(us.saturating_mul(count));
        times.histogram.saturating_record_n(us, count);
    }

    /// The histogram of a stage.
    pub fn get(&self, stage: Stage) -> &Histogram<u64> {
        &self.0[stage as usize].histogram
    }

    /// The sum of all times of a stage in µs.
    pub fn sum_us(&self, stage: Stage) -> u64 {
        self.0[stage as usize].sum_us
    }

    /// Adds all that another one has recorded.
    pub fn merge(&mut self, other: &Stages) {
        for (times, other) in self.0.iter_mut().zip(&other.0) {
            times.sum_us = times.sum_us.saturating_add(other.sum_us);
            times.histogram.add(&other.histogram).expect("all stages have the same bounds");
        }
    }
}

impl Default for Stages {
    fn default() -> Self {
        Stages::new()
    }
}

/// The figures, not the thousands of counts.
impl fmt::Debug for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = Stage::ALL.map(|stage| (stage.name(), self.get(stage).len(), self.get(stage).max()));
        f.debug_tuple("Stages").field(&figures).finish()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TimesJson {
    sum_us: u64,
    hdr: String,
}

impl Times {
    fn to_json(&self) -> TimesJson {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.histogram, &mut bytes)
            .expect("writing to memory fails only for counts of 2⁶³ and more");
        TimesJson { sum_us: self.sum_us, hdr: STANDARD.encode(bytes) }
    }
}

/// Why a text is no histogram of a stage.
#[derive(Debug, thiserror::Error)]
pub enum StageDecodeError {
    /// Not base64.
    #[error("the histogram is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// Not an encoded histogram.
    #[error("the histogram's encoding is damaged: {0}")]
    Encoding(#[from] DeserializeError),
    /// A histogram of other times than a validator records.
    #[error("the histogram holds values beyond ten minutes")]
    Range,
}

impl TryFrom<TimesJson> for Times {
    type Error = StageDecodeError;

    fn try_from(json: TimesJson) -> Result<Times, StageDecodeError> {
        let bytes = STANDARD.decode(json.hdr)?;
        let decoded: Histogram<u64> = HdrDeserializer::new().deserialize(&mut io::Cursor::new(bytes))?;
        let mut histogram =
            Histogram::new_with_bounds(1, MAX_US, SIGNIFICANT_DIGITS).expect("bounds in order");
        histogram.add(decoded).map_err(|_| StageDecodeError::Range)?;
        Ok(Times { sum_us: json.sum_us, histogram })
    }
}

impl Serialize for Stages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (stage, times) in Stage::ALL.iter().zip(&self.0) {
            map.serialize_entry(stage.name(), &times.to_json())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Stages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<String, TimesJson>::deserialize(deserializer)?;
        let mut stages = Stages::new();
        for (name, json) in map {
            let stage =
                Stage::from_name(&name).ok_or_else(|| D::Error::custom(format!("«{name}» is no stage")))?;
            stages.0[stage as usize] = json.try_into().map_err(D::Error::custom)?;
        }
        Ok(stages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_batches_and_clamps_outliers() {
        let mut stages = Stages::new();
        stages.record_n(Stage::Commit, 1000, 64);
        stages.record(Stage::Commit, 0);
        stages.record(Stage::Reply, u64::MAX);
        assert_eq!(stages.get(Stage::Commit).len(), 65);
        assert_eq!(stages.sum_us(Stage::Commit), 64_000);
        assert!((990..=1010).contains(&stages.get(Stage::Commit).value_at_quantile(0.5)));
        assert!(stages.get(Stage::Reply).max() >= MAX_US);
        assert_eq!(stages.get(Stage::Verify).len(), 0);
    }

    #[test]
    fn merging_over_json_loses_nothing() {
        let (mut left, mut right) = (Stages::new(), Stages::new());
        for us in 0..5000 {
            left.record(Stage::Verify, us * us);
            right.record_n(Stage::Verify, us, 3);
            right.record(Stage::Durable, us);
        }
        let over_json = |stages: &Stages| -> Stages {
            serde_json::from_str(&serde_json::to_string(stages).unwrap()).unwrap()
        };
        let mut merged = over_json(&left);
        merged.merge(&over_json(&right));
        left.merge(&right);
        assert_eq!(merged, left);
        assert_eq!(merged.get(Stage::Verify).len(), 20_000);
    }

    #[test]
    fn foreign_json_is_refused() {
        for (json, cause) in [
            (r#"{"lunch": {"sumUs": 1, "hdr": ""}}"#, "«lunch» is no stage"),
            (r#"{"verify": {"sumUs": 1, "hdr": "!"}}"#, "not base64"),
            (r#"{"verify": {"sumUs": 1, "hdr": "AAAAAAAA"}}"#, "encoding is damaged"),
        ] {
            let error = serde_json::from_str::<Stages>(json).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }

    #[test]
    fn copies_are_small() {
        let counts: usize = Stage::ALL.iter().map(|stage| Stages::new().get(*stage).distinct_values()).sum();
        assert!(counts * size_of::<u64>() <= 256 * 1024, "{counts} counts");
    }
}
