//! Whole validators in one process, over loopback and a real disk.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod harness;

use dag::client::Code;
use engine::{
    config::Setup,
    repair::{self, Finding, Remedy, RepairError},
};
use std::{fs::OpenOptions, os::unix::fs::FileExt, path::PathBuf, time::Duration};

use harness::{BALANCE, Client, Cluster, account};

/// Waits until a validator's view of all accounts is the expected one.
fn await_balances(client: &mut Client, expected: &[u64]) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    for (index, &balance) in expected.iter().enumerate() {
        while client.account(&account(index as u64)).map_or(0, |state| state.balance) != balance {
            assert!(std::time::Instant::now() < deadline, "account {index} never gets its {balance}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Waits until a validator has executed so many transactions of each account.
fn await_sequences(client: &mut Client, accounts: u64, sequence: u64) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    for index in 0..accounts {
        while client.account(&account(index)).is_none_or(|state| state.sequence < sequence) {
            assert!(std::time::Instant::now() < deadline, "account {index} never gets to {sequence}");
            std::thread::sleep(Duration::from_millis(20));
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
    await_sequences(&mut Client::connect(cluster.validators[2].submission), 8, 2);
}

#[test]
fn a_cluster_that_stops_goes_on_where_it_was() {
    let mut cluster = Cluster::new(4, 4, 1, 1, 4);
    cluster.start_all();
    for round in 1..=5 {
        let mut client = Client::connect(cluster.validators[round % 4].submission);
        // It may lag behind the one that answered last.
        await_sequences(&mut client, 4, round as u64 - 1);
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

/// The first segment of a validator's log.
fn log_file(cluster: &Cluster, validator: usize) -> PathBuf {
    cluster.data(validator).join("log-000-0000000000.top")
}

fn flip(path: &PathBuf, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn a_damaged_log_is_named_and_refused_while_the_others_go_on() {
    let mut cluster = Cluster::new(4, 4, 1, 1, 4);
    cluster.start_all();
    for round in 1..=3 {
        let mut client = Client::connect(cluster.validators[0].submission);
        let records: Vec<_> =
            (0..4).map(|from| cluster.transfer(from, round, &[((from + 1) % 4, 7)])).collect();
        client.submit(&records);
    }
    cluster.stop(3);
    // In the first group behind the header: many later ones follow, so it is no torn tail.
    flip(&log_file(&cluster, 3), 4096 + 100);
    let error = cluster.run_to_end(3).expect_err("a damaged log is refused").to_string();
    assert!(
        error.contains("damage") && error.contains("log-000-0000000000") || error.contains("segment 0"),
        "{error}"
    );
    let mut client = Client::connect(cluster.validators[0].submission);
    let reply = client.submit(&[cluster.transfer(0, 4, &[(1, 7)])]);
    assert_eq!(reply[0].code, Code::Committed);

    // No snapshot was taken behind the damage, so votes are lost: without consent nothing is done.
    let setup = || Setup::load(&cluster.validators[3].config).unwrap();
    let remedy = |setup: &Setup| match &repair::check(setup).unwrap().cores[..] {
        [Finding::Damaged { remedy, .. }] => *remedy,
        other => panic!("{other:?}"),
    };
    assert!(matches!(remedy(&setup()), Remedy::Silence { cut: Some(_) }));
    assert!(matches!(repair::run(&setup(), false), Err(RepairError::WouldSilence)));
    assert!(matches!(remedy(&setup()), Remedy::Silence { cut: Some(_) }));
    let put_aside = repair::run(&setup(), true).unwrap();
    assert!(!put_aside.is_empty() && put_aside.iter().all(|file| file.exists()));
    let report = repair::check(&setup()).unwrap();
    assert!(report.silent && !matches!(report.cores[0], Finding::Damaged { .. }), "{report:?}");
    cluster.start(3);
    await_sequences(&mut Client::connect(cluster.validators[3].submission), 1, 4);
    // It follows, and never votes: with one more validator down nothing is committed.
    cluster.stop(1);
    client.send(9, &[cluster.transfer(0, 5, &[(1, 7)])]);
    client.is_not_answered_for(Duration::from_secs(3));
    cluster.start(1);
    assert_eq!(client.replies(1)[0].code, Code::Committed);
    await_sequences(&mut Client::connect(cluster.validators[3].submission), 1, 5);
}

#[test]
fn there_is_nothing_to_repair_before_the_first_start() {
    let mut cluster = Cluster::new(4, 4, 1, 1, 4);
    let setup = |cluster: &Cluster| Setup::load(&cluster.validators[0].config).unwrap();
    assert!(matches!(repair::check(&setup(&cluster)), Err(RepairError::Missing(_))));
    cluster.start(0);
    drop(Client::connect(cluster.validators[0].submission));
    let error = repair::check(&setup(&cluster)).unwrap_err().to_string();
    assert!(error.contains("another node runs on the data directory"), "{error}");
    cluster.stop(0);
    let report = repair::check(&setup(&cluster)).unwrap();
    assert!(!report.silent && matches!(report.cores[..], [Finding::Whole { .. }]), "{report:?}");
    assert_eq!(repair::run(&setup(&cluster), true).unwrap(), Vec::<PathBuf>::new());
    assert!(!repair::check(&setup(&cluster)).unwrap().silent, "what is whole is left alone");
}

#[test]
fn a_torn_tail_is_cut() {
    let mut cluster = Cluster::new(4, 4, 1, 1, 4);
    cluster.start_all();
    let mut client = Client::connect(cluster.validators[0].submission);
    let records: Vec<_> = (0..4).map(|from| cluster.transfer(from, 1, &[((from + 1) % 4, 7)])).collect();
    client.submit(&records);
    cluster.stop(3);
    // The last group ends where only zeros follow.
    let path = log_file(&cluster, 3);
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.chunks(4096).rposition(|sector| sector.iter().any(|&byte| byte != 0)).unwrap();
    flip(&path, end as u64 * 4096 + 10);
    cluster.start(3);
    await_sequences(&mut Client::connect(cluster.validators[3].submission), 4, 1);
    let mut client = Client::connect(cluster.validators[3].submission);
    let reply = client.submit(&[cluster.transfer(0, 2, &[(1, 7)])]);
    assert_eq!(reply[0].code, Code::Committed);
}

#[test]
fn two_nodes_never_share_a_data_directory() {
    let mut cluster = Cluster::new(4, 4, 1, 1, 4);
    cluster.start(0);
    drop(Client::connect(cluster.validators[0].submission));
    let error = cluster.run_to_end(0).expect_err("the first one runs").to_string();
    assert!(error.contains("data directory") || error.contains("another"), "{error}");
}
