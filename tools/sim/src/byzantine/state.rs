//! States that a liar serves: with a bit turned, or with money that nobody has, and the hashes that go with it.

use bytes::Bytes;
use dag::{
    Certificate, Hash, merkle,
    state_tree::{AccountLeaf, CheckpointPreimage, LEAF_SIZE, PREIMAGE_SIZE},
    wire::Reader,
};
use engine::node::{SECTION_BASE, SECTION_STATE, SECTION_VOUCHED, join_sections, split_sections};

use crate::random::Random;

/// Bytes of a head section before the checkpoint's preimage; see `shard_core::snapshot`.
const HEAD_START: usize = 8;
/// Bytes of a section of accounts before its leaves.
const LEAVES_START: usize = 12;

/// A bit turned.
pub(super) fn with_turned_bit(bytes: &[u8], dice: &mut Random) -> Bytes {
    let mut bytes = bytes.to_vec();
    if !bytes.is_empty() {
        let at = dice.index(bytes.len());
        bytes[at] ^= 1 << dice.below(8);
    }
    bytes.into()
}

/// The state with another balance. Its checkpoint names the new root where no certificate says what the checkpoint is, and half
/// the time elsewhere. `None` where it holds no account, or is not a whole state.
pub(super) fn forged(bytes: &[u8], dice: &mut Random) -> Option<Bytes> {
    let sections = split_sections(bytes).ok()?;
    let mut sections: Vec<(u8, Vec<u8>)> =
        sections.into_iter().map(|(kind, bytes)| (kind, bytes.to_vec())).collect();
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
    Some(join_sections(&sections))
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
