//! Twins («Twins: BFT Systems Made Robust», OPODIS '21), exhaustively: replica 0 of four runs twice under one key, and in each of
//! the first four views the five nodes stand in one of the 16 ways to part them in two groups. What was sent in a view reaches only the
//! sender's group. Each of the four replicas leads the first view once. Then all hear each other, and the work must be done.
//!
//! A run takes each [`STRIDE`]th of the scenarios that are left when the twins are told apart by nothing but their company;
//! `TOP_TWINS=all cargo test --release -p pbft --test cluster twins::` takes all of them, `TOP_TWINS=17` one.

use crate::{SECOND, faults::Faults, world::World};

/// Scenarios of one first primary: a way to part nodes 1 to 4 from node 0, for each of four views.
const PARTED: u32 = 1 << 16;
/// A prime, so that all views vary.
const STRIDE: usize = 197;

/// The nodes that are not in node 0's group, view by view. Node 4 is its twin.
fn apart(scenario: u32) -> [u16; 4] {
    std::array::from_fn(|view| u16::try_from(scenario >> (4 * view) & 15).expect("four bits") << 1)
}

/// Of two scenarios that differ in which twin is called node 0, one: in the first view that parts them, node 1 is with node 0.
fn is_canonical(scenario: u32) -> bool {
    let parts = apart(scenario).into_iter().find(|mask| mask >> 4 & 1 == 1);
    parts.is_none_or(|mask| mask >> 1 & 1 == 0)
}

fn play(scenario: u32) {
    let table = u16::try_from(scenario / PARTED).expect("one of four");
    let faults = Faults { twins: true, table, apart: apart(scenario % PARTED), ..Faults::default() };
    let mut world = World::new(scenario.into(), 4, faults);
    world.submit(4);
    world.run_for(20 * SECOND);
    world.heal();
    world.run_until_done(120 * SECOND);
}

#[test]
fn in_every_company_of_four_views() {
    let wanted = std::env::var("TOP_TWINS").ok();
    if let Some(scenario) = wanted.as_ref().and_then(|text| text.parse().ok()) {
        return play(scenario);
    }
    let stride = if wanted.as_deref() == Some("all") { 1 } else { STRIDE };
    for scenario in (0..4 * PARTED).filter(|scenario| is_canonical(scenario % PARTED)).step_by(stride) {
        if let Err(panic) = std::panic::catch_unwind(|| play(scenario)) {
            eprintln!(
                "replay: TOP_TWINS={scenario} cargo test --release -p pbft --test cluster twins:: -- --nocapture"
            );
            std::panic::resume_unwind(panic);
        }
    }
}
