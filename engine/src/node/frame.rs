//! What two validators say to each other on a lane's channel.
//!
//! Each frame of the channel is a kind (u8) and a body; the channel adds and checks the length. The first frame both
//! ways is a hello. A frame that does not decode closes the channel and is counted.
//!
//! ```text
//! 1 hello         version (1), lane (2), genesis hash (32)
//! 2 transactions  records, each its length (2) and its bytes: a client's, on their way to the primary
//! 3 agreement     table (2), message (see `pbft::Message`)
//! 4 votes         a vote bundle (see `dag::vote`)
//! 5 want state    table (2), above height (8), offset (8)
//! 6 state         table (2), height (8), offset (8), total (8), bytes of the snapshot
//! 7 no state      table (2)
//! 8 want claim    table (2), above height (8)
//! 9 claim         table (2), height (8), digest of the state's checkpoint preimage (32)
//! ```

use bytes::Bytes;
use dag::{
    Hash, Height, LaneId, TableId, VoteBundle,
    table_block::HEADER_SIZE,
    transaction,
    vote::VoteProof,
    wire::{Put, Reader, WireError},
};

/// Bytes that every frame but a new view keeps to: a range of blocks with their certificates fits.
pub const MAX_FRAME: usize = 4 << 20;
/// No committee's frames are larger.
pub const LARGEST_FRAME: usize = 32 << 20;
/// Most validators whose new views fit [`LARGEST_FRAME`].
pub const MAX_VALIDATORS: usize = 52;
/// Version of this protocol.
pub const VERSION: u8 = 1;

const HELLO: u8 = 1;
const TRANSACTIONS: u8 = 2;
const AGREEMENT: u8 = 3;
pub(super) const VOTES: u8 = 4;
const WANT_STATE: u8 = 5;
const STATE: u8 = 6;
const NO_STATE: u8 = 7;
const WANT_CLAIM: u8 = 8;
const CLAIM: u8 = 9;

/// A frame between two validators.
#[derive(Debug)]
pub enum Frame {
    /// Who speaks of which shard and lane.
    Hello {
        /// The lane.
        lane: LaneId,
        /// The shard's genesis.
        genesis: Hash,
    },
    /// Clients' transactions for the primary; each fits a record's size, no more is checked.
    Transactions(Vec<Bytes>),
    /// One table's agreement.
    Agreement(TableId, pbft::Message),
    /// Votes of one turn.
    Votes(VoteBundle),
    /// Asks for a part of the newest snapshot above a height.
    WantState {
        /// The table.
        table: TableId,
        /// What the asker has.
        above: Height,
        /// Where the part begins.
        offset: u64,
    },
    /// A part of a snapshot.
    State {
        /// The table.
        table: TableId,
        /// The snapshot's height.
        height: Height,
        /// Where in it the bytes stand.
        offset: u64,
        /// Its size.
        total: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// There is no snapshot above the height that was asked for.
    NoState(TableId),
    /// Asks for the state that a resting table has above a height.
    WantClaim {
        /// The table.
        table: TableId,
        /// What the asker has.
        above: Height,
    },
    /// The state of a table that rests.
    Claim {
        /// The table.
        table: TableId,
        /// Height of its newest block.
        height: Height,
        /// Digest of what a checkpoint there would sign.
        digest: Hash,
    },
}

impl Frame {
    /// Reads a frame, sharing its bytes.
    pub fn decode(frame: &Bytes) -> Result<Frame, WireError> {
        let mut reader = Reader::new(frame);
        let kind = reader.u8()?;
        let rest = |reader: &Reader<'_>| frame.slice(frame.len() - reader.remaining()..);
        match kind {
            HELLO => {
                if reader.u8()? != VERSION {
                    return Err(WireError::Field("version"));
                }
                let hello = Frame::Hello { lane: reader.u16()?, genesis: reader.hash()? };
                reader.finish()?;
                Ok(hello)
            }
            TRANSACTIONS => {
                let mut records = Vec::new();
                while reader.remaining() > 0 {
                    let length = usize::from(reader.u16()?);
                    let start = frame.len() - reader.remaining();
                    reader.take(length)?;
                    records.push(frame.slice(start..start + length));
                }
                Ok(Frame::Transactions(records))
            }
            AGREEMENT => {
                let table = reader.u16()?;
                Ok(Frame::Agreement(table, pbft::Message::decode(&rest(&reader))?))
            }
            VOTES => Ok(Frame::Votes(VoteBundle::parse(&rest(&reader))?)),
            WANT_STATE => {
                let want =
                    Frame::WantState { table: reader.u16()?, above: reader.u64()?, offset: reader.u64()? };
                reader.finish()?;
                Ok(want)
            }
            STATE => {
                let (table, height) = (reader.u16()?, reader.u64()?);
                let (offset, total) = (reader.u64()?, reader.u64()?);
                let bytes = rest(&reader);
                if bytes.is_empty() || offset.checked_add(bytes.len() as u64).is_none_or(|end| end > total) {
                    return Err(WireError::Field("offset"));
                }
                Ok(Frame::State { table, height, offset, total, bytes })
            }
            NO_STATE => {
                let table = reader.u16()?;
                reader.finish()?;
                Ok(Frame::NoState(table))
            }
            WANT_CLAIM => {
                let want = Frame::WantClaim { table: reader.u16()?, above: reader.u64()? };
                reader.finish()?;
                Ok(want)
            }
            CLAIM => {
                let (table, height, digest) = (reader.u16()?, reader.u64()?, reader.hash()?);
                reader.finish()?;
                Ok(Frame::Claim { table, height, digest })
            }
            _ => Err(WireError::Field("frame kind")),
        }
    }

