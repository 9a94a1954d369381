//! Whole validators in one process, over loopback and a real disk.

mod harness;

use dag::client::Code;
use harness::{BALANCE, Client, Cluster, account};

/// Waits until a validator's view of all accounts is the expected one.
fn await_balances(client: &mut Client, expected: &[u64]) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    for (index, &balance) in expected.iter().enumerate() {
        while client.account(&account(index as u64)).map_or(0, |state| state.balance) != balance {
            assert!(std::time::Instant::now() < deadline, "account {index} never gets its {balance}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn transfers_are_committed_on_all_validators() {
    let mut cluster = Cluster::new(4, 4, 2, 1, 8);
    cluster.start_all();
    let mut client = Client::connect(cluster.validators[0].submission);
    let records: Vec<_> =
        (0..8).map(|from| cluster.transfer(from, 1, &[((from + 1) % 8, 10 * (from + 1))])).collect();
    for reply in client.submit(&records) {
        assert_eq!(reply.code, Code::Committed);
        assert!(reply.height > 0);
    }
    let expected: Vec<u64> =
        (0..8).map(|i| BALANCE - 10 * (i + 1) + 10 * if i == 0 { 8 } else { i }).collect();
    for validator in &cluster.validators {
        await_balances(&mut Client::connect(validator.submission), &expected);
    }
    // The same once more is the same.
    for reply in client.submit(&records) {
        assert_eq!(reply.code, Code::Committed);
    }
}

#[test]
fn three_of_four_go_on() {
    let mut cluster = Cluster::new(4, 4, 1, 1, 8);
    for validator in [0, 1, 3] {
        cluster.start(validator);
    }
    // Each table in turn has the missing validator as its primary somewhere along its views.
    let mut client = Client::connect(cluster.validators[1].submission);
    for round in 1..=2 {
        let records: Vec<_> =
            (0..8).map(|from| cluster.transfer(from, round, &[((from + 1) % 8, 5)])).collect();
        for reply in client.submit(&records) {
            assert_eq!(reply.code, Code::Committed);
        }
    }
    // And the one that comes late catches up.
    cluster.start(2);
    await_balances(&mut Client::connect(cluster.validators[2].submission), &[BALANCE; 8]);
}

#[test]
fn a_cluster_that_stops_goes_on_where_it_was() {
    let mut cluster = Cluster::new(4, 4, 1, 1, 4);
    cluster.start_all();
    for round in 1..=5 {
        let mut client = Client::connect(cluster.validators[round % 4].submission);
        // It may lag behind the one that answered last.
        await_balances(&mut client, &[BALANCE; 4]);
        let records: Vec<_> =
            (0..4).map(|from| cluster.transfer(from, round as u64, &[((from + 1) % 4, 7)])).collect();
        for reply in client.submit(&records) {
            assert_eq!(reply.code, Code::Committed, "round {round}");
        }
        (0..4).for_each(|validator| cluster.stop(validator));
        cluster.start_all();
    }
    for validator in &cluster.validators {
        await_balances(&mut Client::connect(validator.submission), &[BALANCE; 4]);
    }
}
