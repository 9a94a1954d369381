//! Ed25519 keys in the DER clothes that TLS wants.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::PublicKey;

/// DER of a PKCS#8 v1 `OneAsymmetricKey` up to the 32 bytes of an Ed25519 seed (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// DER of a `SubjectPublicKeyInfo` up to the 32 bytes of an Ed25519 key (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A node's key pair.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    public_key: PublicKey,
}

impl Identity {
    /// The identity whose Ed25519 secret is `seed` (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let mut pkcs8 = Zeroizing::new([0; PKCS8_PREFIX.len() + 32]);
        pkcs8[..PKCS8_PREFIX.len()].copy_from_slice(&PKCS8_PREFIX);
        pkcs8[PKCS8_PREFIX.len()..].copy_from_slice(&*seed);
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(&pkcs8[..])).expect("every seed is a key");
        let spki = key.public_key().expect("an Ed25519 key knows its public key");
        let raw_key = CertificateDer::from(spki.as_ref().to_vec());
        let public_key = key_of_spki(&raw_key).expect("rustls encodes as RFC 8410 says");
        Self { certified: Arc::new(CertifiedKey::new(vec![raw_key], key)), public_key }
    }

    /// The public key that peers know it by.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// The pair as rustls presents it.
    pub(super) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", super::Hex(&self.public_key))
    }
}

/// The Ed25519 key in a raw public key (RFC 7250); `None` when it is anything else. DER has one encoding for it, so
/// comparing bytes parses it.
pub(super) fn key_of_spki(spki: &[u8]) -> Option<PublicKey> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_is_that_of_rfc_8032() {
        // RFC 8032, section 7.1, test 1.
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4,
            0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        let public_key = [
            0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a,
            0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
        ];
        assert_eq!(Identity::from_seed(seed).public_key(), public_key);
    }

    #[test]
    fn only_an_exact_ed25519_key_is_read() {
        let mut spki = SPKI_PREFIX.to_vec();
        spki.extend_from_slice(&[7; 32]);
        assert_eq!(key_of_spki(&spki), Some([7; 32]));
        assert_eq!(key_of_spki(&spki[..43]), None);
        spki.push(0);
        assert_eq!(key_of_spki(&spki), None);
        spki.pop();
        spki[8] ^= 1;
        assert_eq!(key_of_spki(&spki), None);
    }
}
