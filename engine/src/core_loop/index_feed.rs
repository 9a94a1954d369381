//! What a core has executed, on its way to the index thread.

use crate::{index::Feed, node::Core};

/// The core's end of the ring to the index; none where there is no index.
pub struct IndexFeed {
    ring: Option<Feed>,
}

impl IndexFeed {
    /// A feed over the ring's end.
    pub fn new(ring: Option<Feed>) -> IndexFeed {
        IndexFeed { ring }
    }

    /// Pushes what has been executed. A full ring is left for the next turn: the blocks stay in the tables' history until then.
    pub fn push(&mut self, core: &mut Core) {
        let Some(ring) = &mut self.ring else { return };
        while !ring.is_full() {
            let Some(block) = core.next_executed() else { return };
            let pushed = ring.push(block);
            assert!(pushed.is_ok(), "there was room a moment ago, and nobody else pushes");
        }
    }
}
