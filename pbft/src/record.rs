//! What a replica writes to its log, and the layout.
//!
//! ```text
//! version 1 (1), kind (1), then
//!  1 proposal     view (8), block
//!  2 vote         vote (52)
//!  3 prepared     certificate
//!  4 committed    certificate
//!  5 view change  see `ViewChange`
//!  6 new view     see `NewView`
//!  7 stable       certificate
//! ```

use bytes::Bytes;
use dag::{
    Block, Certificate, View, Vote, VoteKind,
    vote::VOTE_SIZE,
    wire::{Put, Reader, WireError},
};

use crate::{message, new_view::NewView, view_change::ViewChange};

/// One fact that must survive a restart.
#[derive(Clone, Debug)]
pub enum Record {
    /// A block that this replica is about to vote for, or that is committed.
    Proposal {
        /// The view in which it was accepted.
        view: View,
        /// The block.
        block: Block,
    },
    /// A vote of this replica. It must never sign another one of the same kind, view and height.
    Vote(Vote),
    /// The quorum of prepare votes behind a commit vote: an element of the paper's set P.
    Prepared(Certificate),
    /// A height is final. May be lost in a crash: it can be had again from any peer of the quorum.
    Committed(Certificate),
    /// This replica left its view with this message.
    ViewChange(Box<ViewChange>),
    /// This replica entered a view with this message.
    NewView(Box<NewView>),
    /// A checkpoint is stable.
    Stable(Certificate),
}

impl Record {
    /// Appends the layout.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(1);
        match self {
            Record::Proposal { view, block } => {
                out.put_u8(1);
                out.put_u64(*view);
                out.put(block.bytes());
            }
            Record::Vote(vote) => {
                out.put_u8(2);
                out.put(&vote.to_bytes());
            }
            Record::Prepared(certificate) => {
                out.put_u8(3);
                certificate.encode(out);
            }
            Record::Committed(certificate) => {
                out.put_u8(4);
                certificate.encode(out);
            }
            Record::ViewChange(change) => {
                out.put_u8(5);
                change.encode(out);
            }
            Record::NewView(new_view) => {
                out.put_u8(6);
                new_view.encode(out);
            }
            Record::Stable(certificate) => {
                out.put_u8(7);
                certificate.encode(out);
            }
        }
    }

    /// Reads a record that fills `bytes`. A block shares the bytes.
    pub fn decode(bytes: &Bytes) -> Result<Record, WireError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != 1 {
            return Err(WireError::Field("record version"));
        }
        let record = match reader.u8()? {
            1 => {
                let view = reader.u64()?;
                return Ok(Record::Proposal { view, block: message::block(bytes.slice(10..))? });
            }
            2 => Record::Vote(Vote::parse(&reader.array::<VOTE_SIZE>()?)?),
            3 => Record::Prepared(certificate(&mut reader, VoteKind::Prepare)?),
            4 => Record::Committed(certificate(&mut reader, VoteKind::Commit)?),
            5 => Record::ViewChange(Box::new(ViewChange::decode(&mut reader)?)),
            6 => Record::NewView(Box::new(NewView::decode(&mut reader)?)),
            7 => Record::Stable(certificate(&mut reader, VoteKind::Checkpoint)?),
            _ => return Err(WireError::Field("record kind")),
        };
        reader.finish()?;
        Ok(record)
    }
}

fn certificate(reader: &mut Reader<'_>, kind: VoteKind) -> Result<Certificate, WireError> {
    let certificate = Certificate::decode(reader)?;
    if certificate.vote.kind == kind { Ok(certificate) } else { Err(WireError::Field("certificate kind")) }
}
