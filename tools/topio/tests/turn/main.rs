//! `topio turn serve` and the clients that people have: coturn's, and a browser. `tools/turn` runs them.

mod browser;
mod bypass;
mod coturn;
mod hostile;
mod node;
mod server;
