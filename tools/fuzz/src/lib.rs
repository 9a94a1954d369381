//! Hostile bytes for every parser of the workspace.
//!
//! A [target](targets::TARGETS) is a function that takes any bytes, hands them to one parser, and panics where a promise
//! is broken: that no bytes panic, and that what is accepted has one encoding. Targets are run by the tests (each file of
//! the corpus), by [`campaign`] (mutations of the corpus, on any machine) and by libFuzzer (guided by coverage).

pub mod campaign;
pub mod corpus;
#[path = "../../../dag/tests/golden/mod.rs"]
pub mod golden;
pub mod mutate;
pub mod samples;
pub mod targets;
