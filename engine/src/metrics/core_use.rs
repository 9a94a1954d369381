//! Where a core loop's time went. Every turn is charged, so utilisation is known without a profiler.

use serde::{Deserialize, Serialize};

/// The parts of a loop turn, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Phase {
    /// Completions taken from the ring, and calls from other threads.
    Completions,
    /// Frames decrypted, split and parsed.
    Decode,
    /// People's packets relayed.
    Relay,
    /// Consensus messages handled.
    Consensus,
    /// A slice of signature verification.
    Verify,
    /// A slice of execution.
    Execute,
    /// The log written.
    Log,
    /// Frames encrypted and handed to the ring.
    Send,
    /// Timers.
    Timers,
}

impl Phase {
    /// All phases, in their order.
    pub const ALL: [Phase; 9] = [
        Phase::Completions,
        Phase::Decode,
        Phase::Relay,
        Phase::Consensus,
        Phase::Verify,
        Phase::Execute,
        Phase::Log,
        Phase::Send,
        Phase::Timers,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Completions => "completions",
            Phase::Decode => "decode",
            Phase::Relay => "relay",
            Phase::Consensus => "consensus",
            Phase::Verify => "verify",
            Phase::Execute => "execute",
            Phase::Log => "log",
            Phase::Send => "send",
            Phase::Timers => "timers",
        }
    }
}

/// Nanoseconds of one core loop since its start. Busy, blocked and idle time add up to the time that has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoreUse {
    /// Which core loop of the node.
    pub core: u16,
    /// Processor time of the loop's thread, as the kernel counts it.
    pub cpu_ns: u64,
    /// Waiting while work was there: a full queue or the disk held it back.
    pub blocked_ns: u64,
    /// Waiting, asleep or spinning, with nothing to do.
    pub idle_ns: u64,
    /// Working, by [`Phase`] in their order.
    pub phases_ns: [u64; Phase::ALL.len()],
}

impl CoreUse {
    /// Nothing charged yet.
    pub fn new(core: u16) -> CoreUse {
        CoreUse { core, ..CoreUse::default() }
    }

    /// Charges work.
    pub fn charge(&mut self, phase: Phase, ns: u64) {
        self.phases_ns[phase as usize] += ns;
    }

    /// Charges a wait that a full queue or the disk caused.
    pub fn blocked(&mut self, ns: u64) {
        self.blocked_ns += ns;
    }

    /// Charges a wait for something to do.
    pub fn idle(&mut self, ns: u64) {
        self.idle_ns += ns;
    }

    /// Time spent in one phase.
    pub fn phase_ns(&self, phase: Phase) -> u64 {
        self.phases_ns[phase as usize]
    }

    /// Time spent working.
    pub fn busy_ns(&self) -> u64 {
        self.phases_ns.iter().sum()
    }

    /// Time spent waiting, whatever for.
    pub fn waiting_ns(&self) -> u64 {
        self.blocked_ns + self.idle_ns
    }

    /// Share of the time spent working, from 0 to 1.
    pub fn busy_share(&self) -> f64 {
        let total = self.busy_ns() + self.waiting_ns();
        if total == 0 { 0.0 } else { self.busy_ns() as f64 / total as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_time_is_charged_once() {
        let mut core = CoreUse::new(3);
        assert_eq!(core.busy_share(), 0.0);
        for phase in Phase::ALL {
            core.charge(phase, 10);
        }
        core.charge(Phase::Verify, 20);
        core.blocked(50);
        core.idle(50);
        assert_eq!((core.busy_ns(), core.phase_ns(Phase::Verify)), (110, 30));
        assert_eq!(core.busy_share(), 110.0 / 210.0);
    }
}
