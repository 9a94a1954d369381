//! Keys of long-term credentials, and the two integrity attributes (RFC 8489 section 9.2, 14.5, 14.6).

use md5::{Digest as _, Md5};
use ring::{digest, hmac};

use super::{HEADER, attribute};

/// Which of the two attributes protects a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

impl Integrity {
    /// The attribute's type.
    pub const fn attribute(self) -> u16 {
        match self {
            Integrity::Sha1 => attribute::MESSAGE_INTEGRITY,
            Integrity::Sha256 => attribute::MESSAGE_INTEGRITY_SHA256,
        }
    }

    /// Bytes of the attribute's value, as we write it.
    pub const fn tag_len(self) -> usize {
        match self {
            Integrity::Sha1 => 20,
            Integrity::Sha256 => 32,
        }
    }

    fn algorithm(self) -> hmac::Algorithm {
        match self {
            Integrity::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Integrity::Sha256 => hmac::HMAC_SHA256,
        }
    }

    /// The tag over `bytes` (header included), as if the message ended `end` bytes behind its header.
    pub(crate) fn tag(self, key: Key<'_>, bytes: &[u8], end: u16) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&hmac::Key::new(self.algorithm(), key.0));
        context.update(&bytes[..2]);
        context.update(&end.to_be_bytes());
        context.update(&bytes[4..]);
        context.sign()
    }
}

/// An integrity key: of a password algorithm, or a short-term password as it is.
#[derive(Clone, Copy)]
pub struct Key<'a>(pub &'a [u8]);

/// A user's keys by password algorithm (RFC 8489 section 18.5).
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    md5: [u8; 16],
    sha256: [u8; 32],
}

impl Keys {
    /// Both keys of `username ":" realm ":" password`.
    pub fn new(username: &[u8], realm: &[u8], password: &[u8]) -> Keys {
        let (mut md5, mut sha256) = (Md5::new(), digest::Context::new(&digest::SHA256));
        for part in [username, b":", realm, b":", password] {
            md5.update(part);
            sha256.update(part);
        }
        let sha256 = sha256.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
        Keys { md5: md5.finalize().into(), sha256 }
    }

    /// The key by the MD5 algorithm, which is meant where none is named.
    pub fn md5(&self) -> Key<'_> {
        Key(&self.md5)
    }

    /// The key by the SHA-256 algorithm.
    pub fn sha256(&self) -> Key<'_> {
        Key(&self.sha256)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

/// FINGERPRINT over `bytes` (header included), as if the message ended `end` bytes behind its header (RFC 8489 section 14.7).
pub(crate) fn fingerprint(bytes: &[u8], end: u16) -> u32 {
    debug_assert!(bytes.len() >= HEADER);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..2]);
    crc.update(&end.to_be_bytes());
    crc.update(&bytes[4..]);
    crc.finalize() ^ 0x5354_554e
}
