//! Whole runs against nodes that behave and nodes that do not. Checks hold on a slow machine too: times are only
//! compared from below, where the node guarantees them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dag::client::Code;

use super::{
    accounts::account_keys,
    fake_node::{FakeNode, Ledger, Manners},
    *,
};

const ACCOUNTS: u32 = 40;

fn network(manners: impl IntoIterator<Item = Manners>) -> (Arc<Mutex<Ledger>>, Vec<FakeNode>) {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let nodes = manners.into_iter().map(|manners| FakeNode::start(&ledger, manners)).collect();
    (ledger, nodes)
}

fn target(nodes: &[FakeNode]) -> Target {
    let submission: Vec<_> = nodes.iter().map(|node| node.address).collect();
    let validators = u16::try_from(nodes.len()).unwrap();
    Target { submission, chain: 1, epoch: 0, tables: 16, validators }
}

fn workload(rate: u64, milliseconds: u64) -> Workload {
    let duration = Duration::from_millis(milliseconds);
    let accounts = account_keys(&[7; 32], ACCOUNTS);
    Workload {
        warm_up: Duration::ZERO,
        drain: Duration::from_secs(60),
        stall_timeout: Duration::from_secs(30),
        ..Workload::transfers(accounts, rate, duration)
    }
}

fn run(nodes: &[FakeNode], workload: Workload) -> LoadResult {
    let prepared = prepare(&target(nodes), workload, &mut |_| {}).unwrap();
    let result = prepared.run(None, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert_eq!(result.offered, result.committed + result.rejected.values().sum::<u64>() + result.unanswered);
    assert_eq!(result.committed, result.latency.len());
    assert_eq!(result.committed, result.samples.iter().map(|sample| sample.committed).sum::<u64>());
    result
}

#[test]
fn the_rate_is_kept_and_latency_is_measured() {
    let slow = Manners { delay: Duration::from_millis(20), ..Manners::default() };
    let (ledger, nodes) = network(vec![slow; 4]);
    let workload = Workload { connections: 2, ..workload(2_000, 1_500) };
    let prepared = prepare(&target(&nodes), workload, &mut |_| {}).unwrap();
    assert_eq!(prepared.transactions(), 3_000);
    let mut news = Vec::new();
    let stop = AtomicBool::new(false);
    let result = prepared.run(None, &stop, &mut |progress| news.push(progress.clone())).unwrap();

    assert_eq!((result.offered, result.committed, result.unanswered, result.unsent), (3_000, 3_000, 0, 0));
    assert!(result.rejected.is_empty(), "{:?}", result.rejected);
    assert_eq!(ledger.lock().unwrap().len(), 3_000);
    assert!(ledger.lock().unwrap().seen.values().all(|&times| times == 1));
    assert!(nodes.iter().all(|node| node.received() > 0));
    assert!(result.latency.at(0.0) >= 20_000, "the node waits 20 ms");
    assert!(result.committed_per_second <= 2_000.0);
    assert_eq!(result.samples[0].offered, 2_000);
    assert_eq!(result.samples[1].offered, 1_000);
    assert_eq!((news[0].phase, news[0].offered), (Phase::Measured, 2_000));
    assert_eq!((result.lost_connections, result.resubmitted, result.retried), (0, 0, 0));
}

#[test]
fn the_warm_up_is_sent_but_not_counted() {
    let (ledger, nodes) = network([Manners::default()]);
    let workload = Workload { warm_up: Duration::from_millis(300), ..workload(1_000, 200) };
    let prepared = prepare(&target(&nodes), workload, &mut |_| {}).unwrap();
    let result = prepared.run(None, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert_eq!((result.offered, result.committed), (200, 200));
    assert_eq!(ledger.lock().unwrap().len(), 500);
}

#[test]
fn a_stall_is_suffered_by_all_that_were_due_in_it() {
    let stalls = Manners { stall_at: Some((300, Duration::from_millis(500))), ..Manners::default() };
    let (_ledger, nodes) = network([stalls]);
    let result = run(&nodes, workload(1_000, 1_000));
    assert_eq!(result.committed, 1_000);
    // Of the 500 due within the stall, half waited longer than its half. A generator that waits for the server would
    // have found one slow answer.
    let slow = result.latency.as_hdr().count_between(250_000, u64::MAX);
    assert!(slow >= 230, "{slow} of 1,000 waited 250 ms");
    assert!(result.latency.percentiles().max >= 450_000);
}

#[test]
fn refusals_are_counted_by_cause() {
    // Refused in execution: the sequence is used up, as in the ledger, so that the next is no gap.
    let (_ledger, nodes) = network([Manners {
        judge: |transaction, _| match transaction.sequence() % 3 {
            0 => Some(Code::Overdraft),
            1 => Some(Code::Underpriced),
            _ => Some(Code::Committed),
        },
        ..Manners::default()
    }]);
    let result = run(&nodes, workload(2_000, 300));
    let [overdrafts, underpriced] = ["overdraft", "underpriced"].map(|cause| result.rejected[cause]);
    assert!(overdrafts > 0 && underpriced > 0);
    assert_eq!(result.committed + overdrafts + underpriced, 600);
    assert_eq!((result.unanswered, result.retried), (0, 0));
}

#[test]
fn later_means_later() {
    let full = Manners {
        judge: |transaction, before| {
            (before == 0 && transaction.sequence() % 5 == 0).then_some(Code::MempoolFull)
        },
        ..Manners::default()
    };
    let (ledger, nodes) = network([full.clone()]);
    let result = run(&nodes, workload(2_000, 300));
    assert_eq!((result.committed, result.rejected.len()), (600, 0));
    assert!(result.retried >= 600 / 5 - u64::from(ACCOUNTS));
    assert_eq!(ledger.lock().unwrap().len(), 600);
    assert!(result.latency.percentiles().max >= 100_000, "intended times do not move");

    let (_ledger, nodes) = network([full]);
    let result = run(&nodes, Workload { retries: 0, ..workload(2_000, 300) });
    assert!(result.rejected["mempool full"] > 0 && result.rejected["gapped sequence"] > 0);
    assert_eq!(result.retried, 0);
}

#[test]
fn a_lost_connection_loses_no_transaction() {
    let drops = Manners { drop_at: Some(40), delay: Duration::from_millis(30), ..Manners::default() };
    let (ledger, nodes) = network([drops, Manners::default(), Manners::default(), Manners::default()]);
    let result = run(&nodes, Workload { retries: 0, ..workload(2_000, 500) });
    assert_eq!((result.committed, result.unanswered), (1_000, 0));
    assert!(result.rejected.is_empty(), "{:?}", result.rejected);
    assert_eq!(ledger.lock().unwrap().len(), 1_000);
    assert_eq!(result.lost_connections, 1);
    assert!(result.resubmitted >= 1);
}

#[test]
fn a_stream_goes_home_once_its_validator_is_back() {
    let (ledger, mut nodes) = network(vec![Manners::default(); 2]);
    let workload = workload(500, 3_000);
    let prepared = prepare(&target(&nodes), workload, &mut |_| {}).unwrap();
    let home = nodes.remove(0);
    let (address, mut home) = (home.address, Some(home));
    let mut intervals = 0;
    let result = prepared.run(None, &AtomicBool::new(false), &mut |_| {
        intervals += 1;
        match intervals {
            1 => drop(home.take()),
            2 => home = Some(FakeNode::start_at(address, &ledger, Manners::default())),
            _ => {}
        }
    });
    let result = result.unwrap();
    assert_eq!((result.committed, result.unanswered, result.lost_connections), (1_500, 0, 1));
    assert!(result.rejected.is_empty(), "{:?}", result.rejected);
    assert!(home.unwrap().received() > 0, "after its return");
}

#[test]
fn a_silent_validator_is_left() {
    let mute = Manners { mute: true, ..Manners::default() };
    let (ledger, nodes) = network([mute, Manners::default()]);
    let result = run(&nodes, Workload { stall_timeout: Duration::from_millis(200), ..workload(500, 600) });
    assert_eq!((result.committed, result.unanswered), (300, 0));
    assert!(result.lost_connections >= 1 && result.resubmitted >= 1);
    assert_eq!(ledger.lock().unwrap().len(), 300);
}

#[test]
fn a_validator_that_takes_nothing_is_left() {
    let behind = Manners { judge: |_, _| Some(Code::Unavailable), ..Manners::default() };
    let (ledger, nodes) = network([behind, Manners::default()]);
    // The home is tried for longer than one transaction's retries last.
    let result = run(&nodes, workload(500, 3_000));
    assert_eq!((result.committed, result.unanswered, result.lost_connections), (1_500, 0, 0));
    assert!(result.rejected.is_empty(), "{:?}", result.rejected);
    assert!(result.retried >= 1);
    assert_eq!(ledger.lock().unwrap().len(), 1_500);
}

#[test]
fn the_only_validator_is_not_left() {
    // The network was behind for a second and a half.
    let behind =
        Manners { judge: |_, before| (before < 15).then_some(Code::Unavailable), ..Manners::default() };
    let (_ledger, nodes) = network([behind]);
    let result = run(&nodes, Workload { accounts: account_keys(&[7; 32], 2), ..workload(100, 100) });
    assert_eq!((result.committed, result.lost_connections), (10, 0));
    assert_eq!(nodes[0].connections(), 2, "one to ask for the sequences, one for the load");
}

#[test]
fn what_nobody_answers_is_reported() {
    let (_ledger, nodes) = network([Manners { mute: true, ..Manners::default() }]);
    let result = run(&nodes, Workload { drain: Duration::from_millis(50), ..workload(1_000, 100) });
    assert_eq!((result.offered, result.committed, result.unanswered, result.unsent), (100, 0, 100, 0));

    // Nobody is there at all once the run begins.
    let (_ledger, nodes) = network([Manners::default()]);
    let workload = Workload { drain: Duration::from_millis(50), ..workload(1_000, 100) };
    let prepared = prepare(&target(&nodes), workload, &mut |_| {}).unwrap();
    drop(nodes);
    let result = prepared.run(None, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert_eq!((result.unanswered, result.unsent, result.lost_connections), (100, 100, 0));
}

#[test]
fn a_stop_ends_the_load_in_order() {
    let (ledger, nodes) = network([Manners::default()]);
    let prepared = prepare(&target(&nodes), workload(500, 60_000), &mut |_| {}).unwrap();
    let stop = AtomicBool::new(false);
    let result = prepared.run(None, &stop, &mut |_| stop.store(true, Ordering::Relaxed)).unwrap();
    assert!(result.offered >= 500 && result.offered < 30_000 && result.duration_s >= 1.0);
    assert_eq!((result.committed, result.unanswered), (result.offered, 0));
    assert_eq!(ledger.lock().unwrap().len() as u64, result.offered);
}

#[test]
fn acknowledgements_are_listed() {
    let overdrafts = Manners {
        judge: |transaction, _| (transaction.sequence() == 103).then_some(Code::Overdraft),
        ..Manners::default()
    };
    let (ledger, nodes) = network(vec![overdrafts; 2]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acks");
    let workload = Workload { retries: 0, ..workload(1_000, 200) };
    let prepared = prepare(&target(&nodes), workload, &mut |_| {}).unwrap();
    let result = prepared.run(Some(&path), &AtomicBool::new(false), &mut |_| {}).unwrap();
    let acks = read_acks(&path).unwrap();
    assert!(!acks.is_empty() && !result.rejected.is_empty());
    assert_eq!(acks.len() as u64, result.committed);
    let ledger = ledger.lock().unwrap();
    assert!(acks.iter().all(|ack| ledger.holds(&ack.sender, ack.sequence, &ack.id)));
    assert!(acks.iter().all(|ack| (ack.table, ack.height, ack.index) == (1, 2, 3)));
}

#[test]
fn any_routing_serves_too_and_another_run_continues_the_sequences() {
    let (ledger, nodes) = network(vec![Manners::default(); 3]);
    for round in 1..=2 {
        let result = run(&nodes, Workload { routing: Routing::Any, payees: 5, ..workload(1_000, 100) });
        assert_eq!((result.committed, result.rejected.len()), (100, 0));
        assert_eq!(ledger.lock().unwrap().len(), 100 * round);
        assert!((result.payees_per_second - 5.0 * result.committed_per_second).abs() < 1e-6);
    }
}

#[test]
fn a_validator_that_is_behind_does_not_tell_the_sequences() {
    let (_ledger, mut nodes) = network([Manners::default()]);
    assert_eq!(run(&nodes, workload(1_000, 100)).committed, 100);
    // It knows nothing of the first run.
    let behind = Manners { judge: |_, _| Some(Code::Unavailable), ..Manners::default() };
    nodes.insert(0, FakeNode::start(&Arc::default(), behind));
    let result = run(&nodes, workload(1_000, 100));
    assert_eq!((result.committed, result.rejected.len()), (100, 0), "{:?}", result.rejected);
}

#[test]
fn any_validator_that_answers_tells_the_sequences() {
    let (_ledger, nodes) = network(vec![Manners::default(); 2]);
    let mut target = target(&nodes);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    target.submission[0] = closed;
    assert!(prepare(&target, workload(100, 100), &mut |_| {}).is_ok());
    target.submission[1] = closed;
    let error = prepare(&target, workload(100, 100), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("is a node running there"), "{error}");
}

#[test]
fn impossible_workloads_are_refused() {
    let (_ledger, nodes) = network([Manners::default()]);
    let refused =
        |workload: Workload| prepare(&target(&nodes), workload, &mut |_| {}).unwrap_err().to_string();
    let good = || workload(100, 100);
    assert!(refused(Workload { amount: 0, ..good() }).contains("at least 1 micro-TOP"));
    assert!(refused(Workload { payees: 0, ..good() }).contains("1 to 255 payees"));
    assert!(refused(Workload { payees: 2, amount: u64::MAX / 2 + 1, ..good() }).contains("2⁶⁴"));
    assert!(refused(Workload { rate: 0, ..good() }).contains("rate"));
    assert!(refused(Workload { duration: Duration::ZERO, ..good() }).contains("no time"));
    assert!(refused(Workload { accounts: account_keys(&[1; 32], 1), ..good() }).contains("2 accounts"));
    let long = Workload { rate: 1_000_000, duration: Duration::from_secs(3_600), ..good() };
    assert!(refused(long).contains("GiB"));
}
