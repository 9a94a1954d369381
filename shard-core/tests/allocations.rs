//! Verifying signatures allocates nothing after the start, whatever comes.
#![allow(unsafe_code, reason = "an allocator is unsafe by nature; this one counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ed25519_dalek::{Signer, SigningKey};
use shard_core::sigbatch::{Backend, Batch, Progress};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with a count for each thread.
struct Counting;

fn count() {
    // A thread that is ending has no count, and nobody who asks for it.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: all calls go to the system's allocator as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CAPACITY: usize = 300;

/// Runs a group in which every `bad`-th signature is forged.
fn run(batch: &mut Batch, keys: &[SigningKey], bad: usize) {
    for (i, key) in keys.iter().enumerate() {
        let message = [u8::from(i % bad == 0); 32];
        let signature = key.sign(&[0; 32]).to_bytes();
        let public = key.verifying_key().to_bytes();
        batch.push(&public, &message, &signature, 0).expect("the batch has room");
    }
    while batch.step(40) != Progress::Done {}
    let valid = batch.verdicts().filter(|verdict| verdict.1).count();
    assert_eq!(valid, keys.len() - keys.len().div_ceil(bad));
}

#[test]
fn a_batch_allocates_at_its_start_only() {
    let keys: Vec<SigningKey> = (0u16..600)
        .map(|i| {
            let mut secret = [1; 32];
            secret[..2].copy_from_slice(&i.to_le_bytes());
            SigningKey::from_bytes(&secret)
        })
        .collect();
    assert!(COUNT.get() > 0, "the count counts");
    for backend in Backend::available() {
        let mut batch = Batch::with_backend(backend, CAPACITY, [1; 32], 256);
        let before = COUNT.get();
        for bad in [1000, 1, 300, 100, 10, 2, 1000] {
            for first in [0, 100, 300] {
                run(&mut batch, &keys[first..first + CAPACITY], bad);
            }
            run(&mut batch, &keys[..5], bad);
        }
        assert_eq!(COUNT.get() - before, 0, "{}", backend.name());
    }
}
