//! What replicas send each other and write to their logs.

use bytes::Bytes;
use dag::Committee;
use pbft::{Message, NewView, Record, ViewChange};

use super::{Verdict, ledger::accept_every_signature, words};

/// A message between replicas.
pub fn message(bytes: &[u8]) -> Verdict {
    let message = Message::decode(&Bytes::copy_from_slice(bytes)).map_err(words)?;
    let mut again = Vec::new();
    message.encode(&mut again);
    assert_eq!(again, bytes);
    match message {
        Message::ViewChange(change) => judge_view_change(&change),
        Message::NewView(new_view) => judge_new_view(&new_view),
        _ => Ok(()),
    }
}

/// A record of a replica's log.
pub fn record(bytes: &[u8]) -> Verdict {
    let record = Record::decode(&Bytes::copy_from_slice(bytes)).map_err(words)?;
    let mut again = Vec::new();
    record.encode(&mut again);
    assert_eq!(again, bytes);
    match record {
        Record::ViewChange(change) => judge_view_change(&change),
        Record::NewView(new_view) => judge_new_view(&new_view),
        _ => Ok(()),
    }
}

fn committee() -> Committee {
    Committee::new(1, 2, (0..4).map(|i| [i; 32]).collect()).expect("four are a committee")
}

fn judge_view_change(change: &ViewChange) -> Verdict {
    change.check(&committee(), 5, &accept_every_signature).map_err(words)
}

fn judge_new_view(new_view: &NewView) -> Verdict {
    new_view.check(&committee(), 5, &accept_every_signature).map_err(words)?;
    let plan = new_view.plan();
    let heights: Vec<u64> = plan.entries.iter().map(|entry| entry.height()).collect();
    assert!(heights.iter().copied().eq(plan.floor() + 1..=plan.top()), "a plan has no gap: {heights:?}");
    assert!(plan.entries.windows(2).all(|pair| pair[1].parent() == pair[0].digest()), "a plan is a chain");
    Ok(())
}
