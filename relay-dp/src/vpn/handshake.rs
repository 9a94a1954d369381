//! The key exchange: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, by the library `snow` (section 5.4.2 to 5.4.5).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Secrets;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Where the pattern mixes the pre-shared key in.
const PSK_POSITION: usize = 2;

/// Ephemeral, encrypted static key and encrypted timestamp.
pub(super) const INITIATION_NOISE: usize = 32 + 48 + 28;
/// Ephemeral and a tag over nothing.
pub(super) const RESPONSE_NOISE: usize = 32 + 16;
/// TAI64N: seconds and nanoseconds, big-endian.
pub(super) type Timestamp = [u8; 12];

/// A public X25519 key; shown as base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Reads base64 as WireGuard's tools write it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A secret key: an X25519 private key, or a pre-shared key. Wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey(pub [u8; 32]);

impl PrivateKey {
    /// Reads base64 as WireGuard's tools write it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }

    /// The key as WireGuard's tools write it.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The public key that belongs to it.
    ///
    /// # Panics
    /// Never: the library has the curve.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("built with the curve");
        dh.set(&self.0);
        PublicKey(*dh.pubkey().first_chunk().expect("keys of X25519 have 32 bytes"))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

fn decode(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text.trim()).ok()?.try_into().ok()
}

/// A new private key, clamped as X25519 uses it (RFC 7748, section 5).
#[must_use]
pub fn generate_private_key(secrets: &mut Secrets) -> PrivateKey {
    let mut key = secrets.bytes::<32>();
    key[0] &= 248;
    key[31] = key[31] & 127 | 64;
    PrivateKey(key)
}

/// Keys of a session, from our side.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct SessionKeys {
    pub(super) send: [u8; 32],
    pub(super) receive: [u8; 32],
}

/// The library's default primitives, with our randomness.
struct Resolver([u8; 32]);

struct Ephemeral(Secrets);

impl Random for Ephemeral {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Ephemeral(Secrets::new(self.0))))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Our side of an exchange that is not finished. It is large; keep it boxed.
pub(super) struct Exchange(HandshakeState);

/// What an initiation said, once it was authentic.
pub(super) struct Initiation {
    pub(super) exchange: Exchange,
    pub(super) peer: PublicKey,
    pub(super) timestamp: Timestamp,
}

fn builder(secrets: &mut Secrets) -> Builder<'static> {
    let params: NoiseParams = PATTERN.parse().expect("a pattern of the library");
    Builder::with_resolver(params, Box::new(Resolver(secrets.bytes())))
}

/// Begins an exchange with `peer`; writes the Noise part of an initiation.
pub(super) fn initiate(
    local: &PrivateKey,
    peer: &PublicKey,
    psk: &PrivateKey,
    timestamp: &Timestamp,
    secrets: &mut Secrets,
    out: &mut [u8; INITIATION_NOISE],
) -> Box<Exchange> {
    let build = || {
        let builder = builder(secrets).prologue(PROLOGUE)?.local_private_key(&local.0)?;
        let mut state = builder.remote_public_key(&peer.0)?.build_initiator()?;
        state.set_psk(PSK_POSITION, &psk.0)?;
        state.write_message(timestamp, out)?;
        Ok::<_, snow::Error>(Box::new(Exchange(state)))
    };
    let mut build = build;
    build().expect("keys of the right length, and room for the message")
}

/// Reads the Noise part of an initiation; `None` when it is not authentic.
pub(super) fn read_initiation(
    local: &PrivateKey,
    message: &[u8; INITIATION_NOISE],
    secrets: &mut Secrets,
) -> Option<Box<Initiation>> {
    let builder = builder(secrets).prologue(PROLOGUE).ok()?.local_private_key(&local.0).ok()?;
    let mut state = builder.build_responder().ok()?;
    let mut timestamp = [0; 12 + 16];
    let len = state.read_message(message, &mut timestamp).ok()?;
    let peer = PublicKey(*state.get_remote_static()?.first_chunk()?);
    let timestamp = *timestamp[..len].first_chunk()?;
    Some(Box::new(Initiation { exchange: Exchange(state), peer, timestamp }))
}

impl Exchange {
    /// The responder's answer, and its keys.
    pub(super) fn respond(mut self, psk: &PrivateKey, out: &mut [u8; RESPONSE_NOISE]) -> Option<SessionKeys> {
        self.0.set_psk(PSK_POSITION, &psk.0).ok()?;
        self.0.write_message(&[], out).ok()?;
        let (from_initiator, from_responder) = self.0.dangerously_get_raw_split();
        Some(SessionKeys { send: from_responder, receive: from_initiator })
    }

    /// Reads the responder's answer; `None` when it is not authentic. Then the exchange goes on: the answer may have been
    /// forged.
    pub(super) fn read_response(&mut self, message: &[u8; RESPONSE_NOISE]) -> Option<SessionKeys> {
        let mut nothing = [0; 16];
        if self.0.read_message(message, &mut nothing).ok()? != 0 {
            return None;
        }
        let (from_initiator, from_responder) = self.0.dangerously_get_raw_split();
        Some(SessionKeys { send: from_initiator, receive: from_responder })
    }
}
