//! A devnet of real processes, sockets and disks under faults, in about two and a half minutes. `tools/smoke` runs it in a release build.
//!
//! | file | tells of |
//! | --- | --- |
//! | `disks` | full disks, damaged files, and validators that were away for long |
//! | `faults` | validators that are killed, stopped and started again under load |
//! | `strangers` | garbage on every port, and records that have to be refused |
//! | `people` | the commands, by hand |
//! | `network`, `load` | the devnet and the load that the stories share |
//!
//! Nothing is measured here: waits have generous ends, and only what must never happen is asserted.

mod disks;
mod faults;
mod load;
mod network;
mod people;
mod strangers;
