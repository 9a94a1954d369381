//! Latency by percentile, on the axis HdrHistogram made standard: each further nine takes the same width.

use maud::{Markup, html};

use super::svg::{Axis, Plot, Tick, WIDTH, grid, hover_column, points, px};
use super::{LatencyHistogram, format};

const HEIGHT: f64 = 380.0;

/// Points along the curve, and so hover columns: one each 8 units.
const COLUMNS: u32 = 120;

/// The quantiles marked on the curve, as far as there are samples enough to tell them apart.
const MARKED: [f64; 6] = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999];

/// The quantiles listed beside the curve.
const LISTED: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0];

/// The curve. The horizontal position of quantile q is the logarithm of 1 / (1 - q), up to where a single
/// sample is all that remains above.
pub(super) fn chart(latency: &LatencyHistogram) -> Markup {
    if latency.is_empty() {
        return html! { p.none { "No transaction was acknowledged, so there is no latency to show." } };
    }
    let plot = Plot::of_height(HEIGHT);
    // From one sample in ten on, so that a run of a few samples still has an axis.
    let decades = (latency.len() as f64).log10().ceil().max(1.0);
    let x = Axis::logarithmic(1.0, 10_f64.powf(decades), plot.left, plot.right);
    let y = Axis::for_latency(latency.at(0.5) as f64, latency.at(1.0) as f64, plot);
    let x_ticks: Vec<Tick> = x.ticks().into_iter().map(|n| (x.at(n), nines(n))).collect();
    let y_ticks: Vec<Tick> = y.ticks().into_iter().map(|us| (y.at(us), format::latency_tick(us))).collect();
    let curve = curve(latency, decades);
    let line = || curve.iter().map(|&(n, us)| (x.at(n), y.at(us as f64)));
    let area = line().chain([(plot.right, plot.bottom), (plot.left, plot.bottom)]);
    let scale = if y.is_logarithmic() { "Percentile (latency on a logarithmic scale)" } else { "Percentile" };
    html! {
        svg.chart viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(description(latency)) {
            (grid(plot, &x_ticks, &y_ticks, scale))
            // Without a zero at its foot, an area would mean nothing.
            @if !y.is_logarithmic() { polygon.area.series-a points=(points(area)) {} }
            polyline.line.series-a points=(points(line())) {}
            @for column in 0..COLUMNS {
                @let at = |part| along(f64::from(column) + part, decades);
                @let [from, middle, to] = [0.0, 0.5, 1.0].map(at);
                @let (quantile, us) = (1.0 - 1.0 / middle, latency.at(1.0 - 1.0 / middle));
                @let title = format!("{}: {}", format::quantile(quantile), format::latency_us(us));
                (hover_column(plot, x.at(from), x.at(to), &[(y.at(us as f64), "series-a")], &title))
            }
            @for (quantile, n) in marks(latency) {
                (mark(x.at(n), y.at(latency.at(quantile) as f64), &name(quantile), latency.at(quantile)))
            }
        }
    }
}

/// (1 / (1 - q), latency at q) along the axis.
fn curve(latency: &LatencyHistogram, decades: f64) -> Vec<(f64, u64)> {
    (0..=COLUMNS).map(|i| along(f64::from(i), decades)).map(|n| (n, latency.at(1.0 - 1.0 / n))).collect()
}

/// The 1 / (1 - q) that stands `columns` of [`COLUMNS`] along an axis of so many decades.
fn along(columns: f64, decades: f64) -> f64 {
    10_f64.powf(decades * columns / f64::from(COLUMNS))
}

/// (quantile, its 1 / (1 - q)) of the points worth a label; the largest stands at the end of the axis.
fn marks(latency: &LatencyHistogram) -> Vec<(f64, f64)> {
    let samples = latency.len() as f64;
    let told_apart = MARKED.into_iter().map(|q| (q, 1.0 / (1.0 - q))).filter(|(_, n)| *n * 2.0 <= samples);
    told_apart.chain([(1.0, f64::INFINITY)]).collect()
}

/// A labelled point. The curve rises to the right, so the label stands to the left of its point; only the
/// median is too near the axis for that.
fn mark(x: f64, y: f64, name: &str, us: u64) -> Markup {
    let (anchor, x_text) = if name == "p50" { ("middle", x) } else { ("end", x + 4.0) };
    html! {
        g.mark aria-hidden="true" {
            circle.series-a cx=(px(x)) cy=(px(y)) r="4.5" {}
            text.mark-name x=(px(x_text)) y=(px(y - 27.0)) text-anchor=(anchor) { (name) }
            text.mark-value x=(px(x_text)) y=(px(y - 12.0)) text-anchor=(anchor) { (format::latency_us(us)) }
        }
    }
}

/// The label at 1 / (1 - q) = `n`, a power of ten: `0%`, `90%`, `99%`, `99.9%`, …
fn nines(n: f64) -> String {
    format::quantile(1.0 - 1.0 / n).trim_start_matches('p').to_owned() + "%"
}

fn name(quantile: f64) -> String {
    match quantile {
        0.0 => "min".to_owned(),
        1.0 => "max".to_owned(),
        q => format::quantile(q),
    }
}

fn description(latency: &LatencyHistogram) -> String {
    let of = latency.percentiles();
    let [p50, p99, p999, max] = [of.p50, of.p99, of.p999, of.max].map(format::latency_us);
    format!("Latency by percentile: median {p50}, 99th {p99}, 99.9th {p999}, largest {max}")
}

/// The same as numbers.
pub(super) fn table(latency: &LatencyHistogram) -> Markup {
    html! {
        table {
            thead { tr {
                @for heading in ["Percentile", "Latency", "Slower than this"] { th scope="col" { (heading) } }
            } }
            tbody {
                @for quantile in LISTED {
                    @let us = latency.at(quantile);
                    tr {
                        th scope="row" { (name(quantile)) }
                        td { (format::latency_us(us)) }
                        td { (format::count(slower(latency, us))) }
                    }
                }
            }
        }
    }
}

fn slower(latency: &LatencyHistogram, us: u64) -> u64 {
    us.checked_add(1).map_or(0, |next| latency.as_hdr().count_between(next, u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nine_is_labelled() {
        assert_eq!([1.0, 10.0, 100.0, 1e3, 1e6].map(nines), ["0%", "90%", "99%", "99.9%", "99.9999%"]);
    }

    #[test]
    fn marks_only_what_the_samples_can_tell_apart() {
        let of = |samples| marks(&LatencyHistogram::from_iter(1..=samples)).into_iter().map(|(q, _)| name(q));
        assert_eq!(of(20).collect::<Vec<_>>(), ["p50", "max"]);
        assert_eq!(of(2_000).collect::<Vec<_>>(), ["p50", "p90", "p99", "p99.9", "max"]);
    }

    #[test]
    fn draws_any_number_of_samples() {
        for samples in [1, 2, 9, 10, 11, 100_000] {
            let svg = chart(&LatencyHistogram::from_iter(1..=samples)).into_string();
            assert!(
                svg.contains("polyline") && !svg.contains("NaN") && !svg.contains("inf"),
                "{samples}: {svg}"
            );
        }
        assert!(!chart(&LatencyHistogram::new()).into_string().contains("svg"));
    }

    #[test]
    fn counts_what_is_slower() {
        let latency = LatencyHistogram::from_iter(1..=100);
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| slower(&latency, latency.at(q))), [99, 50, 1, 0]);
        assert_eq!(slower(&LatencyHistogram::from_iter([u64::MAX]), u64::MAX), 0);
    }
}
