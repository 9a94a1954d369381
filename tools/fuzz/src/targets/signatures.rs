//! Signatures, in batches on every backend and one by one: the verdicts must be the same.

use shard_core::sigbatch::{Backend, Batch, MAX_MESSAGE, Progress, verify};

use super::Verdict;

/// Most signatures of one input.
const MOST: usize = 32;

/// A key, a signature and a message.
type Triple<'a> = ([u8; 32], [u8; 64], &'a [u8]);

/// Key, signature, length and message, one after the other. All valid is accepted.
pub fn signatures(bytes: &[u8]) -> Verdict {
    let mut triples = Vec::new();
    let mut rest = bytes;
    while triples.len() < MOST
        && let Some((triple, tail)) = triple(rest)
    {
        triples.push(triple);
        rest = tail;
    }
    if triples.is_empty() {
        return Err("no signature".into());
    }
    let alone: Vec<bool> =
        triples.iter().map(|(key, signature, message)| verify(key, message, signature)).collect();
    for backend in Backend::available() {
        let mut batch = Batch::with_backend(backend, MOST, [5; 32], 8);
        // The second time some keys are in the cache.
        for _ in 0..2 {
            for (token, (key, signature, message)) in (0..).zip(&triples) {
                batch.push(key, message, signature, token).expect("there is room");
            }
            while batch.step(1000) != Progress::Done {}
            let together: Vec<bool> = batch.verdicts().map(|(_, valid)| valid).collect();
            assert_eq!(together, alone, "{}", backend.name());
        }
    }
    let bad = alone.iter().filter(|valid| !**valid).count();
    if bad == 0 { Ok(()) } else { Err(format!("{bad} of {} bad", triples.len())) }
}

fn triple(bytes: &[u8]) -> Option<(Triple<'_>, &[u8])> {
    let (key, rest) = bytes.split_first_chunk()?;
    let (signature, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first()?;
    let length = usize::from(*length) % (MAX_MESSAGE + 1);
    let (message, rest) = rest.split_at_checked(length)?;
    Some(((*key, *signature, message), rest))
}
