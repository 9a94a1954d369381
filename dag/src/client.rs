//! The binary protocol of the submission port, for clients of high rate.
//!
//! A plain TCP connection carries frames both ways: a length (u32, little-endian, of what follows), a kind (u8) and a body.
//! All numbers are little-endian. A malformed frame closes the connection.
//!
//! ```text
//! client → node
//!   1 submit    first tag (8), then records: each its length (2) and its bytes (see `transaction`).
//!               Record i of the frame has tag first + i, modulo 2⁶⁴. A record below 21 bytes makes the frame malformed.
//!   2 account   tag (8), address (32)
//!
//! node → client
//!   1 replies   any number of: tag (8), code (1), table (2), height (8), index (4)
//!   2 account   tag (8), found (1), balance (8), sequence (8), pending sequence (8), unit height (8), unit head (32);
//!               all zero behind the tag where the account has never been paid
//! ```
//!
//! Each submitted record gets exactly one reply. Code 0: committed, executed and durable on a quorum, as transaction `index` of the block
//! `height` of `table`. Other codes are refusals ([`Code`]), with table, height and index where the transaction has a place, else zero.
//! A node that reads slower than a client sends lets TCP hold the client back; it never drops a record in silence.

use crate::{
    Address, Hash, Height, TableId,
    transaction::FormatError,
    wire::{Put, Reader, WireError},
};

/// Most bytes of a frame behind its length.
pub const MAX_FRAME: usize = 256 * 1024;
/// Bytes of one reply.
pub const REPLY_SIZE: usize = 23;
/// Least bytes of a record: with its length it is not shorter than its reply, so that nobody gets more bytes than he sends.
pub const MIN_RECORD: usize = REPLY_SIZE - 2;

/// Kind of a frame that submits transactions; the node answers with the same kind.
pub const SUBMIT: u8 = 1;
/// Kind of a frame that asks for an account; the node answers with the same kind.
pub const ACCOUNT: u8 = 2;

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
#[repr(u8)]
pub enum Code {
    /// Committed and executed.
    #[error("committed")]
    Committed = 0,
    /// Wrong length.
    #[error("wrong length: a record of n payees has 128 + 40·n bytes")]
    Length = 1,
    /// Larger than any transaction.
    #[error("oversize record")]
    Oversize = 2,
    /// Unknown version.
    #[error("unknown version: this network speaks version 1")]
    Version = 3,
    /// Unknown kind.
    #[error("unknown kind of transaction")]
    Kind = 4,
    /// A second byte string for the same meaning.
    #[error("non-canonical encoding")]
    NonCanonical = 5,
    /// An amount of zero.
    #[error("zero amount")]
    ZeroAmount = 6,
    /// The sender among the payees.
    #[error("self-transfer: the sender is a payee")]
    SelfTransfer = 7,
    /// Amounts and fee overflow.
    #[error("overflow: amounts and fee add up to more than 2⁶⁴ − 1")]
    Overflow = 8,
    /// Signed for another network.
    #[error("wrong chain: signed for another network")]
    WrongChain = 9,
    /// Signed in an epoch that is no longer, or not yet, valid.
    #[error("wrong epoch: sign again for the current one")]
    WrongEpoch = 10,
    /// The signature does not fit.
    #[error("bad signature")]
    BadSignature = 11,
    /// The sequence is used already, by another transaction.
    #[error("stale sequence: the account is past it")]
    StaleSequence = 12,
    /// A sequence before it is missing.
    #[error("gapped sequence: one before it is missing")]
    GappedSequence = 13,
    /// The balance does not cover amounts and fee.
    #[error("overdraft: the balance does not cover amounts and fee")]
    Overdraft = 14,
    /// Too many transactions of this account wait already.
    #[error("too many pending: wait until some of the account's transactions are committed")]
    TooManyPending = 15,
    /// The node's memory for waiting transactions is full.
    #[error("mempool full: submit again later")]
    MempoolFull = 16,
    /// Another transaction with this sequence waits; a replacement has to offer a higher fee.
    #[error("underpriced: a replacement has to offer a fee that is higher by an eighth")]
    Underpriced = 17,
    /// Replaced by a transaction of the same sequence with a higher fee.
    #[error("replaced by a transaction of the same sequence with a higher fee")]
    Replaced = 18,
    /// The address belongs to no table of this shard.
    #[error("unknown table: this shard does not hold the account")]
    UnknownTable = 19,
    /// The node is stopping, has lost its disk, or is behind the others and can't tell yet.
    #[error("the node does not take transactions now: submit to another one")]
    Unavailable = 20,
}

