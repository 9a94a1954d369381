//! What a core measures about itself, always.
//!
//! A core keeps plain numbers of its own: its loop's counters, a [`CoreUse`] and the [`Stages`]. Nothing is shared and nothing is
//! atomic. When someone asks, the core copies them into a [`CoreMetrics`], once; the asking side merges those of all cores,
//! or of all validators, and renders them for [Prometheus](CoreMetrics::to_prometheus) or as JSON (serde).

mod core_use;
mod process;
pub mod prometheus;
mod stages;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use core_use::{CoreUse, Phase};
pub use process::{ProcessUse, thread_cpu};
pub use stages::{Stage, StageDecodeError, Stages};

/// How a sample behaves over time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SampleKind {
    /// Counts up from the start of the process. Its Prometheus name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One number with its name. Names are Prometheus', without the prefix `topio_`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// The name.
    pub name: Cow<'static, str>,
    /// A label and its value, where one name has several numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<(Cow<'static, str>, Cow<'static, str>)>,
    /// One line that says what is counted.
    pub help: Cow<'static, str>,
    /// Counter or gauge.
    pub kind: SampleKind,
    /// The number.
    pub value: u64,
}

impl Sample {
    fn key(&self) -> (&str, Option<(&str, &str)>) {
        (&self.name, self.label.as_ref().map(|(label, value)| (&**label, &**value)))
    }
}

/// A copy of a core's numbers; merged, those of a validator or of a network.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoreMetrics {
    /// Where the time of each merged core went.
    pub cores: Vec<CoreUse>,
    /// Counters and gauges, by ascending name and label.
    samples: Vec<Sample>,
    /// How long transactions took, stage by stage.
    pub stages: Stages,
}

impl CoreMetrics {
    /// The metrics of one core, without counters yet.
    pub fn new(core_use: CoreUse, stages: Stages) -> CoreMetrics {
        CoreMetrics { cores: vec![core_use], samples: Vec::new(), stages }
    }

    /// Adds to the counter `name`, which ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        debug_assert!(name.ends_with("_total"), "Prometheus wants counters to end in _total: {name}");
        self.add(Sample {
            name: name.into(),
            label: None,
            help: help.into(),
            kind: SampleKind::Counter,
            value,
        });
    }

    /// Adds to one of several counters of a name, told apart by a label such as `("cause", "overdraft")`.
    pub fn labelled_counter(
        &mut self,
        name: &'static str,
        label: (&'static str, &'static str),
        help: &'static str,
        value: u64,
    ) {
        let label = Some((label.0.into(), label.1.into()));
        self.add(Sample { name: name.into(), label, help: help.into(), kind: SampleKind::Counter, value });
    }

    /// Adds to the gauge `name`. Merged, gauges of several cores add up.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(Sample {
            name: name.into(),
            label: None,
            help: help.into(),
            kind: SampleKind::Gauge,
            value,
        });
    }

    /// Adds a sample to the one of its name and label. Sums saturate.
    pub fn add(&mut self, sample: Sample) {
        match self.samples.binary_search_by(|other| other.key().cmp(&sample.key())) {
            Ok(place) => {
                let value = &mut self.samples[place].value;
                *value = value.saturating_add(sample.value);
            }
            Err(place) => self.samples.insert(place, sample),
        }
    }

    /// Counters and gauges, by ascending name and label.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The counters and gauges alone.
    pub fn into_samples(self) -> Vec<Sample> {
        self.samples
    }

    /// The sum of all samples of a name; zero where there is none.
    pub fn value(&self, name: &str) -> u64 {
        let samples = self.samples.iter().filter(|sample| sample.name == name);
        samples.fold(0, |sum, sample| sum.saturating_add(sample.value))
    }

    /// Adds another core's, or another validator's, numbers.
    pub fn merge(&mut self, other: CoreMetrics) {
        self.cores.extend(other.cores);
        other.samples.into_iter().for_each(|sample| self.add(sample));
        self.stages.merge(&other.stages);
    }
}

/// A node's metrics, as the RPC method `getMetrics` answers.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NodeMetrics {
    /// The whole process.
    pub process: ProcessUse,
    /// Its cores, merged.
    pub metrics: CoreMetrics,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(core: u16, frames: u64) -> CoreMetrics {
        let mut stages = Stages::new();
        stages.record_n(Stage::Verify, 100 * (u64::from(core) + 1), 10);
        let mut core_use = CoreUse::new(core);
        core_use.charge(Phase::Verify, 700);
        core_use.idle(300);
        let mut metrics = CoreMetrics::new(core_use, stages);
        metrics.counter("frames_total", "Frames.", frames);
        metrics.labelled_counter("rejected_total", ("cause", "overdraft"), "Refused.", 1);
        metrics.labelled_counter("rejected_total", ("cause", "bad signature"), "Refused.", 2);
        metrics.gauge("mempool_bytes", "Bytes.", 5);
        metrics
    }

    #[test]
    fn merging_adds_what_has_one_name() {
        let mut all = core(0, 3);
        all.merge(core(1, 4));
        assert_eq!(all.value("frames_total"), 7);
        assert_eq!(all.value("rejected_total"), 6);
        assert_eq!(all.value("mempool_bytes"), 10);
        assert_eq!(all.value("nothing"), 0);
        assert_eq!(all.samples().len(), 4);
        assert_eq!(all.cores.len(), 2);
        assert_eq!(all.stages.get(Stage::Verify).len(), 20);
        all.add(Sample { value: u64::MAX, ..all.samples()[0].clone() });
        assert_eq!(all.value("frames_total"), u64::MAX);
    }

    #[test]
    fn json_round_trip() {
        let mut all = core(0, 3);
        all.merge(core(1, 4));
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<CoreMetrics>(&json).unwrap(), all);
    }
}
