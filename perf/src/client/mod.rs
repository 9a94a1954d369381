//! Clients of a validator's submission port (the protocol is in [`dag::client`]).
//!
//! [`Client`] blocks and is for commands: submit, wait, print. [`Link`] never blocks and is for programs that hold many
//! connections in one loop. Both read frames through one [`FrameBuffer`] of fixed size, so a peer that sends garbage can
//! neither grow their memory nor make them panic.

mod blocking;
mod frames;
mod link;

use std::{net::SocketAddr, time::Duration};

pub use blocking::Client;
pub use frames::FrameBuffer;
pub use link::Link;

use dag::{transaction, wire::WireError};

/// Why a node could not be asked. Each text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error(
        "cannot connect to {address} ({cause}): is a node running there, and is this its submission port?"
    )]
    Connect {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// Silence for as long as the client waits.
    #[error("{address} sent nothing for {waited:?}: look at its status, or ask another validator")]
    TimedOut {
        /// Who.
        address: SocketAddr,
        /// The limit.
        waited: Duration,
    },
    /// The connection ended before the answer came.
    #[error(
        "{address} closed the connection ({cause}): submit again, there or elsewhere; nothing is executed twice"
    )]
    Closed {
        /// Who.
        address: SocketAddr,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The other side sent something else than the protocol allows.
    #[error("{address} does not speak the submission protocol ({cause}): is this another service's port?")]
    Protocol {
        /// Who.
        address: SocketAddr,
        /// What is wrong with its bytes.
        cause: WireError,
    },
    /// A record that no frame may carry.
    #[error("a record of {0} bytes cannot be a transaction: the largest has {max}", max = transaction::MAX_SIZE)]
    Oversize(usize),
}
