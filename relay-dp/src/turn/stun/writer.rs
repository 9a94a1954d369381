//! Writing a message behind what a buffer already holds.

use std::net::SocketAddr;

use super::{
    Class, ErrorCode, HEADER, Integrity, Key, MAGIC_COOKIE, TransactionId, attribute, encode_xor_address,
    integrity, padded, xor_address_len,
};

/// One message being written. Attributes come in the order of the calls; integrity, then fingerprint, come last.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    transaction: TransactionId,
}

impl<'a> Writer<'a> {
    /// Begins a message at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>, class: Class, method: u16, transaction: &TransactionId) -> Writer<'a> {
        let start = out.len();
        out.extend_from_slice(&class.with(method).to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        out.extend_from_slice(transaction);
        Writer { out, start, transaction: *transaction }
    }

    fn set_length(&mut self) {
        let length = self.length();
        self.out[self.start + 2..self.start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn length(&self) -> u16 {
        u16::try_from(self.out.len() - self.start - HEADER).expect("our messages are short")
    }

    /// Adds an attribute.
    ///
    /// # Panics
    /// Where the message has more than 65,535 bytes of attributes.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = u16::try_from(value.len()).expect("our attributes are short");
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&len.to_be_bytes());
        self.out.extend_from_slice(value);
        self.out.resize(self.out.len() + padded(value.len()) - value.len(), 0);
        self.set_length();
        self
    }

    /// Adds an XOR-…-ADDRESS.
    pub fn xor_address(&mut self, kind: u16, address: &SocketAddr) -> &mut Self {
        let mut value = [0; 20];
        encode_xor_address(&mut value, address, &self.transaction);
        self.attribute(kind, &value[..xor_address_len(address)])
    }

    /// Adds an ERROR-CODE (RFC 8489 section 14.8).
    pub fn error(&mut self, error: ErrorCode) -> &mut Self {
        let mut value = [0; 64];
        let len = error_value(&mut value, 0, error);
        self.attribute(attribute::ERROR_CODE, &value[..len])
    }

    /// Adds an ADDRESS-ERROR-CODE (RFC 8656 section 18.12).
    pub fn address_error(&mut self, family: u8, error: ErrorCode) -> &mut Self {
        let mut value = [0; 64];
        let len = error_value(&mut value, family, error);
        self.attribute(attribute::ADDRESS_ERROR_CODE, &value[..len])
    }

    /// Protects all that has been written.
    pub fn integrity(&mut self, integrity: Integrity, key: Key<'_>) -> &mut Self {
        let end = self.length() + 4 + u16::try_from(integrity.tag_len()).expect("20 or 32");
        let tag = integrity.tag(key, &self.out[self.start..], end);
        self.attribute(integrity.attribute(), tag.as_ref())
    }

    /// Adds a FINGERPRINT.
    pub fn fingerprint(&mut self) -> &mut Self {
        let value = integrity::fingerprint(&self.out[self.start..], self.length() + 8);
        self.attribute(attribute::FINGERPRINT, &value.to_be_bytes())
    }
}

fn error_value(value: &mut [u8; 64], family: u8, error: ErrorCode) -> usize {
    let (code, reason) = (error.code(), error.reason().as_bytes());
    value[0] = family;
    value[2] = u8::try_from(code / 100).expect("3 to 6");
    value[3] = u8::try_from(code % 100).expect("0 to 99");
    value[4..4 + reason.len()].copy_from_slice(reason);
    4 + reason.len()
}
