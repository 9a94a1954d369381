use std::collections::BTreeMap;

use super::*;
use crate::metrics::{CoreUse, Stages};

/// A parser of the format as its specification says it; panics where the text breaks a rule.
/// Returns the value of each line by its name and labels.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut family = String::new();
    assert!(text.ends_with('\n'), "the last line ends with a line feed");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_string();
            assert!(!types.contains_key(&family), "one group of lines for {family}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family, "HELP and TYPE of a name stand together");
            assert!(["counter", "gauge", "summary"].contains(&kind), "{line}");
            types.insert(name.to_string(), kind.to_string());
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let of_family = name == family
                || types[&family] == "summary"
                    && [format!("{family}_sum"), format!("{family}_count")].contains(&name.to_string());
            assert!(of_family, "{line} stands under {family}");
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
            if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
                check_labels(labels);
            }
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(values.insert(series.to_string(), value).is_none(), "{series} stands twice");
        }
    }
    values
}

fn check_labels(labels: &str) {
    let mut rest = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}')).expect("labels in braces");
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").expect("name=\"value\"");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{labels}");
        let mut escaped = false;
        let end = value.find(|c| {
            let end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            end
        });
        rest = &value[end.expect("a closing quote") + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

fn sample() -> CoreMetrics {
    let mut stages = Stages::new();
    stages.record_n(Stage::Verify, 2_000, 99);
    stages.record(Stage::Verify, 50_000);
    let mut core_use = CoreUse::new(1);
    core_use.charge(Phase::Log, 1_500_000_000);
    core_use.idle(500_000_000);
    let mut metrics = CoreMetrics::new(core_use, stages);
    metrics.counter("frames_total", "Frames\nthat \\ arrived.", 7);
    metrics.labelled_counter("rejected_total", ("cause", "say \"no\"\n, \\"), "Refused.", 2);
    metrics.labelled_counter("rejected_total", ("cause", "overdraft"), "Refused.", 3);
    metrics.gauge("mempool_bytes", "Bytes.", u64::MAX);
    metrics
}

#[test]
fn the_text_follows_the_format() {
    let process = ProcessUse { cpu_seconds: 1.5, resident_bytes: 4096 };
    let values = parse(&NodeMetrics { process, metrics: sample() }.to_prometheus());
    for (series, value) in [
        ("topio_frames_total", 7.0),
        ("topio_rejected_total{cause=\"overdraft\"}", 3.0),
        ("topio_rejected_total{cause=\"say \\\"no\\\"\\n, \\\\\"}", 2.0),
        ("topio_core_seconds_total{core=\"1\",state=\"log\"}", 1.5),
        ("topio_core_seconds_total{core=\"1\",state=\"idle\"}", 0.5),
        ("topio_stage_seconds_count{stage=\"verify\"}", 100.0),
        ("topio_stage_seconds_sum{stage=\"verify\"}", 0.248),
        ("topio_stage_seconds_count{stage=\"reply\"}", 0.0),
        ("process_cpu_seconds_total", 1.5),
        ("process_resident_memory_bytes", 4096.0),
    ] {
        assert_eq!(values.get(series), Some(&value), "{series}");
    }
    let quantile = |stage, q| values[&format!("topio_stage_seconds{{stage=\"{stage}\",quantile=\"{q}\"}}")];
    assert!((quantile("verify", "0.5") - 0.002).abs() < 0.000_02);
    assert!((quantile("verify", "0.999") - 0.05).abs() < 0.000_5);
    assert!(quantile("reply", "0.5").is_nan());
}

#[test]
fn nothing_measured_is_still_the_format() {
    assert!(parse(&CoreMetrics::default().to_prometheus()).len() >= 8);
}
