//! Throughput and latency over the time of the run.

use maud::{Markup, html};

use super::svg::{Axis, Plot, Tick, WIDTH, grid, hover_column, points};
use super::{Sample, format};

const HEIGHT: f64 = 230.0;

/// More points than this are not told apart on a page.
const MAX_POINTS: usize = 240;

/// Intervals of a run, few enough to draw.
pub(super) struct Timeline(Vec<Sample>);

impl Timeline {
    /// Joins neighbours, as many as needed: counts add up and histograms merge, so no latency is averaged
    /// away.
    pub(super) fn of(samples: &[Sample]) -> Self {
        let joined = samples.len().div_ceil(MAX_POINTS).max(1);
        Self(samples.chunks(joined).map(join).collect())
    }

    /// Offered and committed transactions per second.
    pub(super) fn throughput(&self) -> Markup {
        let plot = Plot::of_height(HEIGHT);
        let Some(x) = self.x_axis(plot) else { return none() };
        let most =
            self.0.iter().map(|s| s.offered_per_second().max(s.committed_per_second())).fold(0.0, f64::max);
        let y = Axis::from_zero(most, plot);
        let y_ticks: Vec<Tick> = y.ticks().into_iter().map(|rate| (y.at(rate), rate_tick(rate))).collect();
        let steps = |rate: fn(&Sample) -> f64| steps(&self.0, &x, &y, rate);
        let committed = steps(Sample::committed_per_second);
        let area = under(&committed, plot);
        html! {
            svg.chart viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
                aria-label="Offered and committed transactions per second over the run" {
                (grid(plot, &time_ticks(&x), &y_ticks, "Seconds into the run"))
                polygon.area.series-a points=(points(area)) {}
                polyline.line.series-a points=(points(committed)) {}
                polyline.line.series-n points=(points(steps(Sample::offered_per_second))) {}
                @for sample in &self.0 {
                    @let (offered, committed) = (sample.offered_per_second(), sample.committed_per_second());
                    @let marks = [(y.at(offered), "series-n"), (y.at(committed), "series-a")];
                    (hover_column(plot, x.at(sample.start_s), x.at(end(sample)), &marks, &format!(
                        "{}: offered {} /s, committed {} /s",
                        span(sample), format::whole(offered), format::whole(committed))))
                }
            }
        }
    }

    /// Median and 99th percentile of each interval, with the span between them filled.
    pub(super) fn latency(&self) -> Markup {
        let plot = Plot::of_height(HEIGHT);
        let Some(x) = self.x_axis(plot) else { return none() };
        let heard = || self.0.iter().filter(|s| !s.latency.is_empty());
        let quantile = |q| move |s: &Sample| s.latency.at(q) as f64;
        let least = heard().map(quantile(0.5)).fold(f64::INFINITY, f64::min);
        let y = Axis::for_latency(least, heard().map(quantile(0.99)).fold(0.0, f64::max), plot);
        let y_ticks: Vec<Tick> =
            y.ticks().into_iter().map(|us| (y.at(us), format::latency_tick(us))).collect();
        let caption = if y.is_logarithmic() {
            "Seconds into the run (latency on a logarithmic scale)"
        } else {
            "Seconds into the run"
        };
        html! {
            svg.chart viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
                aria-label="Median and 99th percentile latency over the run" {
                (grid(plot, &time_ticks(&x), &y_ticks, caption))
                // An interval without an acknowledgement has no latency: the lines break there.
                @for stretch in self.0.split(|s| s.latency.is_empty()).filter(|stretch| !stretch.is_empty()) {
                    @let [p50, p99] = [0.5, 0.99].map(|q| steps(stretch, &x, &y, quantile(q)));
                    polygon.area.series-b points=(points(p99.iter().chain(p50.iter().rev()).copied())) {}
                    @for (line, class) in [(&p50, "series-a"), (&p99, "series-b")] {
                        polyline class={ "line " (class) } points=(points(line.iter().copied())) {}
                    }
                }
                @for sample in heard() {
                    @let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| sample.latency.at(q));
                    @let marks = [(y.at(p50 as f64), "series-a"), (y.at(p99 as f64), "series-b")];
                    (hover_column(plot, x.at(sample.start_s), x.at(end(sample)), &marks, &format!(
                        "{}: p50 {}, p99 {}, max {}", span(sample),
                        format::latency_us(p50), format::latency_us(p99), format::latency_us(max))))
                }
            }
        }
    }

    /// Whether the run was sampled at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Both charts as numbers.
    pub(super) fn table(&self) -> Markup {
        html! {
            table {
                thead { tr {
                    @for heading in ["Interval", "Offered /s", "Committed /s", "p50", "p99", "max"] {
                        th scope="col" { (heading) }
                    }
                } }
                tbody {
                    @for sample in &self.0 {
                        tr {
                            th scope="row" { (span(sample)) }
                            td { (format::whole(sample.offered_per_second())) }
                            td { (format::whole(sample.committed_per_second())) }
                            @for quantile in [0.5, 0.99, 1.0] {
                                @let latency = &sample.latency;
                                td { (format::latency_if_any(latency.len(), latency.at(quantile))) }
                            }
                        }
                    }
                }
            }
        }
    }

    fn x_axis(&self, plot: Plot) -> Option<Axis> {
        let until = self.0.iter().map(end).fold(0.0, f64::max);
        (until > 0.0).then(|| Axis::linear(0.0, until, plot.left, plot.right))
    }
}

