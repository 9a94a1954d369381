//! The few drawing parts that the charts share: axes, round ticks, grid, lines and hover columns.
//!
//! Colours live in `style.css`, by class, so that one drawing serves the light and the dark scheme.

use std::fmt::Write as _;

use maud::{Markup, html};

/// Width of a full chart in user units; the page scales it.
pub(super) const WIDTH: f64 = 1040.0;

/// The share of a vertical axis kept free above the largest value, for labels.
const HEADROOM: f64 = 0.15;

/// Where data is drawn inside a chart, in user units; y grows downwards.
#[derive(Clone, Copy)]
pub(super) struct Plot {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Plot {
    /// The plot of a full-width chart of this height: room for tick labels on the left and below.
    pub(super) fn of_height(height: f64) -> Self {
        Self { left: 68.0, right: WIDTH - 14.0, top: 14.0, bottom: height - 44.0 }
    }
}

/// Maps values to positions.
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Axis {
    /// `low` lands on `from`, `high` on `to`, the rest in proportion.
    pub(super) fn linear(low: f64, high: f64, from: f64, to: f64) -> Self {
        assert!(low < high, "an axis spans something");
        Self { low, high, from, to, logarithmic: false }
    }

    /// As [`linear`](Self::linear), in proportion to the logarithm.
    pub(super) fn logarithmic(low: f64, high: f64, from: f64, to: f64) -> Self {
        assert!(0.0 < low && low < high, "a logarithmic axis spans something positive");
        Self { low, high, from, to, logarithmic: true }
    }

    /// A vertical axis from 0 with room above `max`.
    pub(super) fn from_zero(max: f64, plot: Plot) -> Self {
        let wanted = if max > 0.0 { max * (1.0 + HEADROOM) } else { 1.0 };
        let step = round_step(wanted);
        Self::linear(0.0, (wanted / step).ceil() * step, plot.bottom, plot.top)
    }

    /// A vertical axis for latencies: from zero, unless the largest would squash the rest; then logarithmic.
    pub(super) fn for_latency(typical: f64, max: f64, plot: Plot) -> Self {
        const SQUASHED: f64 = 40.0;
        if typical < 1.0 || max < typical * SQUASHED {
            return Self::from_zero(max, plot);
        }
        let low = 10_f64.powf(typical.log10().floor());
        Self::logarithmic(low, max * (max / low).powf(HEADROOM), plot.bottom, plot.top)
    }

    /// Where `value` is drawn; values off the axis land on its ends.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// Round values to label: about five on a linear axis, each power of ten on a logarithmic one.
    pub(super) fn ticks(&self) -> Vec<f64> {
        const SLACK: f64 = 1e-9;
        let mut ticks = Vec::new();
        if self.logarithmic {
            let mut tick = self.low;
            while tick <= self.high * (1.0 + SLACK) {
                ticks.push(tick);
                tick *= 10.0;
            }
        } else {
            let step = round_step(self.high - self.low);
            let mut index = (self.low / step - SLACK).ceil() + 0.0; // Adding 0 makes -0 a plain one.
            while index * step <= self.high + step * SLACK {
                ticks.push(index * step);
                index += 1.0;
            }
        }
        ticks
    }

    /// Whether positions follow the logarithm.
    pub(super) fn is_logarithmic(&self) -> bool {
        self.logarithmic
    }
}

/// 1, 2 or 5 times a power of ten that divides `span` into five to ten or so.
fn round_step(span: f64) -> f64 {
    let rough = span / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    match rough / power {
        r if r < 1.5 => power,
        r if r < 3.5 => 2.0 * power,
        r if r < 7.5 => 5.0 * power,
        _ => 10.0 * power,
    }
}

/// A coordinate with one decimal: finer than a pixel, and short.
pub(super) fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Points for a `polyline` or `polygon`.
pub(super) fn points(points: impl IntoIterator<Item = (f64, f64)>) -> String {
    let mut out = String::new();
    for (x, y) in points {
        let space = if out.is_empty() { "" } else { " " };
        write!(out, "{space}{},{}", px(x), px(y)).expect("writing to a String");
    }
    out
}

/// A line to be labelled on an axis: where, and with what.
pub(super) type Tick = (f64, String);

/// Grid lines, tick labels and the caption of the horizontal axis.
pub(super) fn grid(plot: Plot, x_ticks: &[Tick], y_ticks: &[Tick], caption: &str) -> Markup {
    let middle = f64::midpoint(plot.left, plot.right);
    html! {
        g.grid aria-hidden="true" {
            @for (y, label) in y_ticks {
                line x1=(px(plot.left)) x2=(px(plot.right)) y1=(px(*y)) y2=(px(*y)) {}
                text.tick x=(px(plot.left - 8.0)) y=(px(y + 4.0)) text-anchor="end" { (label) }
            }
            @for (x, label) in x_ticks {
                line x1=(px(*x)) x2=(px(*x)) y1=(px(plot.top)) y2=(px(plot.bottom)) {}
                // The last label must not run over the edge.
                @let anchor = if x + 30.0 > plot.right { "end" } else { "middle" };
                text.tick x=(px(*x)) y=(px(plot.bottom + 18.0)) text-anchor=(anchor) { (label) }
            }
            line.axis x1=(px(plot.left)) x2=(px(plot.right)) y1=(px(plot.bottom)) y2=(px(plot.bottom)) {}
            text.caption x=(px(middle)) y=(px(plot.bottom + 38.0)) text-anchor="middle" { (caption) }
        }
    }
}

/// A strip of the plot that shows a cross-hair, the given points and a title while the mouse is over it.
pub(super) fn hover_column(plot: Plot, from: f64, to: f64, marks: &[(f64, &str)], title: &str) -> Markup {
    let middle = f64::midpoint(from, to);
    html! {
        g.hover {
            title { (title) }
            rect x=(px(from)) y=(px(plot.top)) width=(px(to - from)) height=(px(plot.bottom - plot.top)) {}
            line x1=(px(middle)) x2=(px(middle)) y1=(px(plot.top)) y2=(px(plot.bottom)) {}
            @for (y, class) in marks {
                circle class=(class) cx=(px(middle)) cy=(px(*y)) r="3.5" {}
            }
        }
    }
}

/// Names the lines of a chart: (class of the line, name).
pub(super) fn legend(entries: &[(&str, &str)]) -> Markup {
    html! {
        ul.legend {
            @for (class, name) in entries {
                li {
                    svg viewBox="0 0 26 10" width="26" height="10" aria-hidden="true" {
                        line class={ "line " (class) } x1="1" x2="25" y1="5" y2="5" {}
                    }
                    (name)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLOT: Plot = Plot { left: 0.0, right: 100.0, top: 0.0, bottom: 100.0 };

    #[test]
    fn ticks_are_round() {
        assert_eq!(Axis::linear(0.0, 10.0, 0.0, 1.0).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert!(Axis::linear(0.0, 10.0, 0.0, 1.0).ticks()[0].is_sign_positive(), "no -0");
        assert_eq!(Axis::logarithmic(1.0, 1_000.0, 0.0, 1.0).ticks(), [1.0, 10.0, 100.0, 1_000.0]);
    }

    #[test]
    fn a_far_tail_makes_the_latency_axis_logarithmic() {
        assert!(!Axis::for_latency(8_000.0, 100_000.0, PLOT).is_logarithmic());
        assert!(Axis::for_latency(8_000.0, 900_000.0, PLOT).is_logarithmic());
        assert!(!Axis::for_latency(0.0, 0.0, PLOT).is_logarithmic());
    }

    #[test]
    fn coordinates_are_short() {
        assert_eq!(points([(1.0, 2.25), (10.04, 0.0)]), "1,2.2 10,0");
    }

    proptest! {
        #[test]
        fn an_axis_has_few_ticks_and_holds_its_values(max in 0.0..1e12_f64, typical in 0.0..1e12_f64) {
            for axis in [Axis::from_zero(max, PLOT), Axis::for_latency(typical.min(max), max, PLOT)] {
                let ticks = axis.ticks();
                prop_assert!((2..=15).contains(&ticks.len()), "{ticks:?}");
                prop_assert!(ticks.iter().all(|tick| (-1e-6..=100.000_001).contains(&axis.at(*tick))));
                prop_assert!((0.0..100.0).contains(&axis.at(max)) || max == 0.0, "{}", axis.at(max));
            }
        }
    }
}
