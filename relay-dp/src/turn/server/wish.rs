//! What an Allocate request asks for.

use crate::turn::{
    ports::Want,
    stun::{ErrorCode, Message, attribute},
};

/// IANA's number of UDP, the only transport of relays (RFC 8656 section 18.8).
const UDP: u8 = 17;
/// What families are called in attributes, by [`family`](crate::turn::allocation::family).
pub(super) const FAMILIES: [u8; 2] = [1, 2];

/// What an Allocate request asks for.
pub(super) enum Wish {
    /// The port that was kept aside.
    Reserved(u64),
    /// A new one.
    New {
        family: usize,
        want: Want,
        /// And one of IPv6, where that is possible.
        also_ipv6: bool,
    },
}

impl Wish {
    /// In the order of RFC 8656 section 7.2.
    pub(super) fn read(message: &Message<'_>) -> Result<Wish, ErrorCode> {
        match message.find(attribute::REQUESTED_TRANSPORT) {
            Some([UDP, _, _, _]) => {}
            Some([_, _, _, _]) => return Err(ErrorCode::UnsupportedTransport),
            _ => return Err(ErrorCode::BadRequest),
        }
        let family = requested_family(message, attribute::REQUESTED_ADDRESS_FAMILY)?;
        let additional = requested_family(message, attribute::ADDITIONAL_ADDRESS_FAMILY)?;
        let want = match message.find(attribute::EVEN_PORT) {
            None => Want::Any,
            Some([flags]) if flags & 0x80 != 0 => Want::Pair,
            Some([_]) => Want::Even,
            Some(_) => return Err(ErrorCode::BadRequest),
        };
        if let Some(token) = message.find(attribute::RESERVATION_TOKEN) {
            let token = token.try_into().map_err(|_| ErrorCode::BadRequest)?;
            let alone = want == Want::Any && family.is_none() && additional.is_none();
            return if alone {
                Ok(Wish::Reserved(u64::from_be_bytes(token)))
            } else {
                Err(ErrorCode::BadRequest)
            };
        }
        if additional.is_some() && (family.is_some() || additional != Some(1) || want == Want::Pair) {
            return Err(ErrorCode::BadRequest);
        }
        Ok(Wish::New { family: family.unwrap_or(0), want, also_ipv6: additional.is_some() })
    }
}

/// The family that an attribute names, if the message has it (RFC 8656 section 18.6).
pub(super) fn requested_family(message: &Message<'_>, kind: u16) -> Result<Option<usize>, ErrorCode> {
    match message.find(kind) {
        None => Ok(None),
        Some([code, _, _, _]) => {
            let family = FAMILIES.iter().position(|family| family == code);
            family.map(Some).ok_or(ErrorCode::AddressFamilyNotSupported)
        }
        Some(_) => Err(ErrorCode::BadRequest),
    }
}