fn join(samples: &[Sample]) -> Sample {
    let (first, rest) = samples.split_first().expect("chunks are not empty");
    let mut joined = first.clone();
    for sample in rest {
        joined.duration_s = end(sample) - joined.start_s;
        joined.offered += sample.offered;
        joined.committed += sample.committed;
        joined.latency.merge(&sample.latency);
    }
    joined
}

fn end(sample: &Sample) -> f64 {
    sample.start_s + sample.duration_s
}

/// A line that holds each interval's value from its start to its end.
fn steps(samples: &[Sample], x: &Axis, y: &Axis, value: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    let level = |s: &Sample| [(x.at(s.start_s), y.at(value(s))), (x.at(end(s)), y.at(value(s)))];
    samples.iter().flat_map(level).collect()
}

fn span(sample: &Sample) -> String {
    format!("{}–{} s", format::trimmed(sample.start_s), format::trimmed(end(sample)))
}

fn time_ticks(x: &Axis) -> Vec<Tick> {
    x.ticks().into_iter().map(|seconds| (x.at(seconds), format::trimmed(seconds))).collect()
}

fn rate_tick(rate: f64) -> String {
    if rate >= 10.0 || rate == 0.0 { format::whole(rate) } else { format::trimmed(rate) }
}

/// The outline of what lies under a line.
fn under(line: &[(f64, f64)], plot: Plot) -> Vec<(f64, f64)> {
    let ends = line.last().into_iter().chain(line.first()).map(|(x, _)| (*x, plot.bottom));
    line.iter().copied().chain(ends).collect()
}

fn none() -> Markup {
    html! { p.none { "The run was not sampled over time." } }
}

#[cfg(test)]
mod tests {
    use super::super::{LatencyHistogram, fixture};
    use super::*;

    fn second(start: u32, latencies: &[u64]) -> Sample {
        Sample {
            start_s: f64::from(start),
            duration_s: 1.0,
            offered: 10,
            committed: latencies.len() as u64,
            latency: latencies.iter().copied().collect(),
        }
    }

    #[test]
    fn a_long_run_is_joined_without_losing_a_count() {
        let samples: Vec<_> = (0..1_000).map(|i| second(i, &[u64::from(i)])).collect();
        let timeline = Timeline::of(&samples);
        assert!(timeline.0.len() <= MAX_POINTS);
        assert_eq!(timeline.0.iter().map(|s| s.offered).sum::<u64>(), 10_000);
        assert_eq!(timeline.0.iter().map(|s| s.latency.len()).sum::<u64>(), 1_000);
        assert_eq!(timeline.0.iter().map(end).fold(0.0, f64::max), 1_000.0);
        assert!(timeline.0.iter().all(|s| (s.offered_per_second() - 10.0).abs() < 1e-9));
    }

    #[test]
    fn a_silent_second_breaks_the_latency_lines() {
        let samples = [second(0, &[5, 6]), second(1, &[7]), second(2, &[]), second(3, &[9])];
        let svg = Timeline::of(&samples).latency().into_string();
        assert_eq!(svg.matches("<polyline").count(), 4, "two lines, two stretches: {svg}");
        assert!(Timeline::of(&samples).table().into_string().contains("<td>–</td>"));
    }

    #[test]
    fn draws_runs_without_samples_or_acknowledgements() {
        assert!(!Timeline::of(&[]).throughput().into_string().contains("svg"));
        let silent = Timeline::of(&[Sample { latency: LatencyHistogram::new(), ..second(0, &[]) }]);
        for svg in [silent.throughput(), silent.latency(), Timeline::of(&fixture::run().samples).latency()] {
            let svg = svg.into_string();
            assert!(svg.contains("svg") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
