//! The RPC thread's questions, answered between turns.

use dag::ReplicaId;

use super::links::Links;
use crate::{metrics::thread_cpu, node::Core, rpc::CoreCalls};

/// Questions answered in one turn.
const SLICE: usize = 64;

/// The core's end of the ring from the RPC thread.
pub struct CallQueue {
    calls: CoreCalls,
    lanes_up: Vec<u16>,
}

impl CallQueue {
    /// A queue over the ring's end.
    pub fn new(calls: CoreCalls) -> CallQueue {
        CallQueue { calls, lanes_up: Vec::new() }
    }

    /// Answers what has come. Returns whether there may be more.
    pub fn receive(&mut self, core: &mut Core, links: &Links, fault: Option<&str>, now: u64) -> bool {
        for answered in 0..SLICE {
            let Some(call) = self.calls.next_call() else { return false };
            if answered == 0 {
                self.lanes_up.clear();
                let replicas = ReplicaId::try_from(links.committee_size()).expect("at most 128");
                self.lanes_up.extend((0..replicas).map(|replica| links.lanes_up(replica)));
                let cpu = u64::try_from(thread_cpu().as_nanos()).expect("less than five centuries");
                core.meters().core_use.cpu_ns = cpu;
            }
            core.on_call(call, &self.lanes_up, fault, now);
        }
        true
    }
}
