//! Messages and records: any bytes are handled, and one meaning has one byte string.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use bytes::Bytes;
use dag::{
    Block, Certificate, Hash, Vote, VoteKind,
    hash::Domain,
    table_block::{BlockBuilder, BlockHeader},
    vote::VoteProof,
};
use pbft::{Message, NewView, PreparedEntry, Record, ViewChange};
use proptest::prelude::*;

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

fn kind() -> impl Strategy<Value = VoteKind> {
    prop_oneof![Just(VoteKind::Prepare), Just(VoteKind::Commit), Just(VoteKind::Checkpoint)]
}

fn vote() -> impl Strategy<Value = Vote> {
    (kind(), any::<u16>(), any::<u64>(), any::<u64>(), hash()).prop_map(
        |(kind, table, view, height, digest)| {
            let view = if kind == VoteKind::Checkpoint { 0 } else { view };
            Vote { kind, checked: false, table, view, height, digest }
        },
    )
}

fn signature() -> impl Strategy<Value = [u8; 64]> {
    any::<[[u8; 32]; 2]>().prop_map(|halves| {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&halves[0]);
        signature[32..].copy_from_slice(&halves[1]);
        signature
    })
}

/// Bundles of one to four votes; their paths have up to two hashes.
fn proof(replica: u16) -> impl Strategy<Value = VoteProof> {
    (1..5u16, any::<u16>(), any::<u16>(), hash(), signature()).prop_map(
        move |(count, index, lane, hash, signature)| {
            let index = index % count;
            let length = dag::merkle::path_length(usize::from(index), usize::from(count));
            VoteProof { replica, checked: false, lane, count, index, path: vec![hash; length], signature }
        },
    )
}

fn certificate() -> impl Strategy<Value = Certificate> {
    (vote(), 0..4u16).prop_flat_map(|(vote, count)| {
        let proofs: Vec<_> = (0..count).map(proof).collect();
        proofs.prop_map(move |proofs| Certificate { vote, proofs })
    })
}

fn block() -> impl Strategy<Value = Block> {
    (any::<u64>(), 1..u64::MAX, any::<u64>(), hash()).prop_map(|(view, height, time, parent)| {
        BlockBuilder::new().seal(BlockHeader {
            chain: 1,
            epoch: 2,
            table: 3,
            height,
            view,
            time,
            proposer: 1,
            parent,
            checkpoint: Domain::UNIT.hash(b""),
            ..BlockHeader::default()
        })
    })
}

fn entries() -> impl Strategy<Value = Vec<PreparedEntry>> {
    prop::collection::vec((block(), certificate()), 0..3).prop_map(|parts| {
        let mut height = 0;
        let entry = |(block, mut certificate): (Block, Certificate)| {
            height += 1;
            certificate.vote.height = height;
            PreparedEntry { header: *block.bytes().first_chunk().unwrap(), certificate }
        };
        parts.into_iter().map(entry).collect()
    })
}

fn view_change(replica: u16) -> impl Strategy<Value = ViewChange> {
    (any::<u64>(), prop::option::of(certificate()), entries(), signature()).prop_map(
        move |(view, committed, prepared, signature)| ViewChange {
            replica,
            view,
            committed,
            prepared,
            signature,
        },
    )
}

fn new_view() -> impl Strategy<Value = NewView> {
    (any::<u64>(), 0..4u16, signature()).prop_flat_map(|(view, count, signature)| {
        let changes: Vec<_> = (0..count).map(view_change).collect();
        changes.prop_map(move |changes| NewView { view, changes, signature })
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u64>(), block()).prop_map(|(view, block)| Message::Proposal { view, block }),
        view_change(3).prop_map(|change| Message::ViewChange(Box::new(change))),
        new_view().prop_map(|new_view| Message::NewView(Box::new(new_view))),
        any::<(u64, bool, u64, u64)>().prop_map(|(view, active, committed, stable)| Message::Status {
            view,
            active,
            committed,
            stable
        }),
        any::<(u64, u64)>().prop_map(|(from, to)| Message::FetchBlocks { from, to }),
        prop::collection::vec((certificate(), block()), 0..4).prop_map(Message::Blocks),
        (any::<u64>(), hash()).prop_map(|(height, digest)| Message::FetchBody { height, digest }),
        block().prop_map(Message::Body),
        any::<u64>().prop_map(|view| Message::FetchView { view }),
        certificate().prop_map(Message::StableCheckpoint),
        any::<u64>().prop_map(|view| Message::Suspect { view }),
    ]
}

fn of_kind(kind: VoteKind) -> impl Strategy<Value = Certificate> {
    certificate().prop_map(move |mut certificate| {
        certificate.vote.kind = kind;
        certificate.vote.view *= u64::from(kind != VoteKind::Checkpoint);
        certificate
    })
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        (any::<u64>(), block()).prop_map(|(view, block)| Record::Proposal { view, block }),
        vote().prop_map(Record::Vote),
        of_kind(VoteKind::Prepare).prop_map(Record::Prepared),
        of_kind(VoteKind::Commit).prop_map(Record::Committed),
        view_change(1).prop_map(|change| Record::ViewChange(Box::new(change))),
        new_view().prop_map(|new_view| Record::NewView(Box::new(new_view))),
        of_kind(VoteKind::Checkpoint).prop_map(Record::Stable),
    ]
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

fn written(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.encode(&mut out);
    out
}

proptest! {
    #[test]
    fn messages_come_back(message in message()) {
        let bytes = Bytes::from(encoded(&message));
        let read = Message::decode(&bytes).unwrap();
        prop_assert_eq!(format!("{:?}", read), format!("{message:?}"));
        prop_assert_eq!(encoded(&read), bytes);
    }

    #[test]
    fn records_come_back(record in record()) {
        let bytes = Bytes::from(written(&record));
        let read = Record::decode(&bytes).unwrap();
        prop_assert_eq!(format!("{:?}", read), format!("{record:?}"));
        prop_assert_eq!(written(&read), bytes);
    }

    /// What is read from damaged bytes, if anything, encodes to just those bytes.
    #[test]
    fn damage_is_refused_or_means_what_it_says(
        message in message(),
        record in record(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
        cut in any::<prop::sample::Index>(),
    ) {
        for damage in [true, false] {
            let (mut sent, mut logged) = (encoded(&message), written(&record));
            for bytes in [&mut sent, &mut logged] {
                if damage {
                    let at = at.index(bytes.len());
                    bytes[at] ^= 1 << bit;
                } else {
                    bytes.truncate(cut.index(bytes.len()));
                }
            }
            if let Ok(read) = Message::decode(&sent.clone().into()) {
                prop_assert_eq!(encoded(&read), sent);
            }
            if let Ok(read) = Record::decode(&logged.clone().into()) {
                prop_assert_eq!(written(&read), logged);
            }
        }
    }

    #[test]
    fn any_bytes_are_handled(kind in 0..13u8, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let with = |head: &[u8]| Bytes::from([head, &bytes[..]].concat());
        let _ = Message::decode(&with(&[kind]));
        let _ = Record::decode(&with(&[1, kind]));
        let _ = Record::decode(&with(&[]));
    }
}

#[test]
fn blocks_share_the_bytes_they_came_in() {
    let sealed = BlockBuilder::new().seal(BlockHeader { chain: 1, height: 1, ..BlockHeader::default() });
    let bytes = Bytes::from(encoded(&Message::Proposal { view: 0, block: sealed }));
    let Message::Proposal { block, .. } = Message::decode(&bytes).unwrap() else { panic!() };
    assert_eq!(block.bytes().as_ptr(), bytes[9..].as_ptr());
}
