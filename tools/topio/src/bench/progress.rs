//! The progress line of a run: redrawn in place on a terminal, a line a second elsewhere. On standard error.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{HumanCount, HumanFloatCount, ProgressBar, ProgressStyle};
use perf::loadgen::{Phase, Progress};

/// Where progress goes.
pub struct ProgressLine {
    bar: Option<ProgressBar>,
}

impl ProgressLine {
    /// On a terminal, a bar over `length`; elsewhere lines.
    pub fn new(length: Duration) -> ProgressLine {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(millis(length));
            bar.set_style(ProgressStyle::with_template("{bar:24} {msg}").expect("a fixed template"));
            bar
        });
        ProgressLine { bar }
    }

    /// Shows what is done before the load, such as signing.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => eprintln!("{text}"),
        }
    }

    /// Shows a step of such work on a terminal; elsewhere it would be too many lines.
    pub fn step(&self, text: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text());
        }
    }

    /// Shows how the load stands.
    pub fn show(&self, progress: &Progress) {
        let text = text(progress);
        match &self.bar {
            Some(bar) => {
                bar.set_position(millis(progress.elapsed));
                bar.set_message(text);
            }
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn text(progress: &Progress) -> String {
    let interval = &progress.interval;
    let phase = match progress.phase {
        Phase::WarmUp => "warm-up",
        Phase::Measured => "load",
        Phase::Drain => "drain",
    };
    let rate = |count: u64| HumanFloatCount((count as f64 / interval.seconds.max(1e-3)).round());
    let latency = |us: u64| format!("{:.1?}", Duration::from_micros(us));
    let mut text = format!(
        "{phase} {:.0} s  offered {}/s  committed {}/s",
        progress.elapsed.as_secs_f64(),
        rate(interval.offered),
        rate(interval.acked)
    );
    if interval.acked > 0 {
        text += &format!("  p50 {}  p99 {}", latency(interval.p50_us), latency(interval.p99_us));
    }
    if progress.rejected > 0 {
        text += &format!("  refused {} in all", HumanCount(progress.rejected));
    }
    text
}

#[cfg(test)]
mod tests {
    use perf::loadgen::Interval;

    use super::*;

    #[test]
    fn a_line_says_what_happened_in_its_second() {
        let interval = Interval { seconds: 0.5, offered: 2_500, acked: 2_400, p50_us: 4_100, p99_us: 12_000 };
        let elapsed = Duration::from_millis(3_001);
        let progress =
            Progress { phase: Phase::Measured, elapsed, offered: 1, acked: 1, rejected: 1_200, interval };
        assert_eq!(
            text(&progress),
            "load 3 s  offered 5,000/s  committed 4,800/s  p50 4.1ms  p99 12.0ms  refused 1,200 in all"
        );
        let silent = Interval { acked: 0, ..interval };
        let progress = Progress { phase: Phase::Drain, rejected: 0, interval: silent, ..progress };
        assert_eq!(text(&progress), "drain 3 s  offered 5,000/s  committed 0/s");
    }
}
