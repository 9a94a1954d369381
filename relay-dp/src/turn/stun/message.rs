//! A message as it came: checked once, then read in place.

use constant_time_eq::constant_time_eq;

use super::{
    ATTRIBUTE_HEADER, HEADER, Integrity, Key, MAGIC_COOKIE, TransactionId, attribute, integrity, padded,
};

/// What kind of message (RFC 8489 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// A good answer.
    Success,
    /// A bad answer.
    Error,
}

impl Class {
    const ALL: [Class; 4] = [Class::Request, Class::Indication, Class::Success, Class::Error];

    /// The message type of this class and a method.
    pub(crate) const fn with(self, method: u16) -> u16 {
        let class = self as u16;
        (method & 0x000f)
            | (method & 0x0070) << 1
            | (method & 0x0f80) << 2
            | (class & 1) << 4
            | (class & 2) << 7
    }
}

/// Why bytes are no STUN message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// Shorter than a header, without the magic cookie, or with the first bits set.
    #[error("not STUN")]
    NotStun,
    /// The length in the header is not the number of bytes that follow.
    #[error("the message's length is wrong")]
    Length,
    /// An attribute goes beyond the end, or has a wrong length.
    #[error("an attribute's length is wrong")]
    Attribute,
    /// FINGERPRINT is not the last attribute, or does not fit.
    #[error("the fingerprint is wrong")]
    Fingerprint,
}

/// An attribute: its type, and its value without padding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attribute<'a> {
    /// Its type; see [`attribute`].
    pub kind: u16,
    /// Its value.
    pub value: &'a [u8],
    /// Where the value begins in the message.
    pub offset: usize,
}

/// A well-formed message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: u16,
    transaction: TransactionId,
    /// Where the attributes end that count: before the first integrity attribute or the fingerprint.
    end: usize,
    sha1: Option<usize>,
    sha256: Option<usize>,
    fingerprint: bool,
}

impl<'a> Message<'a> {
    /// Checks all of a message but its integrity. What stands behind MESSAGE-INTEGRITY is passed over, but for
    /// MESSAGE-INTEGRITY-SHA256 and FINGERPRINT (RFC 8489 section 14.5).
    ///
    /// # Errors
    /// See [`ParseError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Message<'a>, ParseError> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(ParseError::NotStun)?;
        let [t0, t1, l0, l1, c0, c1, c2, c3, transaction @ ..] = *header;
        if t0 & 0xc0 != 0 || u32::from_be_bytes([c0, c1, c2, c3]) != MAGIC_COOKIE {
            return Err(ParseError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length % 4 != 0 || HEADER + length != bytes.len() {
            return Err(ParseError::Length);
        }
        let kind = u16::from_be_bytes([t0, t1]);
        let class = Class::ALL[usize::from(kind >> 4 & 1 | kind >> 7 & 2)];
        let method = kind & 0x000f | kind >> 1 & 0x0070 | kind >> 2 & 0x0f80;
        let mut message = Message {
            bytes,
            class,
            method,
            transaction,
            end: bytes.len(),
            sha1: None,
            sha256: None,
            fingerprint: false,
        };
        message.walk()?;
        Ok(message)
    }

    fn walk(&mut self) -> Result<(), ParseError> {
        let mut at = HEADER;
        while at < self.bytes.len() {
            let Attribute { kind, value, offset } = read(self.bytes, at).ok_or(ParseError::Attribute)?;
            let next = offset + padded(value.len());
            match kind {
                attribute::FINGERPRINT => {
                    if next != self.bytes.len() || !fingerprint_fits(self.bytes, at, value) {
                        return Err(ParseError::Fingerprint);
                    }
                    self.fingerprint = true;
                    self.end = self.end.min(at);
                }
                attribute::MESSAGE_INTEGRITY if self.sha1.is_none() && self.sha256.is_none() => {
                    if value.len() != Integrity::Sha1.tag_len() {
                        return Err(ParseError::Attribute);
                    }
                    self.sha1 = Some(at);
                    self.end = self.end.min(at);
                }
                attribute::MESSAGE_INTEGRITY_SHA256 if self.sha256.is_none() => {
                    // May be cut, to no less than 16 bytes (RFC 8489 section 14.6).
                    if value.len() < 16 || value.len() > Integrity::Sha256.tag_len() || value.len() % 4 != 0 {
                        return Err(ParseError::Attribute);
                    }
                    self.sha256 = Some(at);
                    self.end = self.end.min(at);
                }
                _ => {}
            }
            at = next;
        }
        Ok(())
    }

    /// Request, indication or answer.
    pub fn class(&self) -> Class {
        self.class
    }

    /// What about; see [`method`](super::method).
    pub fn method(&self) -> u16 {
        self.method
    }

    /// Which transaction it belongs to.
    pub fn transaction(&self) -> &TransactionId {
        &self.transaction
    }

    /// Whether it ends in a FINGERPRINT.
    pub fn has_fingerprint(&self) -> bool {
        self.fingerprint
    }

    /// The attributes that count, in their order.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let (bytes, end, mut at) = (self.bytes, self.end, HEADER);
        std::iter::from_fn(move || {
            let found = if at < end { read(bytes, at) } else { None }?;
            at = found.offset + padded(found.value.len());
            Some(found)
        })
    }

    /// The first attribute of a type.
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|attribute| attribute.kind == kind).map(|attribute| attribute.value)
    }

    /// What protects the message: the stronger one where there are both.
    pub fn integrity(&self) -> Option<Integrity> {
        match (self.sha1, self.sha256) {
            (_, Some(_)) => Some(Integrity::Sha256),
            (Some(_), None) => Some(Integrity::Sha1),
            (None, None) => None,
        }
    }

    /// Whether the attribute that [`integrity`](Self::integrity) names was made with this key. In constant time.
    pub fn is_intact(&self, key: Key<'_>) -> bool {
        let Some(integrity) = self.integrity() else { return false };
        let Some(at) = (match integrity {
            Integrity::Sha1 => self.sha1,
            Integrity::Sha256 => self.sha256,
        }) else {
            return false;
        };
        let attribute = read(self.bytes, at).expect("walked before");
        let end = attribute.offset + attribute.value.len() - HEADER;
        let end = u16::try_from(end).expect("a message's length has 16 bits");
        let tag = integrity.tag(key, &self.bytes[..at], end);
        // RFC 8489 section 14.6 allows cut ones.
        constant_time_eq(&tag.as_ref()[..attribute.value.len()], attribute.value)
    }
}

/// The attribute at an offset. `None` where it goes beyond the end.
fn read(bytes: &[u8], at: usize) -> Option<Attribute<'_>> {
    let header: &[u8; ATTRIBUTE_HEADER] = bytes.get(at..)?.first_chunk()?;
    let [k0, k1, l0, l1] = *header;
    let (offset, len) = (at + ATTRIBUTE_HEADER, usize::from(u16::from_be_bytes([l0, l1])));
    if offset + padded(len) > bytes.len() {
        return None;
    }
    Some(Attribute { kind: u16::from_be_bytes([k0, k1]), value: &bytes[offset..offset + len], offset })
}

fn fingerprint_fits(bytes: &[u8], at: usize, value: &[u8]) -> bool {
    let Ok(end) = u16::try_from(bytes.len() - HEADER) else { return false };
    value == integrity::fingerprint(&bytes[..at], end).to_be_bytes()
}
