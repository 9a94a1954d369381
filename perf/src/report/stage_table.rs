//! Where a transaction's time goes, stage by stage.

use maud::{Markup, html};

use super::svg::px;
use super::{LatencyHistogram, Percentiles, RunData, Stage, format};

const BAR_WIDTH: f64 = 220.0;

/// A row for the whole way and one for each stage, with bars on one common scale.
pub(super) fn table(data: &RunData) -> Markup {
    let stages: Vec<(Stage, Percentiles)> = Stage::ALL
        .iter()
        .filter_map(|s| Some((*s, data.stages.get(s).map(LatencyHistogram::percentiles)?)))
        .collect();
    let whole = data.latency.percentiles();
    let longest = stages.iter().map(|(_, of)| of.p99).max().unwrap_or(0).max(whole.p99).max(1);
    html! {
        div.scroll { table.stages {
            thead { tr {
                th scope="col" { "Stage" }
                @for heading in ["p50", "p90", "p99", "max"] { th scope="col" { (heading) } }
                th.wide scope="col" {
                    span.key-median { "p50" } " and " span.key-tail { "p99" } ", all to one scale"
                }
            } }
            tbody {
                (row("end to end", "from due to acknowledged", &whole, longest, true))
                @for (stage, of) in &stages { (row(stage.name(), stage.meaning(), of, longest, false)) }
            }
        } }
        @if stages.is_empty() { p.none { "The validators reported no stages." } }
    }
}

fn row(name: &str, meaning: &str, of: &Percentiles, longest: u64, whole: bool) -> Markup {
    let width = |us: u64| px((us as f64 / longest as f64 * BAR_WIDTH).min(BAR_WIDTH));
    let title = format!("{name}: p50 {}, p99 {}", format::latency_us(of.p50), format::latency_us(of.p99));
    html! {
        tr.whole[whole] {
            th scope="row" { (name) small { (meaning) } }
            @for us in [of.p50, of.p90, of.p99, of.max] { td { (format::latency_if_any(of.count, us)) } }
            td.wide {
                svg viewBox=(format!("0 0 {BAR_WIDTH} 14")) width=(BAR_WIDTH) height="14" aria-hidden="true" {
                    title { (title) }
                    rect.track width=(BAR_WIDTH) height="14" rx="3" {}
                    rect.tail width=(width(of.p99)) height="14" rx="3" {}
                    rect.median width=(width(of.p50)) height="14" rx="3" {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn the_longest_p99_fills_its_bar() {
        let mut data = fixture::empty();
        data.latency = LatencyHistogram::from_iter([1_000]);
        data.stages.insert(Stage::Verify, LatencyHistogram::from_iter([500]));
        let html = table(&data).into_string();
        assert!(html.contains(r#"class="tail" width="220""#), "{html}");
        assert!(html.contains(r#"class="tail" width="110""#), "{html}");
    }

    #[test]
    fn a_run_without_stages_says_so() {
        assert!(table(&fixture::empty()).into_string().contains("reported no stages"));
    }
}
