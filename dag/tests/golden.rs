//! The bytes of every structure of the ledger, as written down in `tests/golden`. Each is also read back.
//!
//! The files are test vectors for other implementations: the keys are those of the seeds 01…01 to 06…06, and all values stand here.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "golden/mod.rs"]
mod file;

use dag::{
    Address, Block, Certificate, Committee, Hash, InboxRef, Transaction, Vote, VoteBundle, VoteKind,
    client::{self, AccountState, Code, Reply, Response},
    hash::Domain,
    keys::KeyPair,
    merkle,
    receipt::Receipt,
    state_tree::{AccountLeaf, AccountProof, CheckpointPreimage},
    table_block::{BlockBuilder, BlockHeader},
    transaction::{self, Payee, Terms},
    unit::{Cause, Unit},
    wire::Reader,
};
use file::Golden;

const CHAIN: u64 = 0x1122_3344_5566_7788;
const EPOCH: u32 = 7;
const TABLE: u16 = 5;

fn golden() -> Golden {
    Golden::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "dag", "golden")
}

fn check(name: &str, bytes: &[u8]) {
    golden().check(name, bytes);
}

fn key(number: u8) -> KeyPair {
    KeyPair::from_seed(&[number; 32])
}

fn signed(sequence: u64, payees: &[Payee]) -> Vec<u8> {
    transaction::sign(&key(1), &Terms { chain: CHAIN, epoch: EPOCH, sequence, fee: 10 }, payees).unwrap()
}

fn transfer() -> Vec<u8> {
    signed(41, &[Payee { to: key(2).address(), amount: 1_500_000 }])
}

fn multi_transfer() -> Vec<u8> {
    let payee = |number: u8| Payee { to: key(number).address(), amount: u64::from(number) * 1000 };
    signed(42, &[payee(2), payee(3), payee(4)])
}

fn unit() -> Unit {
    Unit {
        account: key(1).address(),
        height: 9,
        previous: Hash([0xa1; 32]),
        cause: Cause::Sent(Transaction::parse(&transfer()).unwrap().id()),
        balance: 98_499_990,
    }
}

fn receipt() -> Receipt {
    let payee = Transaction::parse(&transfer()).unwrap().payees().next().unwrap();
    let transaction = Transaction::parse(&transfer()).unwrap().id();
    Receipt { from: TABLE, to: 9, number: 3, height: 12, payee: payee.to, amount: payee.amount, transaction }
}

fn block() -> Block {
    let mut builder = BlockBuilder::new();
    builder.push_inbox(InboxRef { table: 2, height: 11, hash: Hash([0xb1; 32]) });
    builder.push_inbox(InboxRef { table: 9, height: 10, hash: Hash([0xb2; 32]) });
    for bytes in [transfer(), multi_transfer()] {
        let transaction = Transaction::parse(&bytes).unwrap();
        assert!(builder.push(transaction.id(), &transaction));
    }
    builder.seal(BlockHeader {
        chain: CHAIN,
        epoch: EPOCH,
        table: TABLE,
        height: 12,
        view: 1,
        time: 1_767_225_600_000_000,
        proposer: 2,
        parent: Hash([0xb3; 32]),
        transactions_root: Hash::ZERO,
        inbox_root: Hash::ZERO,
        checkpoint_height: 8,
        checkpoint: Hash([0xb4; 32]),
    })
}

fn committee() -> Committee {
    Committee::new(CHAIN, EPOCH, (3..=6).map(|number| key(number).public()).collect()).unwrap()
}

fn votes() -> Vec<Vote> {
    let prepare = Vote {
        kind: VoteKind::Prepare,
        checked: true,
        table: TABLE,
        view: 1,
        height: 12,
        digest: block().hash(),
    };
    let commit =
        Vote { kind: VoteKind::Commit, checked: false, height: 11, digest: Hash([0xb3; 32]), ..prepare };
    let checkpoint = Vote {
        kind: VoteKind::Checkpoint,
        checked: false,
        view: 0,
        height: 8,
        digest: preimage().digest(),
        ..prepare
    };
    vec![prepare, commit, checkpoint]
}

fn bundle(replica: u16) -> VoteBundle {
    let seed = u8::try_from(replica + 3).unwrap();
    VoteBundle::sign(&key(seed), &committee(), replica, 1, votes())
}

fn certificate(index: usize) -> Certificate {
    let vote = Vote { checked: false, ..votes()[index] };
    Certificate { vote, proofs: (0..3).map(|replica| bundle(replica).proof(index)).collect() }
}

fn leaves() -> Vec<AccountLeaf> {
    let leaf = |number: u8| AccountLeaf {
        address: key(number).address(),
        balance: u64::from(number) * 1_000_000,
        sequence: u64::from(number) + 40,
        unit_height: u64::from(number) + 8,
        unit_head: Hash([0xc0 + number; 32]),
    };
    (1..=5).map(leaf).collect()
}

fn preimage() -> CheckpointPreimage {
    let hashes: Vec<Hash> = leaves().iter().map(AccountLeaf::hash).collect();
    CheckpointPreimage {
        chain: CHAIN,
        epoch: EPOCH,
        table: TABLE,
        height: 8,
        block: Hash([0xd1; 32]),
        accounts: 5,
        accounts_root: merkle::root(&hashes),
        meta: Hash([0xd2; 32]),
        outbox: Hash([0xd3; 32]),
    }
}

fn account_proof(position: u8) -> AccountProof {
    let (leaves, index) = (leaves(), usize::from(position));
    let hashes: Vec<Hash> = leaves.iter().map(AccountLeaf::hash).collect();
    let path = merkle::path(&hashes, index);
    AccountProof { leaf: leaves[index], position: u64::from(position), accounts: 5, path }
}

