//! What validators measure about themselves while a load runs: asked over RPC, each by a thread of its own, so that one that is
//! slow or down holds up neither the load nor the others.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use engine::metrics::{CoreMetrics, CoreUse as Counters, NodeMetrics, Phase};
use perf::report::{CoreUse, LatencyHistogram, RelayUse, Sample, Shares, Stage, ValidatorUse};

use crate::rpc::Rpc;

/// How long a validator may take to tell its metrics: less than an interval, so that questions never pile up …
const PATIENCE: Duration = Duration::from_millis(800);
/// … except for the last one, which no other follows.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// When to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    /// What is measured begins here, unless another such moment follows.
    Begin,
    /// An interval is over.
    Interval,
    /// All is over.
    End,
}

/// The observers of all validators.
pub struct Observers(Vec<Observer>);

struct Observer {
    name: String,
    moments: Sender<Moment>,
    thread: JoinHandle<Observation>,
}

/// What one validator told; `None` where it did not answer.
#[derive(Clone, Debug, Default)]
struct Observation {
    begin: Option<NodeMetrics>,
    /// At the end of each interval.
    intervals: Vec<Option<Vec<Counters>>>,
    end: Option<NodeMetrics>,
}

/// What the run cost the validators, and where the time of its transactions went.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By validator, those that told nothing left out.
    pub validators: Vec<ValidatorUse>,
    /// What they relayed meanwhile.
    pub relays: Vec<RelayUse>,
    /// By stage, merged over validators.
    pub stages: Vec<(Stage, LatencyHistogram)>,
}

impl Observers {
    /// Observers of these validators, which have a name each.
    pub fn start(validators: Vec<(String, Rpc)>) -> Observers {
        let start = |(name, rpc): (String, Rpc)| {
            let (moments, asked) = channel();
            let thread = thread::spawn(move || observe(&rpc, &asked));
            Observer { name, moments, thread }
        };
        Observers(validators.into_iter().map(start).collect())
    }

    /// What is measured begins now, unless this is called again.
    pub fn begin(&self) {
        self.tell(Moment::Begin);
    }

    /// An interval is over.
    pub fn interval(&self) {
        self.tell(Moment::Interval);
    }

    /// All is over. `samples` are the run's intervals.
    pub fn end(self, samples: &[Sample]) -> Observed {
        self.tell(Moment::End);
        let mut observed = Observed::default();
        let mut stages = Stage::ALL.map(|stage| (stage, LatencyHistogram::new()));
        for Observer { name, moments, thread } in self.0 {
            drop(moments);
            let observation = thread.join().expect("an observer does not panic");
            observed.relays.extend(observation.relays(&name));
            observed.validators.extend(observation.cost(name, samples.len()));
            observation.add_stages(&mut stages);
        }
        observed.stages = stages.into_iter().filter(|(_, times)| !times.is_empty()).collect();
        observed
    }

    fn tell(&self, moment: Moment) {
        // An observer ends only when its channel does, so it takes all.
        self.0.iter().for_each(|observer| observer.moments.send(moment).expect("the observer listens"));
    }
}

fn observe(rpc: &Rpc, moments: &Receiver<Moment>) -> Observation {
    let mut observation = Observation::default();
    let (hasty, last) = (rpc.with_timeout(PATIENCE), rpc.with_timeout(LAST_PATIENCE));
    for moment in moments {
        let metrics = if moment == Moment::End { last.metrics() } else { hasty.metrics() }.ok();
        match moment {
            Moment::Begin => observation = Observation { begin: metrics, ..Observation::default() },
            Moment::Interval => observation.intervals.push(metrics.map(|metrics| metrics.metrics.cores)),
            Moment::End => observation.end = metrics,
        }
    }
    observation
}

impl Observation {
    /// What the run cost; `None` where the validator was not there at the end.
    fn cost(&self, name: String, samples: usize) -> Option<ValidatorUse> {
        let end = self.end.as_ref()?;
        let before = self.begin.as_ref().map_or(0.0, |begin| begin.process.cpu_seconds);
        let cpu_seconds = end.process.cpu_seconds;
        let cpu_seconds = if cpu_seconds < before { cpu_seconds } else { cpu_seconds - before };
        let cores = &end.metrics.cores;
        Some(ValidatorUse {
            name,
            cpu_seconds,
            cores: cores.iter().map(|core| self.core(core, samples)).collect(),
        })
    }

    /// What the validator relayed.
    fn relays(&self, name: &str) -> Vec<RelayUse> {
        let Some(end) = &self.end else { return Vec::new() };
        // Where the validator was restarted its counters began anew.
        let began = |begin: &&NodeMetrics| begin.process.cpu_seconds <= end.process.cpu_seconds;
        let begin = self.begin.as_ref().filter(began).map(|begin| &begin.metrics);
        let before = |core| begin.and_then(|begin| find(&begin.cores, core));
        let spent = end.metrics.cores.iter().map(|core| since(core, before(core.core)));
        let (relay, all) = spent
            .fold((0, 0), |(relay, all), core| (relay + core.phase_ns(Phase::Relay), all + passed(&core)));
        RelayUse::between(name, begin, &end.metrics, relay as f64 / all.max(1) as f64)
    }

    fn core(&self, end: &Counters, samples: usize) -> CoreUse {
        let begin = self.begin.as_ref().and_then(|begin| find(&begin.metrics.cores, end.core));
        let spent = since(end, begin);
        let points = self.points(end);
        CoreUse {
            core: end.core.into(),
            cpu_seconds: spent.cpu_ns as f64 / 1e9,
            total: shares(&spent),
            over_time: (0..samples).map(|index| interval(&points, index)).collect(),
        }
    }

