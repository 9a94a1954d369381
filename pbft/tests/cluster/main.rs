//! Seeded clusters of replicas under faults. Each seed is one reproducible history; the invariants are
//! checked after every event, and after the faults end every honest replica must commit all work.
//!
//! `TOP_PBFT_SEEDS=5000 cargo test -p pbft --test cluster` runs more seeds of each scenario;
//! `TOP_PBFT_SEED=17` runs one.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod faults;
mod host;
mod twins;
mod world;

use faults::{Checkers, Faults};
use world::World;

const SECOND: u64 = 1_000_000_000;

/// Runs a scenario over its seeds, and says how to run a failing one alone.
fn run(name: &str, default_seeds: u64, scenario: impl Fn(u64)) {
    let number = |key: &str| std::env::var(key).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("TOP_PBFT_SEED") {
        return scenario(seed);
    }
    for seed in 0..number("TOP_PBFT_SEEDS").unwrap_or(default_seeds) {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(seed)));
        if let Err(panic) = result {
            eprintln!(
                "replay: TOP_PBFT_SEED={seed} cargo test -p pbft --test cluster {name} -- --exact --nocapture"
            );
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_calm_network_commits_in_view_zero_and_falls_idle() {
    run("a_calm_network_commits_in_view_zero_and_falls_idle", 10, |seed| {
        for n in [4, 5, 7] {
            let mut world = World::new(seed, n, Faults::default());
            world.submit(40);
            world.run_until_done(5 * SECOND);
            assert!(world.views().iter().all(|&view| view == 0), "{:?}", world.views());
            world.run_until_idle(10 * SECOND);
            assert_eq!(world.counters(|c| c.faulty + c.suspicions), 0);
        }
    });
}

#[test]
fn loss_duplication_and_reordering() {
    run("loss_duplication_and_reordering", 100, |seed| {
        let faults = Faults { loss: 30, duplicates: 10, delay: 40, ..Faults::default() };
        let mut world = World::new(seed, 4, faults);
        world.work_for(2 * SECOND, 30);
        world.heal();
        world.run_until_done(120 * SECOND);
        world.run_until_idle(60 * SECOND);
    });
}

#[test]
fn partitions_and_crashes() {
    run("partitions_and_crashes", 150, |seed| {
        let n = [4, 4, 5, 7][(seed % 4) as usize];
        let faults = Faults {
            loss: seed % 3 * 10,
            duplicates: 5,
            delay: 30,
            partitions: true,
            crashes: true,
            ..Faults::default()
        };
        let mut world = World::new(seed, n, faults);
        world.work_for(6 * SECOND, 40);
        world.heal();
        world.run_until_done(120 * SECOND);
        world.run_until_idle(60 * SECOND);
    });
}

#[test]
fn a_silent_primary_is_replaced() {
    run("a_silent_primary_is_replaced", 40, |seed| {
        let mut world = World::new(seed, 4, Faults { delay: 10, ..Faults::default() });
        world.submit(10);
        world.run_for(SECOND / 20);
        // The primary of table 0 in view 0, then the ones after it while they are at most f.
        world.silence(0);
        world.submit(20);
        world.run_until_done(20 * SECOND);
        assert!(world.views().iter().all(|&view| view >= 1));
    });
}

#[test]
fn twins_equivocate() {
    run("twins_equivocate", 150, |seed| {
        let n = [4, 4, 7][(seed % 3) as usize];
        let faults = Faults { loss: seed % 4 * 5, delay: 30, twins: true, noise: true, ..Faults::default() };
        let mut world = World::new(seed, n, faults);
        world.work_for(4 * SECOND, 30);
        world.heal();
        world.run_until_done(200 * SECOND);
    });
}

#[test]
fn twins_partitions_and_crashes_together() {
    run("twins_partitions_and_crashes_together", 150, |seed| {
        let n = [4, 7][(seed % 2) as usize];
        let faults = Faults {
            loss: seed % 3 * 5,
            duplicates: 5,
            delay: 50,
            partitions: true,
            crashes: true,
            twins: true,
            noise: true,
            ..Faults::default()
        };
        let mut world = World::new(seed, n, faults);
        world.work_for(6 * SECOND, 30);
        world.heal();
        world.run_until_done(200 * SECOND);
    });
}

#[test]
fn a_storm_of_views_with_half_committed_heights() {
    run("a_storm_of_views_with_half_committed_heights", 300, |seed| {
        let n = [4, 4, 7][(seed % 3) as usize];
        let faults = Faults {
            loss: seed % 4 * 3,
            commit_loss: 40 + seed % 5 * 10,
            delay: 10 + seed % 7 * 5,
            timeout: 60,
            pace: 40,
            partitions: seed % 2 == 0,
            crashes: seed / 2 % 2 == 0,
            twins: seed / 4 % 4 != 0,
            noise: true,
            ..Faults::default()
        };
        let mut world = World::new(seed, n, faults);
        world.work_for(4 * SECOND, 40);
        world.heal();
        world.run_until_done(300 * SECOND);
    });
}

#[test]
fn real_signatures() {
    run("real_signatures", 4, |seed| {
        let faults = Faults {
            loss: 10,
            delay: 20,
            partitions: true,
            crashes: true,
            twins: seed % 2 == 0,
            noise: seed % 2 == 0,
            real_signatures: true,
            ..Faults::default()
        };
        let mut world = World::new(seed, 4, faults);
        world.work_for(3 * SECOND, 15);
        world.heal();
        world.run_until_done(200 * SECOND);
    });
}

#[test]
fn all_crash_at_once_and_go_on() {
    run("all_crash_at_once_and_go_on", 100, |seed| {
        let mut world = World::new(seed, 4, Faults { delay: 10, ..Faults::default() });
        world.submit(60);
        for _ in 0..4 {
            world.run_for(SECOND / 8 + seed * 1_000_003 % (SECOND / 8));
            world.crash_all();
            world.restart_all();
        }
        world.run_until_done(60 * SECOND);
        world.run_until_idle(60 * SECOND);
    });
}

#[test]
fn who_was_away_for_long_catches_up() {
    run("who_was_away_for_long_catches_up", 30, |seed| {
        // With pruning the blocks are gone from the peers, and only a state transfer helps.
        let mut world = World::new(seed, 4, Faults { delay: 5, prune: seed % 2 == 0, ..Faults::default() });
        world.crash(2);
        world.submit(150);
        world.run_for(10 * SECOND);
        world.restart(2);
        world.submit(20);
        world.run_until_done(60 * SECOND);
        assert!(world.counters(|c| c.committed_by_blocks) > 0 || world.transfers > 0);
        assert!(seed % 2 == 1 || world.transfers > 0, "nothing to fetch but the state");
        world.run_until_idle(60 * SECOND);
    });
}

#[test]
fn an_invalid_proposal_costs_the_primary_its_view() {
    run("an_invalid_proposal_costs_the_primary_its_view", 20, |seed| {
        let mut world = World::new(seed, 4, Faults { delay: 10, ..Faults::default() });
        world.make_invalid(0);
        world.submit(10);
        world.run_until_done(30 * SECOND);
        assert!(world.views().iter().all(|&view| view >= 1));
        assert!(world.no_invalid_block());
    });
}

/// The first f propose forged transactions, and vouch for them wherever they are checkers.
#[test]
fn liars_vouch_for_forged_blocks() {
    run("liars_vouch_for_forged_blocks", 60, |seed| {
        let n = [4, 7, 10][(seed % 3) as usize];
        let faults = Faults {
            loss: seed % 3 * 5,
            delay: 20,
            checkers: Checkers::Liars,
            crashes: seed % 2 == 0,
            ..Faults::default()
        };
        let mut world = World::new(seed, n, faults);
        (0..(n - 1) / 3).for_each(|node| world.make_invalid(node));
        world.work_for(3 * SECOND, 20);
        world.heal();
        world.run_until_done(120 * SECOND);
        assert!(world.no_invalid_block());
    });
}

/// Their blocks wait for a moment, then all others check.
#[test]
fn checkers_that_never_check_halt_nobody() {
    run("checkers_that_never_check_halt_nobody", 40, |seed| {
        let n = [4, 5, 7][(seed % 3) as usize];
        let faults = Faults { delay: 10, checkers: Checkers::Mute, ..Faults::default() };
        let mut world = World::new(seed, n, faults);
        world.work_for(4 * SECOND, 40);
        world.run_until_done(30 * SECOND);
        assert!(world.counters(|c| c.checks_taken_over) > 0);
        assert!(world.views().iter().all(|&view| view == 0), "no view is lost over it");
        world.run_until_idle(60 * SECOND);
    });
}
