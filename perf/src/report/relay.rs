//! What validators relayed beside their agreement.

use std::fmt;

use engine::metrics::CoreMetrics;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use super::format;

/// What a relay service of a validator did in the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayUse {
    /// The validator.
    pub validator: String,
    /// «vpn» or «turn».
    pub service: String,
    /// Packets relayed, both ways.
    pub packets: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Packets dropped, whatever the cause.
    pub drops: u64,
    /// Half of the packets were in the node for at most so long, µs; `None` where they took longer than the histogram tells, or
    /// there were none.
    pub node_us_p50: Option<u64>,
    /// The same of 99 in 100.
    pub node_us_p99: Option<u64>,
    /// Share of its core loops' time that relaying took, of all its services together.
    pub core_share: f64,
}

impl RelayUse {
    /// What a validator's services did between two copies of its metrics; none where it has none.
    pub fn between(
        validator: &str,
        begin: Option<&CoreMetrics>,
        end: &CoreMetrics,
        core_share: f64,
    ) -> Vec<RelayUse> {
        let of = |service: &str| {
            let name = |what: &str| format!("relay_{service}_{what}");
            let has = end.samples().iter().any(|sample| sample.name == name("packets_total"));
            let since = |what: &str| {
                let (name, before) = (name(what), |begin: &CoreMetrics| begin.value(&name(what)));
                end.value(&name).saturating_sub(begin.map_or(0, before))
            };
            let times = node_times(&name("node_microseconds_bucket"), begin, end);
            has.then(|| RelayUse {
                validator: validator.into(),
                service: service.into(),
                packets: since("packets_total"),
                bytes: since("bytes_total"),
                drops: since("drops_total"),
                node_us_p50: at_most(&times, 0.5),
                node_us_p99: at_most(&times, 0.99),
                core_share,
            })
        };
        ["vpn", "turn"].into_iter().filter_map(of).collect()
    }
}

/// Packets by the bound of their time in the node, µs, in ascending order; the last is of those without a bound.
fn node_times(name: &str, begin: Option<&CoreMetrics>, end: &CoreMetrics) -> Vec<(u64, u64)> {
    let counts = |metrics: &CoreMetrics| -> Vec<(u64, u64)> {
        let of_name = metrics.samples().iter().filter(|sample| sample.name == name);
        let bound = |label: &str| label.parse().unwrap_or(u64::MAX);
        let mut all: Vec<_> =
            of_name.filter_map(|sample| Some((bound(&sample.label.as_ref()?.1), sample.value))).collect();
        all.sort_unstable();
        all
    };
    let before = begin.map(counts).unwrap_or_default();
    let less = |bound| before.iter().find(|(other, _)| *other == bound).map_or(0, |(_, count)| *count);
    counts(end).into_iter().map(|(bound, count)| (bound, count.saturating_sub(less(bound)))).collect()
}

fn at_most(times: &[(u64, u64)], share: f64) -> Option<u64> {
    let all = times.last().map_or(0, |(_, count)| *count) as f64;
    let reaches = |(_, count): &&(u64, u64)| all > 0.0 && *count as f64 >= share * all;
    times.iter().find(reaches).map(|(bound, _)| *bound).filter(|bound| *bound < u64::MAX)
}

fn micros(bound: Option<u64>) -> String {
    bound.map_or_else(|| "–".into(), |us| format!("≤ {}", format::latency_if_any(1, us)))
}

impl fmt::Display for RelayUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RelayUse { validator, service, .. } = self;
        let (packets, bytes, drops) =
            (format::count(self.packets), format::count(self.bytes), format::count(self.drops));
        let (p50, p99) = (micros(self.node_us_p50), micros(self.node_us_p99));
        let share = format::percent(self.core_share);
        writeln!(
            f,
            "relay       {service} on {validator}: {packets} packets, {bytes} bytes, {drops} dropped"
        )?;
        write!(f, "{:<12}in the node p50 {p50}, p99 {p99}; {share} of its cores", "")
    }
}

/// A row for each service.
pub(super) fn table(relays: &[RelayUse]) -> Markup {
    html! {
        table.narrow {
            thead { tr {
                @for heading in ["Validator", "Service", "Packets", "Bytes", "Dropped", "In the node, p50", "p99", "Of its cores"] {
                    th scope="col" { (heading) }
                }
            } }
            tbody { @for relay in relays { tr {
                th scope="row" { (relay.validator) }
                td { (relay.service) }
                @for count in [relay.packets, relay.bytes, relay.drops] { td { (format::count(count)) } }
                @for bound in [relay.node_us_p50, relay.node_us_p99] { td { (micros(bound)) } }
                td { (format::percent(relay.core_share)) }
            } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(packets: u64, slow: u64) -> CoreMetrics {
        let mut metrics = CoreMetrics::default();
        for direction in ["in", "out"] {
            let label = ("direction", direction);
            metrics.labelled_counter("relay_vpn_packets_total", label, "", packets / 2);
        }
        for (bound, count) in [("5", packets / 2), ("100", packets - slow), ("+Inf", packets)] {
            metrics.labelled_counter("relay_vpn_node_microseconds_bucket", ("le", bound), "", count);
        }
        metrics
    }

    #[test]
    fn what_was_before_does_not_count() {
        let (begin, end) = (metrics(1_000, 500), metrics(3_000, 510));
        let relays = RelayUse::between("v0", Some(&begin), &end, 0.25);
        assert_eq!((relays.len(), relays[0].packets), (1, 2_000));
        assert_eq!((relays[0].node_us_p50, relays[0].node_us_p99), (Some(5), Some(100)));
        let slow = RelayUse::between("v0", None, &metrics(1_000, 500), 0.25);
        assert_eq!((slow[0].node_us_p50, slow[0].node_us_p99), (Some(5), None));
        assert!(RelayUse::between("v0", None, &CoreMetrics::default(), 0.0).is_empty());
    }
}
