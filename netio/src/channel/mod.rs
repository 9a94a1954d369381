//! The secure channel between two nodes: TLS 1.3 in which both sides prove an Ed25519 key, carrying frames.
//!
//! A peer is exactly its key. There are no certificates (the keys travel raw, RFC 7250), no names, no session
//! resumption and no early data, so each connection is authenticated afresh and nothing can be replayed.
//!
//! A [`Channel`] does no IO. Feed it what arrives with [`read_tls`](Channel::read_tls), and after that and after
//! [`write_frame`](Channel::write_frame), send what [`take_tls`](Channel::take_tls) gives:
//!
//! ```
//! use netio::channel::{Channel, ChannelConfig, ChannelLimits, Identity};
//!
//! let (alice, bob) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
//! let (alice_key, bob_key) = (alice.public_key(), bob.public_key());
//! let mut client = Channel::client(&ChannelConfig::new(alice, [bob_key], ChannelLimits::default()), bob_key);
//! let mut server = Channel::server(&ChannelConfig::new(bob, [alice_key], ChannelLimits::default()));
//!
//! client.write_frame(&[b"hello"])?;
//! let mut received = Vec::new();
//! while received.is_empty() {
//!     if let Some(bytes) = client.take_tls() {
//!         server.read_tls(&bytes, &mut |frame| received.push(frame))?;
//!     }
//!     if let Some(bytes) = server.take_tls() {
//!         client.read_tls(&bytes, &mut |_| ())?;
//!     }
//! }
//! assert_eq!(received, ["hello"]);
//! assert_eq!(server.peer(), Some(alice_key));
//! # Ok::<(), netio::channel::ChannelError>(())
//! ```

mod identity;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

use bytes::Bytes;
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::frame::{FrameError, FrameReader, encode_frame};

pub use identity::Identity;
use verify::{KeyRejected, PeerVerifier};

/// A raw Ed25519 public key (RFC 8032).
pub type PublicKey = [u8; 32];

/// Why a channel can't go on. Send what [`Channel::take_tls`] still gives (it tells the peer why), then close.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ChannelError {
    /// The peer proved a key that is not among the allowed ones.
    #[error("peer with unknown key {}", Hex(.0))]
    UnknownPeer(PublicKey),
    /// The peer that we called proved another key than the one we called.
    #[error("called {} but reached {}", Hex(.expected), Hex(.found))]
    WrongPeer {
        /// The key we called.
        expected: PublicKey,
        /// The key that answered.
        found: PublicKey,
    },
    /// A frame broke the framing rules: the peer's, or the one to be written.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// More is waiting to be sealed than [`ChannelLimits::max_unsealed`]. The channel stays usable.
    #[error("too many bytes wait to be sealed")]
    QueueFull,
    /// The handshake or a record was wrong, or the peer sent an alert (as it does when it does not know our key).
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

struct Hex<'a>(&'a PublicKey);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl ChannelError {
    /// Finds the verifier's own words in what rustls reports.
    fn from_tls(error: rustls::Error) -> Self {
        match KeyRejected::found_in(&error) {
            Some(KeyRejected::Unknown(key)) => Self::UnknownPeer(*key),
            Some(KeyRejected::NotExpected { expected, found }) => {
                Self::WrongPeer { expected: *expected, found: *found }
            }
            None => Self::Tls(error),
        }
    }
}

/// What one channel may hold.
#[derive(Clone, Copy, Debug)]
pub struct ChannelLimits {
    /// Longest payload of a frame, in bytes, both ways.
    pub max_frame: usize,
    /// Most bytes of frames written and not yet taken as ciphertext.
    pub max_unsealed: usize,
}

impl Default for ChannelLimits {
    fn default() -> Self {
        Self { max_frame: 16 << 20, max_unsealed: 32 << 20 }
    }
}

/// Who we are, whom we talk to, and what a channel may hold. Cheap to clone; made once per set of peers.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    identity: Identity,
    peers: Arc<HashSet<PublicKey>>,
    provider: Arc<CryptoProvider>,
    server: Arc<ServerConfig>,
    limits: ChannelLimits,
}

impl ChannelConfig {
    /// A configuration under which `identity` talks to `peers` and no one else.
    #[must_use]
    pub fn new(
        identity: Identity,
        peers: impl IntoIterator<Item = PublicKey>,
        limits: ChannelLimits,
    ) -> Self {
        let peers = Arc::new(peers.into_iter().collect());
        let provider = Arc::new(provider());
        let server = Arc::new(server_config(&identity, &peers, &provider));
        Self { identity, peers, provider, server, limits }
    }

    /// The configuration for calling `expected`. Its verifier knows that key, so each peer has its own.
    fn client(&self, expected: PublicKey) -> ClientConfig {
        let verifier = PeerVerifier::new(Arc::clone(&self.peers), Some(expected), &self.provider);
        let resolver = AlwaysResolvesClientRawPublicKeys::new(self.identity.certified_key());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider's suites are those of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(resolver));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config
    }
}

/// AES first: with the processor's AES instructions it is the fastest, and validators have them.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    }
}