impl Code {
    /// All codes.
    pub const ALL: [Code; 21] = [
        Code::Committed,
        Code::Length,
        Code::Oversize,
        Code::Version,
        Code::Kind,
        Code::NonCanonical,
        Code::ZeroAmount,
        Code::SelfTransfer,
        Code::Overflow,
        Code::WrongChain,
        Code::WrongEpoch,
        Code::BadSignature,
        Code::StaleSequence,
        Code::GappedSequence,
        Code::Overdraft,
        Code::TooManyPending,
        Code::MempoolFull,
        Code::Underpriced,
        Code::Replaced,
        Code::UnknownTable,
        Code::Unavailable,
    ];

    /// The code of this byte.
    pub fn from_byte(byte: u8) -> Option<Code> {
        Code::ALL.get(usize::from(byte)).copied()
    }
}

impl From<FormatError> for Code {
    fn from(error: FormatError) -> Code {
        match error {
            FormatError::Length => Code::Length,
            FormatError::Oversize => Code::Oversize,
            FormatError::Version => Code::Version,
            FormatError::Kind => Code::Kind,
            FormatError::NonCanonical => Code::NonCanonical,
            FormatError::ZeroAmount => Code::ZeroAmount,
            FormatError::SelfTransfer => Code::SelfTransfer,
            FormatError::Overflow => Code::Overflow,
        }
    }
}

/// The fate of one submitted record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The client's tag.
    pub tag: u64,
    /// What became of it.
    pub code: Code,
    /// The table, where it has a place.
    pub table: TableId,
    /// The block's height there.
    pub height: Height,
    /// The place in the block.
    pub index: u32,
}

impl Reply {
    /// A refusal before the transaction had a place.
    pub fn refused(tag: u64, code: Code) -> Reply {
        Reply { tag, code, table: 0, height: 0, index: 0 }
    }

    /// Appends the layout.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.tag);
        out.put_u8(self.code as u8);
        out.put_u16(self.table);
        out.put_u64(self.height);
        out.put_u32(self.index);
    }

    /// Reads one reply.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Reply, WireError> {
        let tag = reader.u64()?;
        let code = Code::from_byte(reader.u8()?).ok_or(WireError::Field("code"))?;
        Ok(Reply { tag, code, table: reader.u16()?, height: reader.u64()?, index: reader.u32()? })
    }
}

/// An account as a client sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AccountState {
    /// Micro-TOP.
    pub balance: u64,
    /// The last executed sequence.
    pub sequence: u64,
    /// The last sequence that this node holds, executed or waiting.
    pub pending: u64,
    /// Length of the account's chain.
    pub unit_height: u64,
    /// Hash of its newest unit.
    pub unit_head: Hash,
}

/// Length-prefixed records, in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    /// Checks that the lengths fill `bytes` with at least one record.
    fn parse(bytes: &'a [u8]) -> Result<Records<'a>, WireError> {
        let mut reader = Reader::new(bytes);
        loop {
            let length = usize::from(reader.u16()?);
            if length < MIN_RECORD {
                return Err(WireError::Field("record length"));
            }
            reader.take(length)?;
            if reader.remaining() == 0 {
                return Ok(Records(bytes));
            }
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (record, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)));
        self.0 = rest;
        Some(record)
    }
}

/// A frame from a client, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// Records to submit.
    Submit {
        /// Tag of the first record.
        first_tag: u64,
        /// The records, each with its length; their content is not yet checked.
        records: Records<'a>,
    },
    /// A question for an account.
    Account {
        /// Comes back in the answer.
        tag: u64,
        /// The account.
        address: Address,
    },
}

impl<'a> Request<'a> {
    /// Reads a frame's kind and body.
    pub fn parse(frame: &'a [u8]) -> Result<Request<'a>, WireError> {
        let mut reader = Reader::new(frame);
        match reader.u8()? {
            SUBMIT => {
                let first_tag = reader.u64()?;
                let records = Records::parse(reader.take(reader.remaining())?)?;
                Ok(Request::Submit { first_tag, records })
            }
            ACCOUNT => {
                let request = Request::Account { tag: reader.u64()?, address: reader.address()? };
                reader.finish()?;
                Ok(request)
            }
            _ => Err(WireError::Field("frame kind")),
        }
    }
}

/// A frame from a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// Fates of submitted records.
    Replies(Vec<Reply>),
    /// An account; `None` where it has never been paid.
    Account {
        /// The question's tag.
        tag: u64,
        /// The account's state.
        state: Option<AccountState>,
    },
}

