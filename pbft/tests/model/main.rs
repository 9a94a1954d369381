//! The rules of agreement as models, explored exhaustively (stateright): four replicas of which one is Byzantine.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod checkers;
mod view_change;

use checkers::Checkers;
use stateright::{Checker, Model};
use view_change::ViewChange;

/// Every state of one height, two blocks and three views, for each place of the liar among the primaries.
#[test]
fn no_view_change_loses_a_decision() {
    for first in 0..4 {
        let checker = ViewChange { first, lowest: false }.checker().spawn_bfs().join();
        checker.assert_no_discovery("one block is decided");
        checker.assert_any_discovery("a block is decided again in a later view");
        checker.assert_any_discovery("a view decides where the one before did not");
        println!("liar {} views after the first: {} states", 3 - first, checker.unique_state_count());
    }
}

#[test]
fn the_wrong_certificate_loses_one() {
    let found = (0..4).any(|first| {
        let checker = ViewChange { first, lowest: true }.checker().spawn_bfs().join();
        checker.discovery("one block is decided").is_some()
    });
    assert!(found, "the model can't tell the right rule from the wrong one");
}

#[test]
fn f_plus_one_checkers_are_enough_and_silent_ones_cost_only_time() {
    for silent in [false, true] {
        Checkers { needed: 2, silent }.checker().spawn_bfs().join().assert_properties();
    }
    let short = Checkers { needed: 1, silent: false }.checker().spawn_bfs().join();
    assert!(short.discovery("no forged block is prepared").is_some(), "one checker is too few");
}
