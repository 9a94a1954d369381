//! A table's state as a peer sends it: sections of a snapshot, under a checkpoint that a quorum has signed. The
//! checkpoint is made to fit here, so everything that hashes let through is met.

use dag::{
    Hash,
    hash::Domain,
    merkle,
    state_tree::{AccountLeaf, CheckpointPreimage, LEAF_SIZE, PREIMAGE_SIZE},
    wire::{Put, Reader},
};
use shard_core::{Config, Loader, Meta, Outbox};

use super::{Verdict, words};

/// Tables of the shard of these targets.
pub(crate) const TABLES: u16 = 4;
/// The table of these targets.
pub(crate) const TABLE: u16 = 1;
/// Its network.
pub(crate) const CHAIN: u64 = 9;

const CONFIG: Config = Config { chain: CHAIN, epoch: 0, id: TABLE, tables: TABLES, index_seed: 7 };
const VERSION: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

/// Behind the version and preimage of a head section: counters and receipts in flight.
pub fn head(bytes: &[u8]) -> Verdict {
    let mut reader = Reader::new(bytes);
    let meta = Meta::decode(&mut reader, TABLES).map_err(words)?;
    let outbox_bytes = &bytes[bytes.len() - reader.remaining()..];
    let outbox = Outbox::decode(&mut reader, TABLE, TABLES).map_err(words)?;
    let mut again = Vec::new();
    meta.encode(&mut again);
    outbox.encode(&mut again);
    assert_eq!(again, bytes[..bytes.len() - reader.remaining()]);
    let outbox = Domain::CHECKPOINT.hash(outbox_bytes);
    let (head, digest) = head_of(&CheckpointPreimage { outbox, ..preimage(&meta) }, bytes);
    let table = Loader::new(CONFIG, &head, digest).map_err(words)?.finish().map_err(words)?;
    drop(table);
    Ok(())
}

/// Accounts, as two sections: the first 8 bytes say where they are parted and what the second claims to begin with.
pub fn accounts(bytes: &[u8]) -> Verdict {
    let (control, leaves) = bytes.split_at_checked(8).ok_or("too short")?;
    let count = leaves.len() / LEAF_SIZE;
    let parted = usize::from(control[0]).min(count);
    let first = u64::from(control[1]).wrapping_add(parted as u64).wrapping_sub(u64::from(control[2]));
    let (meta, outbox) = empty_counters();
    let mut reader = Reader::new(leaves);
    let hashes = (0..count).map(|_| AccountLeaf::decode(&mut reader).map(|leaf| leaf.hash()));
    let hashes: Vec<Hash> = hashes.collect::<Result<_, _>>().expect("there are so many");
    let preimage = CheckpointPreimage {
        accounts: count as u64,
        accounts_root: merkle::root(&hashes),
        outbox: Domain::CHECKPOINT.hash(&outbox),
        ..preimage(&meta)
    };
    let mut body = Vec::new();
    meta.encode(&mut body);
    body.extend_from_slice(&outbox);
    let (head, digest) = head_of(&preimage, &body);
    let mut loader = Loader::new(CONFIG, &head, digest).expect("all of it fits");
    let (one, two) = leaves.split_at(parted * LEAF_SIZE);
    loader.push(&section(0, parted, one)).map_err(words)?;
    loader.push(&section(first, count - parted, two)).map_err(words)?;
    loader.finish().map(drop).map_err(words)
}

fn section(first: u64, count: usize, leaves: &[u8]) -> Vec<u8> {
    let mut section = Vec::with_capacity(12 + leaves.len());
    section.put_u64(first);
    section.put_u32(u32::try_from(count).expect("a few"));
    section.put(leaves);
    section
}

/// Counters of a table whose chain begins, and an outbox with nothing in it.
pub(crate) fn empty_counters() -> (Meta, Vec<u8>) {
    let mut outbox = vec![3, 0];
    outbox.put_u16(TABLES);
    outbox.put_u32(0);
    (0..TABLES).for_each(|_| outbox.put_u32(0));
    (Meta::genesis(TABLES, Hash([1; 32]), 2), outbox)
}

fn preimage(meta: &Meta) -> CheckpointPreimage {
    CheckpointPreimage {
        chain: CHAIN,
        epoch: 0,
        table: TABLE,
        height: meta.height,
        block: meta.block,
        accounts: 0,
        accounts_root: Hash::ZERO,
        meta: meta.hash(),
        outbox: Hash::ZERO,
    }
}

/// A head section and the digest of its checkpoint.
fn head_of(preimage: &CheckpointPreimage, rest: &[u8]) -> (Vec<u8>, Hash) {
    let mut head = Vec::with_capacity(VERSION.len() + PREIMAGE_SIZE + rest.len());
    head.put(&VERSION);
    preimage.encode(&mut head);
    head.put(rest);
    (head, preimage.digest())
}