    /// A core's counters at the beginning, after each interval, and at the end.
    fn points(&self, end: &Counters) -> Vec<Option<Counters>> {
        let begin = self.begin.as_ref().and_then(|begin| find(&begin.metrics.cores, end.core)).copied();
        let after = |cores: &Option<Vec<Counters>>| find(cores.as_ref()?, end.core).copied();
        [begin].into_iter().chain(self.intervals.iter().map(after)).chain([Some(*end)]).collect()
    }

    fn add_stages(&self, merged: &mut [(Stage, LatencyHistogram)]) {
        let Some(end) = &self.end else { return };
        let begin = self.begin.as_ref().map(|begin| &begin.metrics);
        for (stage, times) in merged {
            times.merge(&stage_times(&end.metrics, begin, *stage));
        }
    }
}

/// Times of a stage between two copies of a validator's metrics.
fn stage_times(end: &CoreMetrics, begin: Option<&CoreMetrics>, stage: Stage) -> LatencyHistogram {
    let mut times = end.stages.get(stage).clone();
    if let Some(begin) = begin {
        // Fails where the validator was restarted in between: then all it has is from after the beginning.
        if times.subtract(begin.stages.get(stage)).is_err() {
            times = end.stages.get(stage).clone();
        }
    }
    times.into()
}

fn find(cores: &[Counters], core: u16) -> Option<&Counters> {
    cores.iter().find(|counters| counters.core == core)
}

fn passed(counters: &Counters) -> u64 {
    counters.busy_ns() + counters.blocked_ns + counters.idle_ns
}

/// What was charged since `before`; all of it where the counters began anew.
fn since(after: &Counters, before: Option<&Counters>) -> Counters {
    let Some(before) = before.filter(|before| passed(before) <= passed(after)) else { return *after };
    let mut phases_ns = after.phases_ns;
    for (ns, before) in phases_ns.iter_mut().zip(before.phases_ns) {
        *ns = ns.saturating_sub(before);
    }
    Counters {
        core: after.core,
        cpu_ns: after.cpu_ns.saturating_sub(before.cpu_ns),
        blocked_ns: after.blocked_ns.saturating_sub(before.blocked_ns),
        idle_ns: after.idle_ns.saturating_sub(before.idle_ns),
        phases_ns,
    }
}

fn shares(spent: &Counters) -> Shares {
    let total = passed(spent).max(1) as f64;
    let share = |ns: u64| ns as f64 / total;
    Shares { busy: share(spent.busy_ns()), blocked: share(spent.blocked_ns), idle: share(spent.idle_ns) }
}

/// The shares between point `index` and the next one; where one is missing, between the nearest ones around.
fn interval(points: &[Option<Counters>], index: usize) -> Shares {
    let last = points.len() - 1;
    let before = points[..=index.min(last)].iter().rev().flatten().next();
    let after = points[(index + 1).min(last)..].iter().flatten().next();
    after.map_or_else(Shares::default, |after| shares(&since(after, before)))
}

#[cfg(test)]
mod tests {
    use engine::metrics::{ProcessUse, Stages};

    use super::*;

    fn counters(busy: u64, idle: u64) -> Counters {
        let mut counters = Counters::new(0);
        counters.charge(Phase::Verify, busy);
        counters.idle(idle);
        counters
    }

    fn metrics(cpu_seconds: f64, busy: u64, idle: u64, times: u64) -> NodeMetrics {
        let mut stages = Stages::new();
        stages.record_n(Stage::Commit, 100, times);
        let process = ProcessUse { cpu_seconds, resident_bytes: 0 };
        NodeMetrics { process, metrics: CoreMetrics::new(counters(busy, idle), stages) }
    }

    fn stages(observation: &Observation) -> u64 {
        let mut merged = Stage::ALL.map(|stage| (stage, LatencyHistogram::new()));
        observation.add_stages(&mut merged);
        merged.iter().map(|(_, times)| times.len()).sum()
    }

    #[test]
    fn what_was_before_does_not_count() {
        let observation = Observation {
            begin: Some(metrics(1.0, 100, 100, 10)),
            intervals: vec![Some(vec![counters(200, 100)]), None, Some(vec![counters(200, 300)])],
            end: Some(metrics(3.5, 300, 300, 17)),
        };
        let cost = observation.cost("v0".into(), 4).unwrap();
        assert_eq!(cost.cpu_seconds, 2.5);
        assert_eq!((cost.cores[0].total.busy, cost.cores[0].total.idle), (0.5, 0.5));
        let busy: Vec<f64> = cost.cores[0].over_time.iter().map(|shares| shares.busy).collect();
        assert_eq!(busy, [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(stages(&observation), 7);
    }

    #[test]
    fn a_restart_and_silence_are_survived() {
        let restarted = Observation {
            begin: Some(metrics(9.0, 500, 500, 10)),
            intervals: vec![],
            end: Some(metrics(1.0, 30, 10, 3)),
        };
        let cost = restarted.cost("v0".into(), 1).unwrap();
        assert_eq!((cost.cpu_seconds, cost.cores[0].total.busy), (1.0, 0.75));
        assert_eq!(stages(&restarted), 3);
        assert_eq!(Observation::default().cost("v0".into(), 1), None);
        assert_eq!(stages(&Observation::default()), 0);
    }
}