    /// The frame's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Frame::Hello { lane, genesis } => {
                out.extend_from_slice(&[HELLO, VERSION]);
                out.put_u16(*lane);
                out.put(&genesis.0);
            }
            Frame::Transactions(records) => {
                out.reserve(1 + records.iter().map(|record| record.len() + 2).sum::<usize>());
                out.put_u8(TRANSACTIONS);
                for record in records {
                    out.put_u16(
                        u16::try_from(record.len()).expect("a record is at most transaction::MAX_SIZE"),
                    );
                    out.put(record);
                }
            }
            Frame::Agreement(table, message) => {
                out.put_u8(AGREEMENT);
                out.put_u16(*table);
                message.encode(&mut out);
            }
            Frame::Votes(bundle) => {
                out.put_u8(VOTES);
                bundle.encode(&mut out);
            }
            Frame::WantState { table, above, offset } => {
                out.put_u8(WANT_STATE);
                out.put_u16(*table);
                out.put_u64(*above);
                out.put_u64(*offset);
            }
            Frame::State { table, height, offset, total, bytes } => {
                out.reserve(27 + bytes.len());
                out.put_u8(STATE);
                out.put_u16(*table);
                out.put_u64(*height);
                out.put_u64(*offset);
                out.put_u64(*total);
                out.put(bytes);
            }
            Frame::NoState(table) => {
                out.put_u8(NO_STATE);
                out.put_u16(*table);
            }
            Frame::WantClaim { table, above } => {
                out.put_u8(WANT_CLAIM);
                out.put_u16(*table);
                out.put_u64(*above);
            }
            Frame::Claim { table, height, digest } => {
                out.put_u8(CLAIM);
                out.put_u16(*table);
                out.put_u64(*height);
                out.put(&digest.0);
            }
        }
        assert!(out.len() <= LARGEST_FRAME, "a frame of kind {} grew to {} bytes", out[0], out.len());
        out.into()
    }
}

/// Most bytes of a frame between the validators of a committee: a new view may hold a quorum of view changes, each with
/// as many prepared entries as may be, each with a quorum's certificate.
pub const fn max_frame(validators: usize) -> usize {
    let quorum = validators - (validators - 1) / 3;
    let certificate = 54 + quorum * VoteProof::MAX_SIZE;
    let change = 77 + certificate + pbft::MAX_PREPARED * (HEADER_SIZE + certificate);
    let new_view = 3 + 1 + 74 + quorum * change;
    if new_view > MAX_FRAME { new_view } else { MAX_FRAME }
}

const _: () = assert!(max_frame(MAX_VALIDATORS) <= LARGEST_FRAME);

/// Most bytes of records that one transactions frame carries.
pub const MAX_FORWARD: usize = MAX_FRAME / 4;
const _: () = assert!(MAX_FORWARD > 2 + transaction::MAX_SIZE);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(frame: &Frame) -> Frame {
        Frame::decode(&frame.encode()).unwrap()
    }

    #[test]
    fn frames_round_trip() {
        let hello = Frame::Hello { lane: 3, genesis: Hash([4; 32]) };
        assert!(matches!(round_trip(&hello), Frame::Hello { lane: 3, genesis: Hash([4, ..]) }));
        let records = vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")];
        let Frame::Transactions(read) = round_trip(&Frame::Transactions(records.clone())) else { panic!() };
        assert_eq!(read, records);
        let want = Frame::WantState { table: 1, above: 2, offset: 3 };
        assert!(matches!(round_trip(&want), Frame::WantState { table: 1, above: 2, offset: 3 }));
        let bytes = Bytes::from_static(b"xyz");
        let part = Frame::State { table: 1, height: 2, offset: 3, total: 6, bytes: bytes.clone() };
        let Frame::State { bytes: read, .. } = round_trip(&part) else { panic!() };
        assert_eq!(read, bytes);
        assert!(matches!(round_trip(&Frame::NoState(9)), Frame::NoState(9)));
        let want = Frame::WantClaim { table: 1, above: 2 };
        assert!(matches!(round_trip(&want), Frame::WantClaim { table: 1, above: 2 }));
        let claim = Frame::Claim { table: 1, height: 2, digest: Hash([5; 32]) };
        assert!(matches!(round_trip(&claim), Frame::Claim { table: 1, height: 2, digest: Hash([5, ..]) }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(kind in 0..11u8, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut frame = vec![kind];
            frame.extend(bytes);
            let _ = Frame::decode(&frame.into());
        }
    }
}
