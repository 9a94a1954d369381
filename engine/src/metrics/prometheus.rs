//! The Prometheus text exposition format, version 0.0.4.

use std::fmt::Write as _;

use super::{CoreMetrics, NodeMetrics, Phase, ProcessUse, Sample, SampleKind, Stage};

/// The `Content-Type` of what [`CoreMetrics::to_prometheus`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const PREFIX: &str = "topio_";
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a String takes all");
        self.0.push('\n');
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {}", escape(help, false)));
        self.line(format_args!("# TYPE {name} {kind}"));
    }
}

/// Backslashes and line feeds are escaped everywhere, quotes in label values only.
fn escape(text: &str, label: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if label { text.replace('"', "\\\"") } else { text }
}

impl CoreMetrics {
    /// Everything under the prefix `topio_`: counters, gauges, the cores' time, and the stages as summaries in seconds since the
    /// start.
    pub fn to_prometheus(&self) -> String {
        let mut text = Text(String::with_capacity(16 * 1024));
        self.write_samples(&mut text);
        self.write_cores(&mut text);
        self.write_stages(&mut text);
        text.0
    }

    fn write_samples(&self, text: &mut Text) {
        let mut last = "";
        for Sample { name, label, help, kind, value } in &self.samples {
            if name != last {
                let kind = if *kind == SampleKind::Counter { "counter" } else { "gauge" };
                text.head(&format!("{PREFIX}{name}"), kind, help);
                last = name;
            }
            match label {
                None => text.line(format_args!("{PREFIX}{name} {value}")),
                Some((label, of)) => {
                    text.line(format_args!("{PREFIX}{name}{{{label}=\"{}\"}} {value}", escape(of, true)));
                }
            }
        }
    }

    fn write_cores(&self, text: &mut Text) {
        let name = format!("{PREFIX}core_seconds_total");
        text.head(&name, "counter", "Time of each core loop, by what it did.");
        for core in &self.cores {
            let phases = Phase::ALL.map(|phase| (phase.name(), core.phase_ns(phase)));
            for (state, ns) in
                phases.into_iter().chain([("blocked", core.blocked_ns), ("idle", core.idle_ns)])
            {
                let seconds = ns as f64 / 1e9;
                text.line(format_args!("{name}{{core=\"{}\",state=\"{state}\"}} {seconds}", core.core));
            }
        }
        let name = format!("{PREFIX}core_cpu_seconds_total");
        text.head(&name, "counter", "Processor time of each core loop's thread.");
        for core in &self.cores {
            text.line(format_args!("{name}{{core=\"{}\"}} {}", core.core, core.cpu_ns as f64 / 1e9));
        }
    }

    fn write_stages(&self, text: &mut Text) {
        let name = format!("{PREFIX}stage_seconds");
        text.head(&name, "summary", "Time that transactions spent in each stage, since the start.");
        for stage in Stage::ALL {
            let (of, histogram) = (stage.name(), self.stages.get(stage));
            for quantile in QUANTILES {
                // A summary without observations has no quantiles.
                let seconds = if histogram.is_empty() {
                    f64::NAN
                } else {
                    histogram.value_at_quantile(quantile) as f64 / 1e6
                };
                text.line(format_args!("{name}{{stage=\"{of}\",quantile=\"{quantile}\"}} {seconds}"));
            }
            let sum = self.stages.sum_us(stage) as f64 / 1e6;
            text.line(format_args!("{name}_sum{{stage=\"{of}\"}} {sum}"));
            text.line(format_args!("{name}_count{{stage=\"{of}\"}} {}", histogram.len()));
        }
    }
}

impl NodeMetrics {
    /// The cores' metrics, and the usual `process_…` ones.
    pub fn to_prometheus(&self) -> String {
        let mut text = Text(self.metrics.to_prometheus());
        write_process(&mut text, &self.process);
        text.0
    }
}

fn write_process(text: &mut Text, process: &ProcessUse) {
    let cpu = "process_cpu_seconds_total";
    text.head(cpu, "counter", "User and system time of the process.");
    text.line(format_args!("{cpu} {}", process.cpu_seconds));
    let memory = "process_resident_memory_bytes";
    text.head(memory, "gauge", "Memory of the process that is in use.");
    text.line(format_args!("{memory} {}", process.resident_bytes));
}

#[cfg(test)]
mod tests;
