//! Valid inputs of every target: what corpora begin with, and what golden files hold.

use std::path::Path;

use bytes::Bytes;
use dag::{
    Address, Block, Certificate, Hash, VoteBundle, client::Code, hash::Domain, state_tree::AccountLeaf,
    wire::Reader,
};
use engine::node::{OutcomeRecord, frame::Frame};
use pbft::{Message, NewView, PreparedEntry, Record, ViewChange};
use shard_core::Failed;

use crate::{golden::Golden, targets};

/// A name and the bytes.
pub type Sample = (&'static str, Vec<u8>);

/// The golden files of `dag`.
fn ledger() -> Golden {
    Golden::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dag/tests/golden"), "dag", "golden")
}

/// Samples of a target.
///
/// # Panics
/// Where golden files of other crates can't be read.
pub fn of(target: &str) -> Vec<Sample> {
    let read = |names: &[&'static str]| names.iter().map(|name| (*name, ledger().read(name))).collect();
    let frames = |names: &[&'static str]| {
        names.iter().map(|name| (*name, ledger().read(name)[4..].to_vec())).collect()
    };
    match target {
        "transaction" => read(&["transfer", "multi_transfer"]),
        "block" => read(&["block"]),
        "receipt" => read(&["receipt"]),
        "vote_bundle" => read(&["bundle"]),
        "certificate" => read(&["prepare_certificate", "commit_certificate", "checkpoint_certificate"]),
        "account_proof" => read(&["account_proof", "account_proof_odd"]),
        "checkpoint" => read(&["checkpoint_preimage"]),
        "client_request" => frames(&["client_submit", "client_account"]),
        "client_response" => frames(&["client_replies", "client_account_found", "client_account_unknown"]),
        "address" => vec![("address", Address([7; 32]).to_string().into_bytes())],
        "amount" => vec![("whole", b"12".to_vec()), ("decimal", b"18446744073709.551615".to_vec())],
        "pbft_message" => messages(),
        "pbft_record" => records(),
        "replica" => scripts(),
        "frame_stream" => vec![("frames", [&[3; 8][..], &[1, 0, 0, 0, 7], &[2, 0, 0, 0, 8, 9]].concat())],
        "channel_garbage" => vec![("hello", client_hello())],
        "channel_tampered" => {
            vec![("too_late", vec![0x7f, 0xff, 1]), ("no_bit", vec![0, 20, 0, 0x80, 90, 0])]
        }
        "peer_frame" => peer_frames(),
        "outcome" => outcomes(),
        "log_segment" => vec![("segment", engine_file("log.bin")[..4096].to_vec())],
        "log_group" => vec![("group", engine_file("log.bin")[4096..].to_vec())],
        "snapshot" => vec![("snapshot", engine_file("snapshot.bin"))],
        "genesis" => vec![("genesis", genesis())],
        "config" => vec![("example", include_bytes!("../../../engine/examples/node.toml").to_vec())],
        "signatures" => vec![("rfc8032", include_bytes!("../corpus/signatures/valid-rfc8032").to_vec())],
        "state_head" => heads(),
        "state_accounts" => vec![("accounts", accounts())],
        "frame" => targets::frame::frames(),
        "stun" => targets::turn::requests(),
        "turn_server" => targets::turn::scripts(),
        "vpn_datagram" => vec![("nothing", vec![0, 0])],
        "vpn_packet" => targets::vpn::packets(),
        "vpn_config" => vec![("usual", targets::vpn::CONFIG.to_vec())],
        _ => Vec::new(),
    }
}

fn block() -> Block {
    Block::parse(ledger().read("block").into()).expect("a golden block")
}

fn certificate(name: &str) -> Certificate {
    Certificate::decode(&mut Reader::new(&ledger().read(name))).expect("a golden certificate")
}

/// View changes for view 2, of which the first has most to say.
fn view_changes() -> Vec<ViewChange> {
    let block = block();
    let entry = PreparedEntry {
        header: *block.bytes().first_chunk().expect("a block has a header"),
        certificate: certificate("prepare_certificate"),
    };
    let change = |replica, committed, prepared| ViewChange {
        replica,
        view: 2,
        committed,
        prepared,
        signature: [0xe1; 64],
    };
    vec![
        change(0, Some(certificate("commit_certificate")), vec![entry.clone()]),
        change(1, None, vec![entry]),
        change(3, None, Vec::new()),
    ]
}

fn new_view() -> NewView {
    NewView { view: 2, changes: view_changes(), signature: [0xe2; 64] }
}

/// One message of each kind.
pub fn messages() -> Vec<Sample> {
    let change = view_changes().remove(0);
    let messages = [
        ("proposal", Message::Proposal { view: 1, block: block() }),
        ("view_change", Message::ViewChange(Box::new(change))),
        ("new_view", Message::NewView(Box::new(new_view()))),
        ("status", Message::Status { view: 1, active: true, committed: 11, stable: 8 }),
        ("fetch_blocks", Message::FetchBlocks { from: 12, to: 75 }),
        ("blocks", Message::Blocks(vec![(certificate("commit_certificate"), block())])),
        ("fetch_body", Message::FetchBody { height: 12, digest: block().hash() }),
        ("body", Message::Body(block())),
        ("fetch_view", Message::FetchView { view: 2 }),
        ("stable_checkpoint", Message::StableCheckpoint(certificate("checkpoint_certificate"))),
        ("suspect", Message::Suspect { view: 1 }),
    ];
    let encode = |message: &Message| {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    };
    messages.iter().map(|(name, message)| (*name, encode(message))).collect()
}

/// One record of each kind.
pub fn records() -> Vec<Sample> {
    let change = view_changes().remove(0);
    let records = [
        ("proposal", Record::Proposal { view: 1, block: block() }),
        ("vote", Record::Vote(certificate("commit_certificate").vote)),
        ("prepared", Record::Prepared(certificate("prepare_certificate"))),
        ("committed", Record::Committed(certificate("commit_certificate"))),
        ("view_change", Record::ViewChange(Box::new(change))),
        ("new_view", Record::NewView(Box::new(new_view()))),
        ("stable", Record::Stable(certificate("checkpoint_certificate"))),
    ];
    let encode = |record: &Record| {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        bytes
    };
    records.iter().map(|(name, record)| (*name, encode(record))).collect()
}

/// One frame of each kind between validators.
pub fn peer_frames() -> Vec<Sample> {
    let records = [ledger().read("transfer"), ledger().read("multi_transfer")].map(Bytes::from);
    let bundle = VoteBundle::parse(&ledger().read("bundle")).expect("a golden bundle");
    let frames = [
        ("hello", Frame::Hello { lane: 1, genesis: Domain::GENESIS.hash(b"golden") }),
        ("transactions", Frame::Transactions(records.into())),
        ("agreement", Frame::Agreement(5, Message::Suspect { view: 1 })),
        ("votes", Frame::Votes(bundle)),
        ("want_state", Frame::WantState { table: 5, above: 8, offset: 4096 }),
        (
            "state",
            Frame::State { table: 5, height: 16, offset: 4096, total: 8192, bytes: vec![0xe3; 40].into() },
        ),
        ("no_state", Frame::NoState(5)),
        ("want_claim", Frame::WantClaim { table: 5, above: 8 }),
        ("claim", Frame::Claim { table: 5, height: 16, digest: Domain::CHECKPOINT.hash(b"golden") }),
    ];
    frames.iter().map(|(name, frame)| (*name, frame.encode().to_vec())).collect()
}

/// The log's record of a block of which the second transaction failed, and of one without failures.
pub fn outcomes() -> Vec<Sample> {
    let failed = Failed::decode(&mut Reader::new(&[1, 0, 1, 0])).expect("one index");
    let outcome = |failed: Failed| {
        let causes = vec![Code::Overdraft; failed.len()];
        let mut bytes = Vec::new();
        OutcomeRecord { table: 5, height: 12, hash: block().hash(), failed, causes }.encode(&mut bytes);
        bytes
    };
    vec![("some_failed", outcome(failed)), ("none_failed", outcome(Failed::default()))]
}

/// A golden file of `engine`, whose own tests check it.
fn engine_file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../engine/tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first bytes that a node sends when it calls another.
fn client_hello() -> Vec<u8> {
    use netio::channel::{Channel, ChannelConfig, ChannelLimits, Identity};
    let peer = Identity::from_seed([4; 32]).public_key();
    let config = ChannelConfig::new(Identity::from_seed([3; 32]), [peer], ChannelLimits::default());
    Channel::client(&config, peer).take_tls().expect("a caller speaks first").to_vec()
}

fn genesis() -> Vec<u8> {
    let mut text =
        String::from("version = 1\nname = \"fuzz\"\ntables = 16\nlanes = 4\ntime = 1767225600000000\n");
    text += &format!("[allocations]\ncount = 0\nblake3 = \"{}\"\n", blake3::hash(b""));
    for seed in 1..=4 {
        let key = dag::keys::KeyPair::from_seed(&[seed; 32]).address();
        text += &format!("[[validator]]\nname = \"v{seed}\"\nkey = \"{key}\"\n");
    }
    text.into_bytes()
}

/// Counters and receipts in flight: none, and two deliveries for one table.
fn heads() -> Vec<Sample> {
    use dag::{receipt::Receipt, wire::Put};
    use targets::state::{TABLE, TABLES, empty_counters};
    let (meta, outbox) = empty_counters();
    let mut begun = Vec::new();
    meta.encode(&mut begun);
    let mut busy = begun.clone();
    busy.put(&outbox[..8]);
    for to in 0..TABLES {
        busy.put_u32(if to == 2 { 2 } else { 0 });
        for height in [1, 5_u64].into_iter().filter(|_| to == 2) {
            let number = height.div_ceil(2).min(2);
            busy.put_u64(number);
            busy.put_u64(height);
            busy.put(&[8; 32]);
            busy.put_u64(3);
            busy.put_u32(1);
            let (payee, transaction) = (Address([6; 32]), Hash([5; 32]));
            Receipt { from: TABLE, to, number, height, payee, amount: 4, transaction }.encode(&mut busy);
        }
    }
    begun.put(&outbox);
    vec![("begun", begun), ("busy", busy)]
}

/// Three accounts, parted after the first.
fn accounts() -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 0];
    for number in 1..=3 {
        let leaf = AccountLeaf { address: Address([number; 32]), balance: 5, ..AccountLeaf::default() };
        bytes.extend_from_slice(&leaf.to_bytes());
    }
    bytes
}

