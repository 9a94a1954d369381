//! States that a liar serves: with a bit turned, or with money that nobody has, and the hashes that go with it.

use dag::{
    Certificate, Hash, merkle,
    state_tree::{AccountLeaf, CheckpointPreimage, LEAF_SIZE, PREIMAGE_SIZE},
    wire::{Put, Reader, WireError},
};
use engine::node::{SECTION_BASE, SECTION_STATE, SECTION_VOUCHED};

use crate::random::Random;

/// Bytes of a head section before the checkpoint's preimage; see `shard_core::snapshot`.
const HEAD_START: usize = 8;
/// Bytes of a section of accounts before its leaves.
const LEAVES_START: usize = 12;

/// A bit turned.
pub(super) fn with_turned_bit(bytes: &[u8], dice: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if !bytes.is_empty() {
        let at = dice.index(bytes.len());
        bytes[at] ^= 1 << dice.below(8);
    }
    bytes
}

/// The state with another balance. Its checkpoint names the new root where no certificate says what the checkpoint is, and half
/// the time elsewhere. `None` where it holds no account, or is not a whole state.
pub(super) fn forged(bytes: &[u8], dice: &mut Random) -> Option<Vec<u8>> {
    let mut sections = split(bytes).ok()?;
    if dice.percent(40) {
        keep_quiet_of_checkpoint(sections.first_mut()?);
    }
    let vouched = sections.first()?.0 == SECTION_VOUCHED;
    let mut states = sections.iter_mut().filter(|(kind, _)| *kind == SECTION_STATE).map(|(_, bytes)| bytes);
    let head = states.next()?;
    let mut accounts: Vec<&mut Vec<u8>> = states.filter(|section| section.len() > LEAVES_START).collect();
    if accounts.is_empty() {
        return None;
    }
    let richer = dice.index(accounts.len());
    raise_balance(accounts[richer], dice)?;
    if vouched || dice.percent(50) {
        let preimage = head.get(HEAD_START..HEAD_START + PREIMAGE_SIZE)?;
        let mut checkpoint = CheckpointPreimage::decode(&mut Reader::new(preimage)).ok()?;
        let leaves = accounts.iter().flat_map(|section| leaves_of(section));
        checkpoint.accounts_root = merkle::root(&leaves.collect::<Vec<Hash>>());
        head[HEAD_START..HEAD_START + PREIMAGE_SIZE].copy_from_slice(&checkpoint.to_bytes());
    }
    Some(join(&sections))
}

/// Makes the certificates those of a table that rests between two checkpoints, of which nobody has to be convinced but by word.
fn keep_quiet_of_checkpoint((kind, certificates): &mut (u8, Vec<u8>)) {
    let mut reader = Reader::new(certificates);
    if *kind == SECTION_BASE && Certificate::decode(&mut reader).is_ok() {
        let commit = certificates.split_off(certificates.len() - reader.remaining());
        (*kind, *certificates) = (SECTION_VOUCHED, commit);
    }
}

fn raise_balance(section: &mut [u8], dice: &mut Random) -> Option<()> {
    let leaves = section.get_mut(LEAVES_START..)?.as_chunks_mut::<LEAF_SIZE>().0;
    let chosen = dice.index(leaves.len());
    let leaf = leaves.get_mut(chosen)?;
    let mut changed = AccountLeaf::decode(&mut Reader::new(leaf)).ok()?;
    changed.balance = changed.balance.wrapping_add(dice.between(1, 1_000_000));
    *leaf = changed.to_bytes();
    Some(())
}

fn leaves_of(section: &[u8]) -> impl Iterator<Item = Hash> {
    let leaves = section[LEAVES_START..].as_chunks::<LEAF_SIZE>().0;
    leaves.iter().filter_map(|leaf| AccountLeaf::decode(&mut Reader::new(leaf)).ok()).map(|leaf| leaf.hash())
}

/// The sections as they travel: each its kind (1), its length (4), and its bytes.
fn split(bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, WireError> {
    let mut reader = Reader::new(bytes);
    let mut sections = Vec::new();
    while reader.remaining() > 0 {
        let kind = reader.u8()?;
        let length = reader.u32()? as usize;
        sections.push((kind, reader.take(length)?.to_vec()));
    }
    Ok(sections)
}

fn join(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, bytes) in sections {
        out.put_u8(*kind);
        out.put_u32(u32::try_from(bytes.len()).expect("it was that long before"));
        out.put(bytes);
    }
    out
}
