//! Measuring: what a run did, how long each part of it took, and how two runs compare.

pub mod client;
pub mod loadgen;
pub mod report;
