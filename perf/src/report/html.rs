//! `report.html`: one page that opens from disk and loads nothing.
//!
//! No script, font or image comes with it, and the policy in its head forbids the browser to fetch or run
//! any, so whatever text a run carries (its title, its configuration) stays text.

use std::time::{Duration, UNIX_EPOCH};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::time_chart::Timeline;
use super::{FILES, RunData, core_use, format, percentile_chart, relay, stage_table, svg};

/// Nothing but the page's own style.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The page for people.
pub fn to_html(data: &RunData) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (data.title) " · latency report" }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body { main {
                (header(data))
                (tiles(data))
                (percentiles(data))
                (over_time(data))
                section { h2 { "Stages" }
                    p.lead { "Time a transaction spends in each step of its way, all validators together." }
                    (stage_table::table(data))
                }
                section { h2 { "Cores" } (core_use::table(&data.validator_use)) }
                @if !data.relays.is_empty() {
                    section { h2 { "Relayed" }
                        p.lead { "People's packets that the validators' core loops moved beside their agreement." }
                        div.scroll { (relay::table(&data.relays)) }
                    }
                }
                (rejections(data))
                (setting(data))
                (footer())
            } }
        }
    }
    .into_string()
}

fn header(data: &RunData) -> Markup {
    let start = UNIX_EPOCH + Duration::from_micros(data.start_unix_us);
    let start = humantime::format_rfc3339_seconds(start).to_string();
    html! {
        header {
            p.kind { "Latency report" }
            h1 { (data.title) }
            p.facts {
                span { (data.validators) " validators" }
                span { (data.tables) " tables" }
                span { (format::count(data.accounts)) " accounts" }
                span { (format::seconds(data.duration_s)) " of load" }
                span { time datetime=(start) { (start.replace('T', " ").replace('Z', " UTC")) } }
            }
        }
    }
}

/// The figures to remember, large.
fn tiles(data: &RunData) -> Markup {
    let latency = data.latency.percentiles();
    let cpu = data.cpu_seconds_per_validator();
    html! {
        dl.tiles {
            (tile("Committed", &format::whole(data.committed_per_second), "/s", &committed_note(data)))
            @if data.payees_per_second > data.committed_per_second {
                (tile("Payees", &format::whole(data.payees_per_second), "/s", "credited by multi-transfers"))
            }
            @let text = |us| format::latency_if_any(latency.count, us);
            (latency_tile("p50", &text(latency.p50), "from due to acknowledged"))
            (latency_tile("p99", &text(latency.p99), &format!("p90 {}", text(latency.p90))))
            (latency_tile("p99.9", &text(latency.p999), &format!("max {}", text(latency.max))))
            (tile("Rejected", &format::count(data.rejected_total()), "",
                &format!("of {} sent", format::count(data.offered))))
            (tile("Processor", &format::three_digits(cpu), "s", &processor_note(cpu, data.duration_s)))
        }
    }
}

fn committed_note(data: &RunData) -> String {
    if data.offered_per_second > 0.0 {
        let share = data.committed_per_second / data.offered_per_second;
        format!("{} of {} /s offered", format::percent(share), format::whole(data.offered_per_second))
    } else {
        format!("{} in all", format::count(data.committed))
    }
}

fn processor_note(cpu_seconds: f64, duration_s: f64) -> String {
    let cores = if duration_s > 0.0 { cpu_seconds / duration_s } else { 0.0 };
    format!("per validator, {} cores", format::three_digits(cores))
}

fn latency_tile(name: &str, latency: &str, note: &str) -> Markup {
    let (number, unit) = latency.split_once(' ').unwrap_or((latency, ""));
    tile(name, number, unit, note)
}

fn tile(name: &str, number: &str, unit: &str, note: &str) -> Markup {
    html! {
        div.tile {
            dt { (name) }
            dd { strong { (number) } "\u{a0}" span.unit { (unit) } small { (note) } }
        }
    }
}

fn percentiles(data: &RunData) -> Markup {
    html! {
        section {
            h2 { "Latency by percentile" }
            p.lead {
                "Counted from the moment each transaction was due, not from when it was sent: "
                "a stall is charged to every transaction that fell due in it. "
                (format::count(data.latency.len())) " samples."
            }
            figure { div.scroll { (percentile_chart::chart(&data.latency)) } }
            @if !data.latency.is_empty() { (numbers(percentile_chart::table(&data.latency))) }
        }
    }
}

