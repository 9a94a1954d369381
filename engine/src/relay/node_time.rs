//! How long packets were in the node.

use hdrhistogram::Histogram;

use crate::metrics::CoreMetrics;

/// Longest time that is told from longer ones, ns: ten seconds.
const MAX_NS: u64 = 10_000_000_000;
/// Bounds of the histogram in `/metrics`, µs.
const BUCKETS_US: [(u64, &str); 9] = [
    (5, "5"),
    (10, "10"),
    (20, "20"),
    (50, "50"),
    (100, "100"),
    (200, "200"),
    (500, "500"),
    (1_000, "1000"),
    (10_000, "10000"),
];

/// Time from a packet's receipt until it was handed to the kernel, in ns, by packet.
#[derive(Clone, Debug)]
pub struct NodeTime(Histogram<u64>);

impl Default for NodeTime {
    fn default() -> NodeTime {
        NodeTime(Histogram::new_with_bounds(1, MAX_NS, 2).expect("bounds in order"))
    }
}

impl NodeTime {
    /// Records that so many packets took so long.
    pub fn record(&mut self, ns: u64, packets: u64) {
        if packets > 0 {
            self.0.saturating_record_n(ns.max(1), packets);
        }
    }

    /// Adds another core's times.
    pub fn merge(&mut self, other: &NodeTime) {
        self.0.add(&other.0).expect("the same bounds");
    }

    /// The times, ns.
    pub fn as_hdr(&self) -> &Histogram<u64> {
        &self.0
    }

    /// Adds them to a core's metrics as the buckets of a histogram.
    pub fn report(&self, metrics: &mut CoreMetrics, name: &'static str) {
        let help = "Packets that were in the node for at most so many µs.";
        for (us, label) in BUCKETS_US {
            metrics.labelled_counter(name, ("le", label), help, self.0.count_between(0, us * 1000));
        }
        metrics.labelled_counter(name, ("le", "+Inf"), help, self.0.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let mut times = NodeTime::default();
        times.record(0, 1);
        times.record(60_000, 3);
        times.record(u64::MAX, 2);
        let mut other = times.clone();
        other.merge(&times);
        let mut metrics = CoreMetrics::default();
        other.report(&mut metrics, "x_bucket");
        let counts: Vec<u64> = metrics.samples().iter().map(|sample| sample.value).collect();
        assert_eq!((counts.iter().min(), counts.iter().max()), (Some(&2), Some(&12)));
        assert_eq!(other.as_hdr().len(), 12);
    }
}
