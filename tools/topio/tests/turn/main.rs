//! `topio turn serve` and the clients that people have: coturn's, and a browser. `tools/turn` runs them.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod browser;
mod bypass;
mod coturn;
mod hostile;
mod node;
mod server;