fn server_config(
    identity: &Identity,
    peers: &Arc<HashSet<PublicKey>>,
    provider: &Arc<CryptoProvider>,
) -> ServerConfig {
    let verifier = PeerVerifier::new(Arc::clone(peers), None, provider);
    let resolver = AlwaysResolvesServerRawPublicKeys::new(identity.certified_key());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider's suites are those of TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(resolver));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// One end of a secure channel. See the [module](self) documentation.
#[derive(Debug)]
pub struct Channel {
    tls: Connection,
    reader: FrameReader,
    /// Frames waiting to be sealed. Sealing them together fills whole records of 16 KiB, whatever their size.
    unsealed: Vec<u8>,
    limits: ChannelLimits,
}

impl Channel {
    /// The calling end. It accepts no one but `expected_peer`, who must also be among the allowed peers.
    #[must_use]
    pub fn client(config: &ChannelConfig, expected_peer: PublicKey) -> Self {
        // No name is sent or compared; rustls wants one.
        let name = ServerName::try_from("peer").expect("a valid name");
        let tls = ClientConnection::new(Arc::new(config.client(expected_peer)), name)
            .expect("a configuration without choices is consistent");
        Self::over(tls.into(), config.limits)
    }

    /// The called end. It accepts any of the allowed peers.
    #[must_use]
    pub fn server(config: &ChannelConfig) -> Self {
        let tls = ServerConnection::new(Arc::clone(&config.server))
            .expect("a configuration without choices is consistent");
        Self::over(tls.into(), config.limits)
    }

    fn over(mut tls: Connection, limits: ChannelLimits) -> Self {
        // Our own limit bounds what is sealed at a time.
        tls.set_buffer_limit(None);
        Self { tls, reader: FrameReader::new(limits.max_frame), unsealed: Vec::new(), limits }
    }

    /// Whether the handshake is still going on. Frames may be written meanwhile; they wait.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// The key that the peer has proven; `None` until the handshake is done.
    ///
    /// The calling end is done one message before the called end has judged it, so a caller that is not welcome sees
    /// a finished handshake first and the peer's alert, as [`ChannelError::Tls`], with the next bytes.
    #[must_use]
    pub fn peer(&self) -> Option<PublicKey> {
        if self.is_handshaking() {
            return None;
        }
        let [raw_key] = self.tls.peer_certificates()? else { return None };
        identity::key_of_spki(raw_key)
    }

    /// Takes bytes that arrived and hands each frame they complete to `frames`. Frames are slices of a buffer that
    /// many share, as [`FrameReader`] says. What follows the peer's closing alert is ignored.
    ///
    /// # Errors
    /// See [`ChannelError`]; every one but `QueueFull` is final.
    pub fn read_tls(&mut self, mut bytes: &[u8], frames: &mut impl FnMut(Bytes)) -> Result<(), ChannelError> {
        while !bytes.is_empty() {
            // The error is rustls' limit on unprocessed handshake bytes.
            let taken = self.tls.read_tls(&mut bytes).map_err(|e| rustls::Error::General(e.to_string()))?;
            if taken == 0 {
                return Ok(());
            }
            self.tls.process_new_packets().map_err(ChannelError::from_tls)?;
            self.read_frames(frames)?;
        }
        Ok(())
    }

    fn read_frames(&mut self, frames: &mut impl FnMut(Bytes)) -> Result<(), ChannelError> {
        let mut plaintext = self.tls.reader();
        // The error means that no more is there yet, an empty chunk that no more will come.
        while let Ok(chunk @ [_, ..]) = plaintext.fill_buf() {
            self.reader.push(chunk, frames)?;
            let len = chunk.len();
            plaintext.consume(len);
        }
        Ok(())
    }

    /// Queues one frame, the concatenation of `parts`, to be sealed by the next [`take_tls`](Self::take_tls) after
    /// the handshake.
    ///
    /// # Errors
    /// [`ChannelError::Frame`] when it is empty or too long, [`ChannelError::QueueFull`] when too much is waiting; it is
    /// not queued then, and the channel stays usable.
    pub fn write_frame(&mut self, parts: &[&[u8]]) -> Result<(), ChannelError> {
        if self.unsealed.len() >= self.limits.max_unsealed {
            return Err(ChannelError::QueueFull);
        }
        encode_frame(&mut self.unsealed, parts, self.limits.max_frame)?;
        Ok(())
    }

    /// Seals what was written and gives all bytes there are to send; `None` when there are none.
    pub fn take_tls(&mut self) -> Option<Bytes> {
        self.seal();
        if !self.tls.wants_write() {
            return None;
        }
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).expect("a Vec takes all");
        }
        Some(out.into())
    }

    fn seal(&mut self) {
        if self.is_handshaking() || self.unsealed.is_empty() {
            return;
        }
        let written: io::Result<()> = self.tls.writer().write_all(&self.unsealed);
        written.expect("the buffer limit is off");
        self.unsealed.clear();
    }

    /// Says goodbye: the peer can tell an end from a cut. Take and send the bytes, then close.
    pub fn close(&mut self) {
        self.seal();
        self.tls.send_close_notify();
    }
}