/// A frame without its length, as parsers get it.
fn body(frame: &[u8]) -> &[u8] {
    frame.split_first_chunk::<4>().unwrap().1
}

#[test]
fn transactions() {
    check("transfer", &transfer());
    assert_eq!(golden().read("transfer"), transfer());
    check("multi_transfer", &multi_transfer());
    assert_eq!(Transaction::parse(&multi_transfer()).unwrap().total(), 9_010);
}

#[test]
fn units_and_receipts() {
    check("unit", &unit().to_bytes());
    let mut bytes = Vec::new();
    receipt().encode(&mut bytes);
    check("receipt", &bytes);
    assert_eq!(Receipt::decode(&mut Reader::new(&bytes)), Ok(receipt()));
}

#[test]
fn table_block() {
    let block = block();
    check("block", block.bytes());
    assert_eq!(Block::parse(block.bytes().clone()).unwrap().header(), block.header());
}

#[test]
fn agreement() {
    let vote = votes()[0];
    check("vote", &vote.to_bytes());
    assert_eq!(Vote::parse(&vote.to_bytes()), Ok(vote));
    let bundle = bundle(2);
    check("bundle", &bundle.to_bytes());
    assert_eq!(VoteBundle::parse(&bundle.to_bytes()), Ok(bundle));
    for (index, name) in
        ["prepare_certificate", "commit_certificate", "checkpoint_certificate"].iter().enumerate()
    {
        let certificate = certificate(index);
        let mut bytes = Vec::new();
        certificate.encode(&mut bytes);
        check(name, &bytes);
        assert_eq!(Certificate::decode(&mut Reader::new(&bytes)), Ok(certificate));
    }
}

#[test]
fn client_frames() {
    let mut frame = Vec::new();
    client::encode_submit(100, [&transfer()[..], &multi_transfer()].into_iter(), &mut frame);
    check("client_submit", &frame);
    frame.clear();
    client::encode_account(101, &key(1).address(), &mut frame);
    check("client_account", &frame);
    let state = AccountState {
        balance: 98_499_990,
        sequence: 41,
        pending: 42,
        unit_height: 9,
        unit_head: unit().hash(),
    };
    let replies = vec![
        Reply { tag: 100, code: Code::Committed, table: TABLE, height: 12, index: 0 },
        Reply::refused(101, Code::GappedSequence),
    ];
    for (name, response) in [
        ("client_replies", Response::Replies(replies)),
        ("client_account_found", Response::Account { tag: 101, state: Some(state) }),
        ("client_account_unknown", Response::Account { tag: 101, state: None }),
    ] {
        frame.clear();
        response.encode_frame(&mut frame);
        check(name, &frame);
        assert_eq!(Response::parse(body(&frame)), Ok(response));
    }
}

#[test]
fn state() {
    check("account_leaf", &leaves()[0].to_hashed_bytes());
    check("checkpoint_preimage", &preimage().to_bytes());
    assert_eq!(CheckpointPreimage::decode(&mut Reader::new(&preimage().to_bytes())), Ok(preimage()));
    // The fifth of five accounts moves up twice without a sibling: its path is shorter.
    for (name, position) in [("account_proof", 2), ("account_proof_odd", 4)] {
        let proof = account_proof(position);
        assert!(proof.verify(&preimage()));
        let mut bytes = Vec::new();
        proof.encode(&mut bytes);
        check(name, &bytes);
        assert_eq!(AccountProof::decode(&mut Reader::new(&bytes)), Ok(proof));
    }
}

/// Every hash that is signed, named or proven, one a line.
#[test]
fn hashes() {
    let (transfer, multi_transfer) = (transfer(), multi_transfer());
    let [transfer, multi_transfer] =
        [&transfer, &multi_transfer].map(|bytes| Transaction::parse(bytes).unwrap());
    let block = block();
    let genesis = Unit { cause: Cause::Genesis(Hash([0xa2; 32])), ..unit() };
    let hashes = [
        ("transfer: id, which is signed", transfer.id()),
        ("transfer: leaf of the transactions root", transaction::leaf(&transfer.id(), transfer.signature())),
        ("multi_transfer: id", multi_transfer.id()),
        ("unit", unit().hash()),
        ("unit with cause 4 (genesis a2…a2)", genesis.hash()),
        ("receipt", receipt().hash()),
        ("block", block.hash()),
        ("block: transactions root", block.header().transactions_root),
        ("block: inbox root", block.header().inbox_root),
        ("vote: leaf of its bundle", votes()[0].leaf()),
        ("bundle: what is signed", bundle(2).digest()),
        ("account_leaf", leaves()[0].hash()),
        ("checkpoint_preimage: digest", preimage().digest()),
        (
            "hash of the first account's address: its first bits are the table",
            Domain::ADDRESS.hash(&key(1).address().to_hashed_bytes()),
        ),
    ];
    let text: String = hashes.iter().map(|(name, hash)| format!("{hash} # {name}\n")).collect();
    Golden::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "dag", "golden")
        .check_text("hashes", &text);
}

#[test]
fn address_text() {
    let address = key(1).address();
    assert_eq!(address.to_string(), "top132yw8ht5p8cetl2jmvknewjawt9xwzdlrk2pyxlnwjyqrdq0dawqw703vd");
    assert_eq!(address.table(16), 0x9);
    assert_eq!(address.to_string().parse::<Address>(), Ok(address));
}

/// A file that no test checks would be a promise that nobody keeps.
#[test]
fn no_file_is_left_over() {
    let source = include_str!("golden.rs");
    for name in golden().names() {
        assert!(source.contains(&format!("\"{name}\"")), "{name}.hex belongs to no test");
    }
}
