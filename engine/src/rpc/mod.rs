//! JSON-RPC 2.0 over HTTP, metrics and health, on a side thread.
//!
//! ```text
//! HTTP clients ── side thread: one tokio executor ── Gateway ══ one ring of Calls per core ══▶ core loops
//!                       ▲                                                                          │
//!                       └──────────────────────────── a oneshot per Call ──────────────────────────┘
//! ```
//!
//! The core loops never wait for this thread and share nothing with it but the rings, which are bounded: where one is full, the
//! client is told that the node is busy. The core hands out data as it holds it; JSON is made here. What the methods take and
//! answer stands in `engine/src/rpc/README.md`.
//!
//! # Fault model
//!
//! Clients are hostile. What one can hold is bounded: a connection by its lifetime, the time for its headers and the
//! time for its body; memory by [`HttpLimits`]; the cores' attention by the rings. Clients have no authority here: the only thing
//! that changes anything is a transaction, and that is signed.

mod chain_info;
mod gateway;
mod json_rpc;
mod message;
mod methods;
mod server;
mod service;
mod views;

pub use chain_info::ChainInfo;
pub use gateway::{AskError, CoreCalls, CoreLink, Gateway, RING_CAPACITY, link};
pub use json_rpc::{MAX_BATCH, MAX_RESPONSE, code};
pub use message::{
    AccountProofInfo, BlockInfo, Call, CoreStatus, Fate, PeerStatus, Place, ProofAnswer, Request, Response,
    TableStatus, TransactionInfo,
};
pub use server::{HttpLimits, RpcOptions, Server, ServerError};
