//! What each core loop of each validator did with its time.

use maud::{Markup, html};

use super::svg::{points, px};
use super::{CoreUse, Shares, ValidatorUse, format};

const BAR: (f64, f64) = (160.0, 14.0);
const STRIP: (f64, f64) = (240.0, 28.0);

/// What the colours stand for: (class, name).
const KEY: [(&str, &str); 3] =
    [("busy", "busy"), ("blocked", "blocked on a full queue or the disk"), ("idle", "idle")];

/// More intervals than this are not told apart in a strip.
const MAX_POINTS: usize = 120;

/// A row for each core, grouped by validator.
pub(super) fn table(validators: &[ValidatorUse]) -> Markup {
    if validators.is_empty() {
        return html! { p.none { "The validators reported no processor use." } };
    }
    html! {
        ul.legend {
            @for (class, name) in KEY {
                li {
                    svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true" {
                        rect class=(class) width="12" height="12" rx="2" {}
                    }
                    (name)
                }
            }
        }
        div.scroll { table.cores {
            thead { tr {
                @for heading in ["Validator", "Core", "Busy", "Blocked", "Idle", "CPU"] {
                    th scope="col" { (heading) }
                }
                th.wide scope="col" { "Whole run" }
                th.wide scope="col" { "Over time" }
            } }
            @for validator in validators {
                tbody {
                    @for (i, core) in validator.cores.iter().enumerate() {
                        tr {
                            @if i == 0 { (validator_cell(validator)) }
                            (core_cells(&validator.name, core))
                        }
                    }
                    @if validator.cores.is_empty() { tr { (validator_cell(validator)) td colspan="7" {} } }
                }
            }
        } }
    }
}

fn validator_cell(validator: &ValidatorUse) -> Markup {
    html! {
        th scope="rowgroup" rowspan=(validator.cores.len().max(1)) {
            (validator.name) small { (format::three_digits(validator.cpu_seconds)) " s of CPU" }
        }
    }
}

fn core_cells(validator: &str, core: &CoreUse) -> Markup {
    let title = format!("{validator}, core {}: {}", core.core, describe(core.total));
    html! {
        td { (core.core) }
        @for share in [core.total.busy, core.total.blocked, core.total.idle] {
            td { (format::percent(share)) }
        }
        td { (format::three_digits(core.cpu_seconds)) " s" }
        td.wide { (bar(core.total, &title)) }
        td.wide { @if core.over_time.is_empty() { "not sampled" } @else { (strip(&core.over_time, &title)) } }
    }
}

fn describe(shares: Shares) -> String {
    let [busy, blocked, idle] = [shares.busy, shares.blocked, shares.idle].map(format::percent);
    format!("{busy} busy, {blocked} blocked, {idle} idle")
}

fn bar(shares: Shares, title: &str) -> Markup {
    let (width, height) = BAR;
    let [busy, blocked] = stacked(shares).map(|share| share * width);
    let view_box = format!("0 0 {width} {height}");
    html! {
        svg viewBox=(view_box) width=(width) height=(height) role="img" aria-label=(title) {
            title { (title) }
            rect.idle width=(width) height=(height) rx="3" {}
            rect.blocked width=(px(blocked)) height=(height) rx="3" {}
            rect.busy width=(px(busy)) height=(height) rx="3" {}
        }
    }
}

/// Busy below blocked below idle, over the run.
fn strip(over_time: &[Shares], title: &str) -> Markup {
    let (width, height) = STRIP;
    let columns = condense(over_time);
    let step = width / columns.len() as f64;
    let outline = |level: usize| {
        let steps = columns.iter().enumerate().flat_map(move |(i, shares)| {
            let y = height * (1.0 - stacked(*shares)[level]);
            [(i as f64 * step, y), ((i + 1) as f64 * step, y)]
        });
        points(steps.chain([(width, height), (0.0, height)]))
    };
    let view_box = format!("0 0 {width} {height}");
    html! {
        svg viewBox=(view_box) width=(width) height=(height) role="img" aria-label=(title) {
            title { (title) }
            rect.idle width=(width) height=(height) {}
            polygon.blocked points=(outline(1)) {}
            polygon.busy points=(outline(0)) {}
        }
    }
}

/// Where busy ends, and where blocked ends, when they are stacked: both from 0 to 1.
fn stacked(shares: Shares) -> [f64; 2] {
    [shares.busy, shares.busy + shares.blocked].map(|share| share.clamp(0.0, 1.0))
}

/// Averages neighbours until there are few enough to draw.
fn condense(over_time: &[Shares]) -> Vec<Shares> {
    let joined = over_time.len().div_ceil(MAX_POINTS).max(1);
    let mean =
        |chunk: &[Shares], of: fn(&Shares) -> f64| chunk.iter().map(of).sum::<f64>() / chunk.len() as f64;
    over_time
        .chunks(joined)
        .map(|chunk| Shares {
            busy: mean(chunk, |shares| shares.busy),
            blocked: mean(chunk, |shares| shares.blocked),
            idle: mean(chunk, |shares| shares.idle),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validator(cores: Vec<CoreUse>) -> Vec<ValidatorUse> {
        vec![ValidatorUse { name: "v0".into(), cpu_seconds: 1.0, cores }]
    }

    #[test]
    fn bars_stack_busy_under_blocked() {
        let total = Shares { busy: 0.5, blocked: 0.25, idle: 0.25 };
        let html =
            table(&validator(vec![CoreUse { core: 0, cpu_seconds: 1.0, total, over_time: vec![total; 3] }]));
        let html = html.into_string();
        assert!(
            html.contains(r#"class="busy" width="80""#) && html.contains(r#"class="blocked" width="120""#),
            "{html}"
        );
        assert!(html.contains(r#"class="busy" points="0,14 80,14 80,14 160,14"#), "{html}");
    }

    #[test]
    fn a_validator_without_cores_still_has_its_row() {
        assert!(table(&validator(Vec::new())).into_string().contains("v0"));
        assert!(table(&[]).into_string().contains("no processor use"));
    }

    #[test]
    fn condensing_keeps_the_mean() {
        let over_time: Vec<_> = (0..1_200)
            .map(|i| Shares { busy: f64::from(i % 2), blocked: 0.0, idle: f64::from((i + 1) % 2) })
            .collect();
        let condensed = condense(&over_time);
        assert_eq!(condensed.len(), MAX_POINTS);
        assert!(condensed.iter().all(|shares| shares.busy == 0.5 && shares.idle == 0.5));
    }
}
