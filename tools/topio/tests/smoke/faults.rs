//! Validators that are killed, stopped and started again under load.

use perf::loadgen::LoadResult;
use rustix::process::Signal;
use serde_json::json;
use topio::rpc::{Answered, Block};

use crate::{load::longest_gap, network::Network};

/// Seconds without an acknowledgement that one fault may cost. With a second as grain, a gap under two seconds covers one whole
/// second at most.
const GAP: usize = 1;

fn gap_is_short(result: &LoadResult) {
    let seconds: Vec<u64> = result.samples.iter().map(|sample| sample.committed).collect();
    assert!(longest_gap(result) <= GAP, "acknowledged in each second: {seconds:?}");
}

#[test]
fn one_is_killed_the_others_go_on_and_it_comes_back() {
    let mut network = Network::start();
    let load = network.load();
    load.go_on(2);
    network.devnet.node(1).kill();
    load.go_on(4);
    network.devnet.node(1).start().expect("it can be started again");
    load.go_on(3);
    let result = load.finish();
    gap_is_short(&result);
    network.wait_ready();
    network.ledger_is_whole();
    // With another one down, a quorum needs its votes: it votes again.
    network.devnet.node(2).kill();
    network.commits_in_every_table(1);
}

#[test]
fn one_is_frozen_for_half_a_minute_the_others_go_on_and_it_catches_up() {
    let mut network = Network::start();
    let load = network.load();
    load.go_on(1);
    network.devnet.node(3).signal(Signal::STOP);
    load.go_on(30);
    network.devnet.node(3).signal(Signal::CONT);
    load.go_on(3);
    let result = load.finish();
    // Clients of the frozen one find out by themselves, and its tables change their view.
    gap_is_short(&result);
    network.ledger_is_whole();
    network.devnet.node(0).kill();
    network.commits_in_every_table(3);
}

#[test]
fn all_are_killed_at_once_and_again_and_nothing_acknowledged_is_lost() {
    let mut network = Network::start();
    let load = network.load();
    load.go_on(3);
    // The second time they die of a past that they have themselves recovered.
    for _ in 0..2 {
        for index in 0..4 {
            network.devnet.node(index).signal(Signal::KILL);
        }
        for index in 0..4 {
            network.devnet.node(index).kill();
        }
        load.go_on(1);
        network.devnet.start().expect("they can be started again");
        network.wait_ready();
        load.go_on(2);
    }
    load.finish();
    network.ledger_is_whole();
    (0..4).for_each(|index| network.commits_in_every_table(index));
}

#[test]
fn all_stop_cleanly_under_load_and_go_on_later() {
    let mut network = Network::start();
    let load = network.load();
    load.go_on(1);
    assert_eq!(network.devnet.stop(), 0, "none had to be killed");
    network.devnet.start().expect("they can be started again");
    network.wait_ready();
    load.go_on(1);
    load.finish();
    network.ledger_is_whole();
    (0..4).for_each(|node| assert_eq!(network.counter(node, "blocks_not_indexed_total"), 0));
    // Blocks from before the stop are in no memory any more: the index knows them.
    for node in network.devnet.nodes() {
        for table in 0..network.genesis.tables() {
            let ask = |params| node.rpc().call::<Option<Answered<Block>>>("getBlock", &params);
            let first = ask(json!({ "table": table, "height": 1 })).expect("the validator answers");
            let first = first.expect("the index has every block").view;
            let same = ask(json!({ "hash": first.hash })).expect("the validator answers");
            assert_eq!(same.map(|block| (block.view.table, block.view.height)), Some((table, 1)));
        }
    }
}
