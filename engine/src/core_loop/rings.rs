//! Bounded rings between the cores of one validator, one for each ordered pair.
//!
//! A ring that is full holds its sender's messages back in the sender's own queue, and with them the turn's later ones:
//! nothing is lost and nothing overtakes. That queue is bounded by what one turn can emit.

use std::collections::VecDeque;

use netio::Waker;

use crate::node::{Core, Cross};

/// Messages that one ring holds.
const RING: usize = 4096;

/// One core's ends of the rings.
pub struct CoreRings {
    /// By core; none to itself.
    to: Vec<Option<rtrb::Producer<Cross>>>,
    from: Vec<rtrb::Consumer<Cross>>,
    waiting: Vec<VecDeque<Cross>>,
    wakers: Vec<Option<Waker>>,
    written: Vec<bool>,
}

/// The ends for each core.
pub fn make_rings(cores: u16) -> Vec<CoreRings> {
    let cores = usize::from(cores);
    let mut ends: Vec<CoreRings> = (0..cores)
        .map(|_| CoreRings {
            to: (0..cores).map(|_| None).collect(),
            from: Vec::new(),
            waiting: (0..cores).map(|_| VecDeque::new()).collect(),
            wakers: vec![None; cores],
            written: vec![false; cores],
        })
        .collect();
    for from in 0..cores {
        for to in (0..cores).filter(|&to| to != from) {
            let (producer, consumer) = rtrb::RingBuffer::new(RING);
            ends[from].to[to] = Some(producer);
            ends[to].from.push(consumer);
        }
    }
    ends
}

impl CoreRings {
    /// How to wake the other cores, by core.
    pub fn set_wakers(&mut self, wakers: Vec<Option<Waker>>) {
        assert_eq!(wakers.len(), self.to.len());
        self.wakers = wakers;
    }

    /// Queues a message for another core.
    pub fn send(&mut self, core: u16, cross: Cross) {
        self.waiting[usize::from(core)].push_back(cross);
    }

    /// Moves what waits into the rings, and wakes whoever got something. Returns whether something still waits.
    pub fn flush(&mut self) -> bool {
        for (core, waiting) in self.waiting.iter_mut().enumerate() {
            let Some(ring) = &mut self.to[core] else { continue };
            while let Some(cross) = waiting.pop_front() {
                if let Err(rtrb::PushError::Full(cross)) = ring.push(cross) {
                    waiting.push_front(cross);
                    break;
                }
                self.written[core] = true;
            }
            if std::mem::take(&mut self.written[core])
                && let Some(waker) = &self.wakers[core]
            {
                waker.wake();
            }
        }
        self.waiting.iter().any(|waiting| !waiting.is_empty())
    }

    /// Hands over what has arrived, at most a ring's worth. Returns whether there is more on either side.
    pub fn receive(&mut self, core: &mut Core, now: u64) -> bool {
        let mut more = self.waiting.iter().any(|waiting| !waiting.is_empty());
        for ring in &mut self.from {
            for _ in 0..RING {
                match ring.pop() {
                    Ok(cross) => core.on_cross(cross, now),
                    Err(rtrb::PopError::Empty) => break,
                }
            }
            more |= !ring.is_empty();
        }
        more
    }
}
