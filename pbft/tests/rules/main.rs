//! One test per rule of the protocol, on a single replica with real signatures.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod agreement;
mod checkers;
mod kit;
mod upkeep;
mod views;
mod withheld;
