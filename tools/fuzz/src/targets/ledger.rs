//! The ledger's records: one byte string per meaning, so what parses is built again from its parts and compared.

use bytes::Bytes;
use dag::{
    Block, Certificate, Committee, Hash, Transaction, VoteBundle,
    hash::Domain,
    keys::Signature,
    merkle,
    receipt::Receipt,
    state_tree::{AccountProof, CheckpointPreimage},
    table_block::{BlockBuilder, HEADER_SIZE, INBOX_REF_SIZE, MAX_TRANSACTIONS},
    transaction,
    wire::{Put, Reader},
};

use super::{Verdict, words};

/// A transaction record.
pub fn transaction(bytes: &[u8]) -> Verdict {
    let transaction = Transaction::parse(bytes).map_err(words)?;
    assert_eq!(transaction.bytes(), bytes);
    let mut again = vec![1, transaction.kind() as u8];
    again.put_u8(u8::try_from(transaction.payee_count()).expect("the count is a byte"));
    again.put_u8(0);
    again.put_u32(transaction.epoch());
    again.put_u64(transaction.chain());
    again.put_u64(transaction.sequence());
    again.put_u64(transaction.fee());
    again.put(transaction.sender().as_bytes());
    let mut total = transaction.fee();
    for payee in transaction.payees() {
        again.put(payee.to.as_bytes());
        again.put_u64(payee.amount);
        total += payee.amount;
    }
    assert_eq!(transaction.id(), Domain::TRANSACTION.hash(&again));
    again.put(transaction.signature());
    assert_eq!(again, bytes);
    assert_eq!(transaction.total(), total);
    let twice = [bytes, bytes].concat();
    let (first, rest) = Transaction::parse_prefix(&twice).expect("a record ends where it says");
    assert_eq!((first.bytes(), rest), (bytes, bytes));
    Ok(())
}

/// A table block, as it comes and with the roots that fit its body.
pub fn block(bytes: &[u8]) -> Verdict {
    let as_received = Block::parse(Bytes::copy_from_slice(bytes)).map(|block| check_block(&block));
    let Some(bytes) = with_fitting_roots(bytes) else { return as_received.map_err(words) };
    check_block(&Block::parse(bytes).map_err(words)?);
    Ok(())
}

fn check_block(block: &Block) {
    let mut builder = BlockBuilder::new();
    block.inbox().iter().for_each(|&reference| builder.push_inbox(reference));
    for index in 0..block.len() {
        let transaction = block.transaction(index);
        assert_eq!(block.id(index), transaction.id());
        assert_eq!(block.transaction_bytes(index), transaction.bytes());
        assert!(builder.push(block.id(index), &transaction), "what fits one block fits another");
    }
    let again = builder.seal(block.header().clone());
    assert_eq!((again.bytes(), again.hash()), (block.bytes(), block.hash()));
}

/// Puts both roots right, see the layout in `dag::table_block`. None where the bytes are too short for the header.
fn with_fitting_roots(bytes: &[u8]) -> Option<Bytes> {
    let (counts, mut bytes) = (bytes.get(42..48)?, bytes.get(..HEADER_SIZE).map(|_| bytes.to_vec())?);
    let refs = usize::from(u16::from_le_bytes([counts[0], counts[1]]));
    let transactions = u32::from_le_bytes([counts[2], counts[3], counts[4], counts[5]]) as usize;
    let body = HEADER_SIZE + refs * INBOX_REF_SIZE;
    let inbox = bytes.get(HEADER_SIZE..body)?;
    let inbox_root = if inbox.is_empty() { Hash::ZERO } else { Domain::INBOX.hash(inbox) };
    let mut rest = &bytes[body..];
    let mut leaves = Vec::new();
    while leaves.len() < transactions.min(MAX_TRANSACTIONS) {
        let Ok((transaction, tail)) = Transaction::parse_prefix(rest) else { break };
        leaves.push(transaction::leaf(&transaction.id(), transaction.signature()));
        rest = tail;
    }
    let transactions_root = merkle::root_in_place(&mut leaves);
    bytes[80..112].copy_from_slice(transactions_root.as_bytes());
    bytes[112..144].copy_from_slice(inbox_root.as_bytes());
    Some(bytes.into())
}

/// A receipt.
pub fn receipt(bytes: &[u8]) -> Verdict {
    let mut reader = Reader::new(bytes);
    let receipt = Receipt::decode(&mut reader).map_err(words)?;
    reader.finish().map_err(words)?;
    let mut again = Vec::new();
    receipt.encode(&mut again);
    assert_eq!(again, bytes);
    Ok(())
}

/// A bundle of votes; each vote's proof leads to what the bundle signs.
pub fn vote_bundle(bytes: &[u8]) -> Verdict {
    let bundle = VoteBundle::parse(bytes).map_err(words)?;
    assert_eq!(bundle.to_bytes(), bytes);
    for (index, vote) in bundle.votes().iter().enumerate() {
        let proof = bundle.proof(index);
        let root = merkle::root_of_path(vote.leaf(), index, bundle.votes().len(), &proof.path);
        assert_eq!(root.map(|root| bundle.header().digest(&root)), Some(bundle.digest()));
    }
    Ok(())
}

/// A certificate; under a rule that takes every signature it counts no replica twice.
pub fn certificate(bytes: &[u8]) -> Verdict {
    let mut reader = Reader::new(bytes);
    let certificate = Certificate::decode(&mut reader).map_err(words)?;
    reader.finish().map_err(words)?;
    let mut again = Vec::new();
    certificate.encode(&mut again);
    assert_eq!(again, bytes);
    let committee = Committee::new(1, 2, (0..4).map(|i| [i; 32]).collect()).expect("four are a committee");
    let result = certificate.check(&committee, &accept_every_signature);
    if result.is_ok() {
        let mut voters: Vec<u16> = certificate.proofs.iter().map(|proof| proof.replica).collect();
        voters.dedup();
        assert!(voters.len() >= committee.quorum() && voters.iter().all(|voter| *voter < 4));
    }
    result.map_err(words)
}

/// A signature rule without signatures: what lies behind the check is under attack too.
pub fn accept_every_signature(_: &[u8; 32], _: &[u8], _: &Signature) -> bool {
    true
}

/// An account with its place in the state tree.
pub fn account_proof(bytes: &[u8]) -> Verdict {
    let mut reader = Reader::new(bytes);
    let proof = AccountProof::decode(&mut reader).map_err(words)?;
    reader.finish().map_err(words)?;
    let mut again = Vec::new();
    proof.encode(&mut again);
    assert_eq!(again, bytes);
    assert!(proof.root().is_some(), "a decoded path has the right length");
    Ok(())
}

/// What a checkpoint's digest is taken of.
pub fn checkpoint(bytes: &[u8]) -> Verdict {
    let mut reader = Reader::new(bytes);
    let preimage = CheckpointPreimage::decode(&mut reader).map_err(words)?;
    reader.finish().map_err(words)?;
    assert_eq!(&preimage.to_bytes()[..], bytes);
    assert_eq!(preimage.digest(), Domain::CHECKPOINT.hash(bytes));
    Ok(())
}
