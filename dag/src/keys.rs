//! Signing keys of accounts and validators.

use ed25519_dalek::{Signer, SigningKey};
use zeroize::Zeroizing;

use crate::{Address, Hash};

/// An Ed25519 signature (RFC 8032): R, then s.
pub type Signature = [u8; 64];

/// How a caller checks one signature: key, message, signature. Validity is ZIP-215; the rule itself lives with the batch
/// verifier, so that the single and the batched check are one piece of code.
pub type VerifyFn = fn(&[u8; 32], &[u8], &Signature) -> bool;

/// The same, where the caller may remember what it has checked.
pub type Verify = dyn Fn(&[u8; 32], &[u8], &Signature) -> bool;

/// A secret Ed25519 key with its public half. Wiped from memory when dropped.
#[derive(Clone)]
pub struct KeyPair(Secret);

#[derive(Clone)]
enum Secret {
    Ed25519(SigningKey),
    #[cfg(feature = "simulation")]
    Simulated {
        seed: [u8; 32],
        public: [u8; 32],
    },
}

impl KeyPair {
    /// The key of a 32-byte secret seed (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> KeyPair {
        KeyPair(Secret::Ed25519(SigningKey::from_bytes(seed)))
    }

    /// The seed, to be kept in a file that only its owner can read.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        match &self.0 {
            Secret::Ed25519(key) => Zeroizing::new(key.to_bytes()),
            #[cfg(feature = "simulation")]
            Secret::Simulated { seed, .. } => Zeroizing::new(*seed),
        }
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        match &self.0 {
            Secret::Ed25519(key) => key.verifying_key().to_bytes(),
            #[cfg(feature = "simulation")]
            Secret::Simulated { public, .. } => *public,
        }
    }

    /// The public key as an account.
    pub fn address(&self) -> Address {
        Address(self.public())
    }

    /// Signs a domain-separated hash.
    pub fn sign(&self, digest: &Hash) -> Signature {
        match &self.0 {
            Secret::Ed25519(key) => key.sign(digest.as_bytes()).to_bytes(),
            #[cfg(feature = "simulation")]
            Secret::Simulated { public, .. } => simulated::sign(public, digest.as_bytes()),
        }
    }
}

/// Keys without elliptic curves, for the simulator: what it proves does not hang on the signatures' arithmetic, and a
/// thousand simulated seconds are to pass in a real one.
///
/// Anybody can forge these signatures. They are another kind of key and another rule, side by side with Ed25519: a node
/// that was started with Ed25519 never takes one for valid, whatever this crate was built with.
#[cfg(feature = "simulation")]
pub mod simulated {
    use super::{KeyPair, Secret, Signature};

    /// The key of a seed.
    pub fn key(seed: &[u8; 32]) -> KeyPair {
        let public = blake3::derive_key("TOP simulated public key v1", seed);
        KeyPair(Secret::Simulated { seed: *seed, public })
    }

    pub(super) fn sign(public: &[u8; 32], message: &[u8]) -> Signature {
        let hash = blake3::keyed_hash(public, message);
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(hash.as_bytes());
        signature[32..].copy_from_slice(public);
        signature
    }

    /// The rule: whether a signature is the key's of this message.
    pub fn verify(public: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
        sign(public, message) == *signature
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({})", self.address())
    }
}
