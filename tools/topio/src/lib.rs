//! What the `topio` command is made of.
//!
//! | module | holds |
//! | --- | --- |
//! | [`commands`] | one file for each subcommand: its arguments, what it does, what it prints |
//! | [`devnet`] | a network of real processes on this machine |
//! | [`mod@bench`] | a measured run against a network |
//! | [`real`] | real validators under faults |
//! | [`rpc`] | the client of a node's JSON-RPC |
//! | [`exit`], [`output`], [`signals`], [`values`] | exit codes, printing, Ctrl-C, kinds of arguments |
#![forbid(unsafe_code)]

pub mod bench;
pub mod commands;
pub mod devnet;
pub mod exit;
pub mod output;
pub mod real;
pub mod rpc;
pub mod signals;
pub mod values;
