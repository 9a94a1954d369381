//! Agreement: one sans-io PBFT replica per table, after Castro and Liskov, «Practical Byzantine Fault
//! Tolerance» (OSDI '99; «and Proactive Recovery», TOCS '02).
//!
//! A [`Replica`] holds no socket, file, thread or clock. The host feeds it messages, votes, verdicts and the
//! time, then drains [`Replica::poll_output`] until it gives nothing, and calls [`Replica::on_timeout`] when
//! [`Replica::poll_timeout`] says so. The fault model, the safety argument and the bounds stand in the
//! crate's README.
#![forbid(unsafe_code)]

mod change;
mod checkers;
mod checkpoint;
mod config;
mod evidence;
mod fetch;
mod message;
mod new_view;
mod normal;
mod output;
mod record;
mod replica;
mod resend;
mod restore;
mod view_change;
mod votes;
mod window;

pub use config::{Base, Config};
pub use evidence::Evidence;
pub use fetch::FETCH_AHEAD;
pub use message::{MAX_BLOCKS, Message};
pub use new_view::{NewView, NewViewError, Plan};
pub use output::{Divergence, Output, Slot, Verdict};
pub use record::Record;
pub use replica::{Counters, Replica, Summary};
pub use restore::RestoreError;
pub use view_change::{MAX_PREPARED, PreparedEntry, ViewChange, ViewChangeError};
