//! Messages between replicas, apart from votes, and their layout.
//!
//! The host's frame names the table; the channel authenticates the sender. All numbers are little-endian.
//!
//! ```text
//! kind (1), then
//!  1 proposal           view (8), block
//!  2 view change        see `ViewChange`
//!  3 new view           see `NewView`
//!  4 status             view (8), active (1), committed (8), stable (8)
//!  5 fetch blocks       from (8), to (8)
//!  6 blocks             count (2), count × (certificate, block length (4), block)
//!  7 fetch body         height (8), digest (32)
//!  8 body               block
//!  9 fetch view         view (8)
//! 10 stable checkpoint  certificate
//! 11 suspect            view (8)
//! ```

use bytes::Bytes;
use dag::{
    Block, Certificate, Hash, Height, View,
    table_block::{BlockError, MAX_BLOCK_SIZE},
    wire::{Put, Reader, WireError},
};

use crate::{new_view::NewView, view_change::ViewChange};

/// Most blocks of one [`Message::Blocks`].
pub const MAX_BLOCKS: usize = 64;

/// What replicas say to each other besides votes.
#[derive(Clone, Debug)]
pub enum Message {
    /// The primary's block (pre-prepare, section 4.2). Unsigned: the channel authenticates it, and the
    /// primary's prepare vote signs it.
    Proposal {
        /// The view.
        view: View,
        /// The block.
        block: Block,
    },
    /// «I leave my view»; section 4.4.
    ViewChange(Box<ViewChange>),
    /// The new primary's proof that a view may begin; section 4.4.
    NewView(Box<NewView>),
    /// Where the sender stands.
    Status {
        /// Its view.
        view: View,
        /// Whether that view has begun for it; otherwise it waits for the new-view message.
        active: bool,
        /// Its highest committed height.
        committed: Height,
        /// Height of its last stable checkpoint.
        stable: Height,
    },
    /// Asks for committed blocks of these heights, both inclusive.
    FetchBlocks {
        /// First height.
        from: Height,
        /// Last height.
        to: Height,
    },
    /// Committed blocks with their commit certificates, in ascending height without a gap.
    Blocks(Vec<(Certificate, Block)>),
    /// Asks for one proposed block.
    FetchBody {
        /// Its height.
        height: Height,
        /// Its hash.
        digest: Hash,
    },
    /// Answers it.
    Body(Block),
    /// Asks for the new-view message of this view or a later one.
    FetchView {
        /// The view.
        view: View,
    },
    /// A checkpoint's certificate.
    StableCheckpoint(Certificate),
    /// «The primary of this view makes no progress.» With f + 1 of these a view change begins.
    Suspect {
        /// The view.
        view: View,
    },
}

impl Message {
    /// Appends the layout.
    ///
    /// # Panics
    /// Where there are more than [`MAX_BLOCKS`] blocks.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::Proposal { view, block } => {
                out.put_u8(1);
                out.put_u64(*view);
                out.put(block.bytes());
            }
            Message::ViewChange(change) => {
                out.put_u8(2);
                change.encode(out);
            }
            Message::NewView(new_view) => {
                out.put_u8(3);
                new_view.encode(out);
            }
            Message::Status { view, active, committed, stable } => {
                out.put_u8(4);
                out.put_u64(*view);
                out.put_u8(u8::from(*active));
                out.put_u64(*committed);
                out.put_u64(*stable);
            }
            Message::FetchBlocks { from, to } => {
                out.put_u8(5);
                out.put_u64(*from);
                out.put_u64(*to);
            }
            Message::Blocks(blocks) => {
                assert!(blocks.len() <= MAX_BLOCKS, "at most {MAX_BLOCKS} blocks in one message");
                out.put_u8(6);
                out.put_u16(u16::try_from(blocks.len()).expect("at most MAX_BLOCKS"));
                for (certificate, block) in blocks {
                    certificate.encode(out);
                    out.put_u32(u32::try_from(block.bytes().len()).expect("at most MAX_BLOCK_SIZE"));
                    out.put(block.bytes());
                }
            }
            Message::FetchBody { height, digest } => {
                out.put_u8(7);
                out.put_u64(*height);
                out.put(&digest.0);
            }
            Message::Body(block) => {
                out.put_u8(8);
                out.put(block.bytes());
            }
            Message::FetchView { view } => {
                out.put_u8(9);
                out.put_u64(*view);
            }
            Message::StableCheckpoint(certificate) => {
                out.put_u8(10);
                certificate.encode(out);
            }
            Message::Suspect { view } => {
                out.put_u8(11);
                out.put_u64(*view);
            }
        }
    }

    /// Reads a message that fills `bytes`. Blocks share the bytes.
    pub fn decode(bytes: &Bytes) -> Result<Message, WireError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            1 => {
                let view = reader.u64()?;
                return Ok(Message::Proposal { view, block: block(bytes.slice(9..))? });
            }
            2 => Message::ViewChange(Box::new(ViewChange::decode(&mut reader)?)),
            3 => Message::NewView(Box::new(NewView::decode(&mut reader)?)),
            4 => Message::Status {
                view: reader.u64()?,
                active: flag(&mut reader)?,
                committed: reader.u64()?,
                stable: reader.u64()?,
            },
            5 => Message::FetchBlocks { from: reader.u64()?, to: reader.u64()? },
            6 => Message::Blocks(blocks(bytes, &mut reader)?),
            7 => Message::FetchBody { height: reader.u64()?, digest: reader.hash()? },
            8 => return Ok(Message::Body(block(bytes.slice(1..))?)),
            9 => Message::FetchView { view: reader.u64()? },
            10 => Message::StableCheckpoint(Certificate::decode(&mut reader)?),
            11 => Message::Suspect { view: reader.u64()? },
            _ => return Err(WireError::Field("message kind")),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn blocks(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Vec<(Certificate, Block)>, WireError> {
    let count = usize::from(reader.u16()?);
    if count > MAX_BLOCKS {
        return Err(WireError::Field("block count"));
    }
    let mut blocks = Vec::with_capacity(count);
    for _ in 0..count {
        let certificate = Certificate::decode(reader)?;
        let length = reader.u32()? as usize;
        if length > MAX_BLOCK_SIZE {
            return Err(WireError::Field("block size"));
        }
        let start = bytes.len() - reader.remaining();
        reader.take(length)?;
        blocks.push((certificate, block(bytes.slice(start..start + length))?));
    }
    Ok(blocks)
}

/// Reads a byte that is 0 or 1.
pub(crate) fn flag(reader: &mut Reader<'_>) -> Result<bool, WireError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(WireError::Field("flag")),
    }
}

/// Reads a block that fills `bytes`.
pub(crate) fn block(bytes: Bytes) -> Result<Block, WireError> {
    Block::parse(bytes).map_err(|error| match error {
        BlockError::Wire(error) => error,
        BlockError::Transaction(..) => WireError::Field("transaction of a block"),
        BlockError::Root => WireError::Field("root of a block"),
    })
}
