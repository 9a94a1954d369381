//! Counts and latencies of a run, as they happen.

use std::{collections::BTreeMap, time::Duration};

use dag::client::Code;

use super::schedule::Schedule;
use crate::report::{LatencyHistogram, Sample};

/// Longest interval, nanoseconds.
const INTERVAL: u64 = 1_000_000_000;

/// Part of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Load that is not measured yet.
    WarmUp,
    /// The measured time.
    Measured,
    /// No more load; outstanding replies are waited for.
    Drain,
}

/// How a run stands, told once per interval.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The part of the run that the interval was in.
    pub phase: Phase,
    /// Since the first transaction was due.
    pub elapsed: Duration,
    /// Transactions due so far, warm-up included (as in the next two).
    pub offered: u64,
    /// Acknowledged so far.
    pub acked: u64,
    /// Finally refused so far.
    pub rejected: u64,
    /// The interval that has just ended.
    pub interval: Interval,
}

/// One interval of [`Progress`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Interval {
    /// How long it was.
    pub seconds: f64,
    /// Transactions due in it.
    pub offered: u64,
    /// Transactions acknowledged in it.
    pub acked: u64,
    /// Median latency of those, µs.
    pub p50_us: u64,
    /// 99th percentile of their latencies, µs.
    pub p99_us: u64,
}

/// What has happened so far. All times are nanoseconds since the first transaction was due.
#[derive(Debug)]
pub struct Recorder {
    schedule: Schedule,
    totals: Totals,
    /// Everything acknowledged or refused, warm-up included.
    acked: u64,
    rejected: u64,
    interval_start: u64,
    interval: LatencyHistogram,
    samples: Vec<Sample>,
}

/// Figures of the measured time.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Latencies of the transactions due in it.
    pub latency: LatencyHistogram,
    /// Final refusals of the transactions due in it.
    pub rejected: BTreeMap<Code, u64>,
    /// Acknowledgements received in it, whenever the transactions were due.
    pub acked_in_time: u64,
    /// Sent again over another connection (in the whole run).
    pub resubmitted: u64,
    /// Sent again after a refusal that said "later" (in the whole run).
    pub retried: u64,
}

impl Recorder {
    /// A recorder that has seen nothing.
    pub fn new(schedule: Schedule) -> Recorder {
        Recorder {
            schedule,
            totals: Totals::default(),
            acked: 0,
            rejected: 0,
            interval_start: 0,
            interval: LatencyHistogram::new(),
            samples: Vec::new(),
        }
    }

    /// When transactions are due.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Ends the load now.
    pub fn stop(&mut self, now: u64) {
        self.schedule.end_at(now);
    }

    /// A transaction due at `intended` is acknowledged.
    pub fn committed(&mut self, intended: u64, now: u64) {
        let us = now.saturating_sub(intended) / 1_000;
        self.acked += 1;
        self.interval.record(us);
        if intended >= self.schedule.measured_from {
            self.totals.latency.record(us);
        }
        self.totals.acked_in_time +=
            u64::from((self.schedule.measured_from..self.schedule.end).contains(&now));
    }

    /// A transaction due at `intended` is refused for good.
    pub fn refused(&mut self, code: Code, intended: u64) {
        self.rejected += 1;
        if intended >= self.schedule.measured_from {
            *self.totals.rejected.entry(code).or_default() += 1;
        }
    }

    /// So many were on their way over a connection that is lost or left.
    pub fn resubmitted(&mut self, count: usize) {
        self.totals.resubmitted += u64::try_from(count).expect("usize is at most 64 bits");
    }

    /// A refusal that is tried again.
    pub fn retried(&mut self) {
        self.totals.retried += 1;
    }

    /// Ends the next interval that is over. To be called until it gives nothing, before anything later is recorded.
    pub fn roll(&mut self, now: u64) -> Option<Progress> {
        let end = self.interval_end();
        (now >= end).then(|| self.end_interval(end))
    }

    /// Ends the last interval, where anything was acknowledged in it. Returns the figures.
    pub fn finish(mut self, now: u64) -> (Totals, Vec<Sample>) {
        if !self.interval.is_empty() && now > self.interval_start {
            self.end_interval(now);
        }
        (self.totals, self.samples)
    }

