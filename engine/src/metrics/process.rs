//! The process as the kernel sees it.

use std::{fs, io, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What a process uses.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessUse {
    /// User and system time of all threads, also those that have ended.
    pub cpu_seconds: f64,
    /// Bytes of memory in use (resident set).
    pub resident_bytes: u64,
}

impl ProcessUse {
    /// Of this process, now.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn now() -> io::Result<ProcessUse> {
        let statm = fs::read_to_string("/proc/self/statm")?;
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        let pages = pages.ok_or_else(|| io::Error::other("/proc/self/statm has another layout"))?;
        let resident_bytes = pages * rustix::param::page_size() as u64;
        Ok(ProcessUse { cpu_seconds: clock(ClockId::ProcessCPUTime).as_secs_f64(), resident_bytes })
    }
}

/// Processor time of the calling thread, for [`CoreUse::cpu_ns`](super::CoreUse::cpu_ns).
pub fn thread_cpu() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

fn clock(id: ClockId) -> Duration {
    Duration::try_from(clock_gettime(id)).expect("processor time is not negative")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_time_and_memory() {
        let (before, thread) = (ProcessUse::now().unwrap(), thread_cpu());
        let mut sum = 0u64;
        while thread_cpu() < thread + Duration::from_millis(2) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let after = ProcessUse::now().unwrap();
        assert!(after.cpu_seconds >= before.cpu_seconds + 0.002, "{before:?} {after:?}");
        assert!(after.resident_bytes > 100_000);
    }
}