/// Scripts that commit a block, change the view, are lied to, and come back after a crash; see `targets::replica`.
fn scripts() -> Vec<Sample> {
    // A block upon the genesis by the primary of view 0; its proposal, approval, prepare and commit votes; execution.
    let commit = [0, 1, 0, 1, 3, 0, 0, 1, 7, 0, 1, 1, 5, 0, 1, 0, 0, 5, 0, 0, 0, 0, 17];
    let suspect = [9, 0, 0, 9, 1, 0, 9, 3, 0];
    let change = [10, 0, 1, 0, 0, 0, 10, 1, 1, 0, 0, 0, 10, 3, 1, 0, 0, 0];
    let enter = [11, 3, 1, 0];
    // Votes for a block of height 2, then learns that another one than its parent is committed, and is offered a child of that.
    let blocks = [0, 1, 0, 1, 0, 2, 0, 0, 1, 0, 1, 0, 2, 0, 2, 2, 0, 2];
    let vote = [3, 0, 0, 1, 3, 1, 0, 1, 7, 0, 1, 1, 7, 0, 1, 1];
    let other = [12, 1, 2, 0, 3, 3, 3, 0, 1, 7, 0, 1, 1];
    let script = |parts: &[&[u8]]| parts.concat();
    vec![
        ("commit", script(&[&commit])),
        ("commit_and_restart", script(&[&commit, &[19]])),
        ("other_parent", script(&[&blocks, &vote, &other])),
        ("change_view", script(&[&suspect, &change, &enter, &[2, 1]])),
        ("all", script(&[&commit, &suspect, &change, &enter, &[2, 1, 15, 15, 19, 16, 4, 1, 1, 0]])),
    ]
}
