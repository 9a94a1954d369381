//! The RPC thread over real HTTP on loopback, against cores that answer from a made-up ledger.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod client;
mod fake_node;
mod hostile;
mod methods;
