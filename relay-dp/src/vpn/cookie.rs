//! MACs over handshake messages, and the cookies that prove an address under load (sections 5.3 and 5.4.7).

use std::net::{IpAddr, SocketAddr};

use blake2::digest::{Digest, FixedOutput, Update};
use blake2::{Blake2s256, Blake2sMac, digest::consts::U16};
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

use constant_time_eq::constant_time_eq;

use super::wire::{COOKIE_REPLY, MAC, kind};
use super::{Nanos, PublicKey, SECOND, Secrets};

/// How long a secret makes cookies, and a cookie is used.
pub(super) const COOKIE_LIFE: Nanos = 120 * SECOND;

pub(super) type Cookie = [u8; MAC];

/// What follows from one side's public key.
pub(super) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl MacKeys {
    pub(super) fn new(key: &PublicKey) -> Self {
        Self { mac1: labelled(b"mac1----", key), cookie: labelled(b"cookie--", key) }
    }

    /// Writes mac1, and mac2 if there is a cookie, at the end of `message`; returns mac1.
    pub(super) fn seal(&self, message: &mut [u8], cookie: Option<&Cookie>) -> [u8; MAC] {
        let mac1_at = message.len() - 2 * MAC;
        let mac1 = mac(&self.mac1, &message[..mac1_at]);
        message[mac1_at..mac1_at + MAC].copy_from_slice(&mac1);
        let mac2_at = mac1_at + MAC;
        let mac2 = cookie.map_or([0; MAC], |cookie| mac(cookie, &message[..mac2_at]));
        message[mac2_at..].copy_from_slice(&mac2);
        mac1
    }

    /// Whether the message's mac1 is right: its sender knows our public key.
    pub(super) fn mac1_is_right(&self, message: &[u8]) -> bool {
        let (body, macs) = message.split_at(message.len() - 2 * MAC);
        constant_time_eq(&mac(&self.mac1, body), &macs[..MAC])
    }

    /// Decrypts the cookie of a reply to a message of ours that had `mac1`.
    pub(super) fn open_reply(&self, reply: &[u8; COOKIE_REPLY], mac1: &[u8; MAC]) -> Option<Cookie> {
        let (nonce, sealed) = reply[8..].split_at(24);
        let (ciphertext, tag) = sealed.split_at(MAC);
        let mut cookie: Cookie = *ciphertext.first_chunk()?;
        let cipher = XChaCha20Poly1305::new(Key::from_slice(&self.cookie));
        cipher.decrypt_in_place_detached(XNonce::from_slice(nonce), mac1, &mut cookie, tag.into()).ok()?;
        Some(cookie)
    }
}

/// Makes cookies for addresses and checks them, without remembering anyone.
pub(super) struct CookieJar {
    secret: [u8; 32],
    made: Nanos,
}

impl CookieJar {
    pub(super) fn new(secrets: &mut Secrets, now: Nanos) -> Self {
        Self { secret: secrets.bytes(), made: now }
    }

    /// Whether the message's mac2 proves that its sender receives at `from`.
    pub(super) fn mac2_is_right(&self, message: &[u8], from: SocketAddr, now: Nanos) -> bool {
        let (body, mac2) = message.split_at(message.len() - MAC);
        now.saturating_sub(self.made) < COOKIE_LIFE && constant_time_eq(&mac(&self.cookie(from), body), mac2)
    }

    /// The reply to `message`, which had a right mac1: the cookie of its sender's address.
    pub(super) fn reply(
        &mut self,
        keys: &MacKeys,
        message: &[u8],
        receiver: [u8; 4],
        from: SocketAddr,
        secrets: &mut Secrets,
        now: Nanos,
    ) -> [u8; COOKIE_REPLY] {
        if now.saturating_sub(self.made) >= COOKIE_LIFE {
            *self = Self::new(secrets, now);
        }
        let mut reply = [0; COOKIE_REPLY];
        reply[0] = kind::COOKIE_REPLY;
        reply[4..8].copy_from_slice(&receiver);
        let nonce: [u8; 24] = secrets.bytes();
        reply[8..32].copy_from_slice(&nonce);
        let mut cookie = self.cookie(from);
        let mac1 = &message[message.len() - 2 * MAC..message.len() - MAC];
        let cipher = XChaCha20Poly1305::new(Key::from_slice(&keys.cookie));
        let tag = cipher
            .encrypt_in_place_detached(XNonce::from_slice(&nonce), mac1, &mut cookie)
            .expect("16 bytes are no too long message");
        reply[32..48].copy_from_slice(&cookie);
        reply[48..].copy_from_slice(&tag);
        reply
    }

    fn cookie(&self, from: SocketAddr) -> Cookie {
        let mut address = [0; 18];
        match from.ip() {
            IpAddr::V4(ip) => address[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => address[..16].copy_from_slice(&ip.octets()),
        }
        address[16..].copy_from_slice(&from.port().to_be_bytes());
        mac(&self.secret, &address)
    }
}

fn labelled(label: &[u8; 8], key: &PublicKey) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    Update::update(&mut hash, label);
    Update::update(&mut hash, &key.0);
    hash.finalize_fixed().into()
}

fn mac(key: &[u8], message: &[u8]) -> [u8; MAC] {
    let mut mac =
        Blake2sMac::<U16>::new_with_salt_and_personal(key, &[], &[]).expect("a key of at most 32 bytes");
    Update::update(&mut mac, message);
    mac.finalize_fixed().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_works_for_its_address_and_its_time() {
        let mut secrets = Secrets::new([1; 32]);
        let keys = MacKeys::new(&PublicKey([7; 32]));
        let mut jar = CookieJar::new(&mut secrets, 0);
        let from: SocketAddr = "10.0.0.1:5".parse().unwrap();
        let mut message = [9; 148];
        let mac1 = keys.seal(&mut message, None);
        assert!(keys.mac1_is_right(&message));
        assert!(!jar.mac2_is_right(&message, from, 0));

        let reply = jar.reply(&keys, &message, [1, 2, 3, 4], from, &mut secrets, 0);
        assert_eq!(keys.open_reply(&reply, &[0; MAC]), None, "an answer to another message");
        let cookie = keys.open_reply(&reply, &mac1).unwrap();
        keys.seal(&mut message, Some(&cookie));
        assert!(jar.mac2_is_right(&message, from, COOKIE_LIFE - 1));
        assert!(!jar.mac2_is_right(&message, "10.0.0.1:6".parse().unwrap(), 0));
        assert!(!jar.mac2_is_right(&message, from, COOKIE_LIFE));
        message[20] ^= 1;
        assert!(!keys.mac1_is_right(&message) && !jar.mac2_is_right(&message, from, 0));
    }
}
