//! Measuring: what a run did, how long each part of it took, and how two runs compare.
//!
//! | module | holds |
//! | --- | --- |
//! | [`loadgen`], [`client`] | open-loop load on a network, and the clients of its submission port |
//! | [`report`] | the report of such a run |
//! | [`exec`], [`log`], [`restart`], [`idle`], [`sig`], [`turn`], [`burst`], [`vpn`], [`mixed`] | the commands of `perf`: figures that such a load does not show |
//! | [`network`], [`netns`] | validators as processes on this machine; network namespaces |
//! | [`figure`], [`progress`] | measured values beside their goals, and how far a measurement is |

pub mod burst;
pub mod client;
mod cpu;
pub mod exec;
pub mod figure;
pub mod idle;
mod install;
pub mod loadgen;
pub mod log;
pub mod mixed;
pub mod netns;
pub mod network;
pub mod progress;
pub mod report;
pub mod restart;
pub mod sig;
pub mod turn;
pub mod vpn;
