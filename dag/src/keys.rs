//! Signing keys of accounts and validators.

use ed25519_dalek::{Signer, SigningKey};
use zeroize::Zeroizing;

use crate::{Address, Hash};

/// An Ed25519 signature (RFC 8032): R, then s.
pub type Signature = [u8; 64];

/// How a caller checks one signature: key, message, signature. Validity is ZIP-215; the rule itself lives with the batch
/// verifier, so that the single and the batched check are one piece of code.
pub type VerifyFn = fn(&[u8; 32], &[u8], &Signature) -> bool;

/// A secret Ed25519 key with its public half. Wiped from memory when dropped.
#[derive(Clone)]
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// The key of a 32-byte secret seed (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> KeyPair {
        KeyPair(SigningKey::from_bytes(seed))
    }

    /// The seed, to be kept in a file that only its owner can read.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The public key as an account.
    pub fn address(&self) -> Address {
        Address(self.public())
    }

    /// Signs a domain-separated hash.
    pub fn sign(&self, digest: &Hash) -> Signature {
        self.0.sign(digest.as_bytes()).to_bytes()
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({})", self.address())
    }
}
