//! What the run was measured on.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

use super::format;

/// The machine a run was measured on, as Linux describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor model, or "unknown" where the kernel names none (as on ARM).
    pub cpu_model: String,
    /// Logical cores online.
    pub cores: u32,
    /// Memory the kernel manages, bytes.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Whether a hypervisor announces itself: sockets and timers cost more under one.
    pub virtual_machine: bool,
}

impl Machine {
    /// Reads `/proc`. What can't be read becomes "unknown" or 0: a report must not fail for its footnotes.
    pub fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/cpuinfo"), &read("/proc/meminfo"), &read("/proc/sys/kernel/osrelease"))
    }

    fn parse(cpuinfo: &str, meminfo: &str, osrelease: &str) -> Self {
        let model = field(cpuinfo, "model name").unwrap_or("unknown");
        let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        let memory_kib = field(meminfo, "MemTotal").and_then(|total| total.strip_suffix(" kB"));
        let flags = field(cpuinfo, "flags").unwrap_or_default();
        Self {
            cpu_model: model.split_whitespace().collect::<Vec<_>>().join(" "),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            memory_bytes: memory_kib
                .and_then(|kib| kib.parse().ok())
                .map_or(0, |kib: u64| kib.saturating_mul(1024)),
            kernel: Some(osrelease.trim())
                .filter(|release| !release.is_empty())
                .unwrap_or("unknown")
                .to_owned(),
            virtual_machine: flags.split_whitespace().any(|flag| flag == "hypervisor"),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.virtual_machine { ", virtual" } else { "" };
        write!(
            f,
            "{}, {} cores, {}, Linux {}{kind}",
            self.cpu_model,
            self.cores,
            format::gib(self.memory_bytes),
            self.kernel
        )
    }
}

/// The value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: AMD EPYC  7B13 \nflags\t\t: fpu hypervisor avx2\n\n\
                           processor\t: 1\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu hypervisor avx2\n";

    #[test]
    fn reads_the_kernels_text() {
        let machine = Machine::parse(CPUINFO, "MemTotal:       24662104 kB\nMemFree: 1 kB\n", "6.18.2\n");
        assert_eq!(
            machine,
            Machine {
                cpu_model: "AMD EPYC 7B13".into(),
                cores: 2,
                memory_bytes: 24_662_104 * 1024,
                kernel: "6.18.2".into(),
                virtual_machine: true,
            }
        );
    }

    #[test]
    fn what_is_missing_is_unknown() {
        let machine = Machine::parse("processor : 0\n", "MemTotal: many\n", "");
        assert_eq!((machine.cpu_model.as_str(), machine.kernel.as_str()), ("unknown", "unknown"));
        assert_eq!((machine.cores, machine.memory_bytes, machine.virtual_machine), (1, 0, false));
    }

    #[test]
    fn this_machine_has_cores_memory_and_a_kernel() {
        let machine = Machine::read();
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && machine.kernel != "unknown");
    }
}