impl Response {
    /// Appends the frame with its length.
    pub fn encode_frame(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(0);
        match self {
            Response::Replies(replies) => {
                out.put_u8(SUBMIT);
                replies.iter().for_each(|reply| reply.encode(out));
            }
            Response::Account { tag, state } => {
                out.put_u8(ACCOUNT);
                out.put_u64(*tag);
                out.put_u8(u8::from(state.is_some()));
                let state = state.unwrap_or_default();
                out.put_u64(state.balance);
                out.put_u64(state.sequence);
                out.put_u64(state.pending);
                out.put_u64(state.unit_height);
                out.put(&state.unit_head.0);
            }
        }
        let length = u32::try_from(out.len() - start - 4).expect("callers bound the number of replies");
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Reads a frame's kind and body.
    pub fn parse(frame: &[u8]) -> Result<Response, WireError> {
        let mut reader = Reader::new(frame);
        match reader.u8()? {
            SUBMIT => {
                let mut replies = Vec::with_capacity(reader.remaining() / REPLY_SIZE);
                while reader.remaining() > 0 {
                    replies.push(Reply::decode(&mut reader)?);
                }
                Ok(Response::Replies(replies))
            }
            ACCOUNT => {
                let tag = reader.u64()?;
                let found = reader.u8()?;
                let state = AccountState {
                    balance: reader.u64()?,
                    sequence: reader.u64()?,
                    pending: reader.u64()?,
                    unit_height: reader.u64()?,
                    unit_head: reader.hash()?,
                };
                reader.finish()?;
                match found {
                    1 => Ok(Response::Account { tag, state: Some(state) }),
                    0 if state == AccountState::default() => Ok(Response::Account { tag, state: None }),
                    _ => Err(WireError::Field("found")),
                }
            }
            _ => Err(WireError::Field("frame kind")),
        }
    }
}

/// Appends a submit frame with its length.
pub fn encode_submit<'a>(first_tag: u64, records: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(SUBMIT);
    out.put_u64(first_tag);
    for record in records {
        out.put_u16(u16::try_from(record.len()).expect("callers submit records, which are smaller"));
        out.put(record);
    }
    let length = out.len() - start - 4;
    assert!(length <= MAX_FRAME, "callers bound the records of a frame");
    out[start..start + 4].copy_from_slice(&u32::try_from(length).expect("at most MAX_FRAME").to_le_bytes());
}

/// Appends an account question with its length.
pub fn encode_account(tag: u64, address: &Address, out: &mut Vec<u8>) {
    out.put_u32(41);
    out.put_u8(ACCOUNT);
    out.put_u64(tag);
    out.put(address.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(frame: &[u8]) -> &[u8] {
        let (length, body) = frame.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_le_bytes(*length) as usize, body.len());
        body
    }

    #[test]
    fn codes_are_their_bytes() {
        for (byte, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, byte);
        }
        assert_eq!(Code::from_byte(21), None);
    }

    #[test]
    fn requests_round_trip() {
        let mut out = Vec::new();
        let (short, long) = ([7; MIN_RECORD], [8; 300]);
        encode_submit(7, [&short[..], &long].into_iter(), &mut out);
        let Ok(Request::Submit { first_tag: 7, records }) = Request::parse(body(&out)) else { panic!() };
        assert_eq!(records.collect::<Vec<_>>(), [&short[..], &long]);
        out.clear();
        encode_account(8, &Address([1; 32]), &mut out);
        assert_eq!(Request::parse(body(&out)), Ok(Request::Account { tag: 8, address: Address([1; 32]) }));
    }

    #[test]
    fn no_record_is_shorter_than_its_reply() {
        for length in 0..MIN_RECORD {
            let mut out = Vec::new();
            encode_submit(7, [&[1; 200][..], &vec![0; length]].into_iter(), &mut out);
            assert_eq!(Request::parse(body(&out)), Err(WireError::Field("record length")));
        }
    }

    #[test]
    fn an_answer_has_one_form() {
        let mut out = Vec::new();
        Response::Account { tag: 1, state: None }.encode_frame(&mut out);
        for at in [9, 10, 20, 73] {
            let mut second = body(&out).to_vec();
            second[at] = 2;
            assert_eq!(Response::parse(&second), Err(WireError::Field("found")), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn responses_round_trip(tags in prop::collection::vec((any::<u64>(), 0..21u8), 1..50), balance: u64) {
            let replies: Vec<Reply> = tags.iter().map(|&(tag, code)| Reply {
                tag, code: Code::from_byte(code).unwrap(), table: 3, height: tag / 2, index: 9,
            }).collect();
            let state = AccountState { balance, sequence: 1, pending: 2, unit_height: 3, unit_head: Hash([4; 32]) };
            for response in [
                Response::Replies(replies),
                Response::Account { tag: 1, state: Some(state) },
                Response::Account { tag: 1, state: None },
            ] {
                let mut out = Vec::new();
                response.encode_frame(&mut out);
                prop_assert_eq!(Response::parse(body(&out)), Ok(response));
            }
        }

        #[test]
        fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Request::Submit { records, .. }) = Request::parse(&bytes) {
                prop_assert!(records.count() >= 1);
            }
            let _ = Response::parse(&bytes);
        }
    }
}
