//! The parsers of bytes from outside, as functions that any bytes may be thrown at.
//!
//! Where bytes carry checksums or roots, a target puts them right first: no mutation guesses a hash, and a hostile sender
//! computes it.

mod agreement;
mod channel;
mod client;
pub(crate) mod frame;
mod ledger;
mod node;
mod replica;
mod signatures;
pub(crate) mod state;
pub(crate) mod turn;
pub(crate) mod vpn;

use std::fmt::Display;

/// What became of the bytes: accepted, or why they were refused.
pub type Verdict = Result<(), String>;

/// One parser under attack.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus folder.
    pub name: &'static str,
    /// Takes any bytes. Panics where the parser breaks a promise.
    pub run: fn(&[u8]) -> Verdict,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "transaction", run: ledger::transaction },
    Target { name: "block", run: ledger::block },
    Target { name: "receipt", run: ledger::receipt },
    Target { name: "vote_bundle", run: ledger::vote_bundle },
    Target { name: "certificate", run: ledger::certificate },
    Target { name: "account_proof", run: ledger::account_proof },
    Target { name: "checkpoint", run: ledger::checkpoint },
    Target { name: "client_request", run: client::request },
    Target { name: "client_response", run: client::response },
    Target { name: "address", run: client::address },
    Target { name: "amount", run: client::amount },
    Target { name: "pbft_message", run: agreement::message },
    Target { name: "pbft_record", run: agreement::record },
    Target { name: "replica", run: replica::replica },
    Target { name: "frame_stream", run: channel::frame_stream },
    Target { name: "frame", run: frame::frame },
    Target { name: "channel_garbage", run: channel::garbage },
    Target { name: "channel_tampered", run: channel::tampered },
    Target { name: "peer_frame", run: node::peer_frame },
    Target { name: "outcome", run: node::outcome },
    Target { name: "log_segment", run: node::log_segment },
    Target { name: "log_group", run: node::log_group },
    Target { name: "snapshot", run: node::snapshot },
    Target { name: "genesis", run: node::genesis },
    Target { name: "config", run: node::config },
    Target { name: "signatures", run: signatures::signatures },
    Target { name: "state_head", run: state::head },
    Target { name: "state_accounts", run: state::accounts },
    Target { name: "stun", run: turn::stun },
    Target { name: "turn_server", run: turn::server },
    Target { name: "vpn_datagram", run: vpn::datagram },
    Target { name: "vpn_packet", run: vpn::packet },
    Target { name: "vpn_config", run: vpn::config },
];

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// An error in the words of a [`Verdict`].
fn words(error: impl Display) -> String {
    error.to_string()
}