    /// Intervals are whole seconds, except where the measured time begins or ends between.
    fn interval_end(&self) -> u64 {
        let start = self.interval_start;
        let cuts = [start + INTERVAL, self.schedule.measured_from, self.schedule.end];
        cuts.into_iter().filter(|&cut| cut > start).min().expect("the first is later")
    }

    fn phase(&self) -> Phase {
        if self.interval_start >= self.schedule.end {
            Phase::Drain
        } else if self.interval_start >= self.schedule.measured_from {
            Phase::Measured
        } else {
            Phase::WarmUp
        }
    }

    fn end_interval(&mut self, end: u64) -> Progress {
        let (start, phase) = (self.interval_start, self.phase());
        let latency = std::mem::take(&mut self.interval);
        self.interval_start = end;
        let due = self.schedule.due_before(end);
        let interval = Interval {
            seconds: seconds(end - start),
            offered: due - self.schedule.due_before(start),
            acked: latency.len(),
            p50_us: latency.at(0.5),
            p99_us: latency.at(0.99),
        };
        if start >= self.schedule.measured_from {
            self.samples.push(Sample {
                start_s: seconds(start - self.schedule.measured_from),
                duration_s: interval.seconds,
                offered: interval.offered,
                committed: interval.acked,
                latency,
            });
        }
        let elapsed = Duration::from_nanos(end);
        Progress { phase, elapsed, offered: due, acked: self.acked, rejected: self.rejected, interval }
    }
}

/// Nanoseconds as seconds.
pub fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn recorder() -> Recorder {
        Recorder::new(Schedule::new(1_000, Duration::from_millis(500), Duration::from_millis(1_700)))
    }

    fn roll(recorder: &mut Recorder, now: u64) -> Vec<(Phase, u64, u64)> {
        std::iter::from_fn(|| recorder.roll(now))
            .map(|progress| (progress.phase, progress.interval.offered, progress.interval.acked))
            .collect()
    }

    #[test]
    fn intervals_are_cut_where_the_measured_time_begins_and_ends() {
        let mut recorder = recorder();
        recorder.committed(0, 100 * MS);
        assert_eq!(roll(&mut recorder, 499 * MS), []);
        assert_eq!(roll(&mut recorder, 500 * MS), [(Phase::WarmUp, 500, 1)]);
        recorder.committed(700 * MS, 900 * MS);
        let stall = roll(&mut recorder, 2_300 * MS);
        assert_eq!(stall, [(Phase::Measured, 1_000, 1), (Phase::Measured, 700, 0)]);
        recorder.committed(800 * MS, 2_400 * MS);
        let (totals, samples) = recorder.finish(2_500 * MS);
        assert_eq!(samples.iter().map(|sample| sample.committed).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!(samples.iter().map(|sample| sample.start_s).collect::<Vec<_>>(), [0.0, 1.0, 1.7]);
        assert!((samples[2].duration_s - 0.3).abs() < 1e-9);
        assert_eq!((totals.latency.len(), totals.acked_in_time), (2, 1));
    }

    #[test]
    fn the_warm_up_is_not_measured() {
        let mut recorder = recorder();
        recorder.refused(Code::Overdraft, 499 * MS);
        recorder.refused(Code::Overdraft, 500 * MS);
        recorder.committed(499 * MS, 501 * MS);
        let progress = recorder.roll(500 * MS).unwrap();
        assert_eq!((progress.offered, progress.acked, progress.rejected), (500, 1, 2));
        let (totals, _) = recorder.finish(600 * MS);
        assert_eq!(totals.rejected, BTreeMap::from([(Code::Overdraft, 1)]));
        assert_eq!((totals.latency.len(), totals.acked_in_time), (0, 1));
    }

    #[test]
    fn a_stop_ends_the_load() {
        let mut recorder = recorder();
        assert_eq!(roll(&mut recorder, 800 * MS), [(Phase::WarmUp, 500, 0)]);
        recorder.stop(800 * MS);
        assert_eq!(roll(&mut recorder, 800 * MS), [(Phase::Measured, 300, 0)]);
        assert_eq!(roll(&mut recorder, 1_900 * MS), [(Phase::Drain, 0, 0)]);
    }
}