fn over_time(data: &RunData) -> Markup {
    let timeline = Timeline::of(&data.samples);
    html! {
        section {
            h2 { "Over time" }
            figure {
                figcaption {
                    "Transactions per second"
                    (svg::legend(&[("series-a", "committed"), ("series-n", "offered")]))
                }
                div.scroll { (timeline.throughput()) }
            }
            figure {
                figcaption { "Latency" (svg::legend(&[("series-a", "p50"), ("series-b", "p99")])) }
                div.scroll { (timeline.latency()) }
            }
            @if !timeline.is_empty() { (numbers(timeline.table())) }
        }
    }
}

/// A chart's data, folded away under it.
fn numbers(table: Markup) -> Markup {
    html! { details { summary { "The same as numbers" } div.scroll { (table) } } }
}

fn rejections(data: &RunData) -> Markup {
    html! {
        @if !data.rejected.is_empty() {
            section { h2 { "Rejected" }
                table.narrow {
                    thead { tr { th scope="col" { "Cause" } th scope="col" { "Transactions" } } }
                    tbody { @for (cause, count) in &data.rejected {
                        tr { th scope="row" { (cause) } td { (format::count(*count)) } }
                    } }
                }
            }
        }
    }
}

fn setting(data: &RunData) -> Markup {
    let machine = &data.machine;
    let machine_rows = [
        ("Processor", machine.cpu_model.clone()),
        ("Logical cores", machine.cores.to_string()),
        ("Memory", format::gib(machine.memory_bytes)),
        ("Kernel", machine.kernel.clone()),
        ("Virtual machine", if machine.virtual_machine { "yes" } else { "no" }.to_owned()),
    ];
    html! {
        section.setting {
            div { h2 { "Machine" } (facts(machine_rows.iter().map(|(name, value)| (*name, value.as_str())))) }
            div { h2 { "Configuration" }
                (facts(data.configuration.iter().map(|(name, value)| (name.as_str(), value.as_str()))))
                @if data.configuration.is_empty() { p.none { "Nothing was recorded." } }
            }
        }
    }
}

fn facts<'a>(rows: impl Iterator<Item = (&'a str, &'a str)>) -> Markup {
    html! {
        table.facts { tbody {
            @for (name, value) in rows { tr { th scope="row" { (name) } td { (value) } } }
        } }
    }
}

fn footer() -> Markup {
    let [_, hgrm, hlog, summary] = FILES;
    html! {
        footer {
            "Beside this page: " code { (summary) } " (these figures for programs), "
            code { (hgrm) } " (HdrHistogram percentiles, in milliseconds) and "
            code { (hlog) } " (HdrHistogram interval log, in microseconds)."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn text_of_the_run_stays_text() {
        const HOSTILE: &str = "</style><script>alert('1')</script>&\"x";
        let mut data = fixture::run();
        data.title = HOSTILE.into();
        data.machine.cpu_model = HOSTILE.into();
        data.machine.kernel = HOSTILE.into();
        data.configuration.insert(HOSTILE.into(), HOSTILE.into());
        data.rejected.insert(HOSTILE.into(), 1);
        data.validator_use[0].name = HOSTILE.into();
        let page = to_html(&data);
        assert!(!page.contains("<script"), "unescaped");
        assert!(page.contains("&lt;script&gt;"));
        assert_eq!(page.matches("</style>").count(), 1);
        // In attributes, where a quote would end the value.
        assert!(!page.contains("\"x") && page.contains("&quot;x"));
    }

    #[test]
    fn loads_nothing() {
        let page = to_html(&fixture::run());
        for reference in ["http://", "https://", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(reference), "{reference}");
        }
    }

    #[test]
    fn every_section_is_there_for_a_full_and_for_an_empty_run() {
        for page in [to_html(&fixture::run()), to_html(&fixture::empty())] {
            for heading in
                ["Latency by percentile", "Over time", "Stages", "Cores", "Machine", "Configuration"]
            {
                assert!(page.contains(&format!("<h2>{heading}</h2>")), "{heading}");
            }
            assert!(!page.contains("NaN") && !page.contains(">inf"));
        }
    }

    #[test]
    fn the_start_is_a_date() {
        let mut data = fixture::run();
        data.start_unix_us = 1_700_000_000_000_000;
        assert!(
            to_html(&data)
                .contains(r#"<time datetime="2023-11-14T22:13:20Z">2023-11-14 22:13:20 UTC</time>"#)
        );
    }
}
