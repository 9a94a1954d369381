//! The packet data path: the services that relay people's packets on the validator's own cores, as sans-io state machines.
//!
//! Packets come in as mutable slices of the buffers that they arrived in, are changed in place, and leave in the same
//! buffer wherever the protocol allows. Time comes in as an argument, randomness as a seed.
#![forbid(unsafe_code)]

pub mod offload;
pub mod turn;
pub mod vpn;
