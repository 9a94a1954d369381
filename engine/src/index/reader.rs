//! Look-ups in the index, from any thread.

use std::sync::{Arc, PoisonError, RwLock};

use dag::{Hash, Height, TableId};

use super::{
    entry::{Entry, fingerprint},
    store::{IndexError, Store},
};
use crate::rpc::{BlockInfo, Fate, Place, Response, TransactionInfo};

/// What the index can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// The block of a height.
    Block(TableId, Height),
    /// The block of a hash.
    BlockByHash(Hash),
    /// The transaction of an id.
    Transaction(Hash),
}

/// A reader of the index; clones are cheap. Look-ups read from the disk: they are not for a core's thread.
#[derive(Clone)]
pub struct Reader {
    store: Arc<RwLock<Option<Arc<Store>>>>,
}

impl Reader {
    pub(super) fn new(store: Arc<Store>) -> Reader {
        Reader { store: Arc::new(RwLock::new(Some(store))) }
    }

    /// Puts another file in place, or none while there is none.
    pub(super) fn replace(&self, store: Option<Arc<Store>>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    pub(super) fn store(&self) -> Result<Arc<Store>, IndexError> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(IndexError::Closed)
    }

    /// The highest block of a table that the index has; zero where it has none.
    pub fn newest(&self, table: TableId) -> Result<Height, IndexError> {
        self.store()?.newest(table)
    }

    /// Answers as a core would.
    pub fn answer(&self, question: Question) -> Result<Response, IndexError> {
        let store = self.store()?;
        Ok(match question {
            Question::Block(table, height) => Response::Block(store.block_at(table, height)?.map(Box::new)),
            Question::BlockByHash(hash) => {
                let confirms = |entry: Entry, info: BlockInfo| {
                    (entry.index().is_none() && info.block.hash() == hash).then(|| Box::new(info))
                };
                Response::Block(store.find(fingerprint(&hash), confirms)?)
            }
            Question::Transaction(id) => Response::Transaction(
                store.find(fingerprint(&id), |entry, info| transaction(&id, entry, &info))?,
            ),
        })
    }
}

fn transaction(id: &Hash, entry: Entry, info: &BlockInfo) -> Option<TransactionInfo> {
    let index = entry.index().filter(|&index| index < info.block.len() && info.block.id(index) == *id)?;
    let header = info.block.header();
    let index_in_block = u32::try_from(index).expect("at most 1024");
    let place = Place { table: header.table, height: header.height, index: index_in_block };
    let code = info.code(index_in_block);
    Some(TransactionInfo {
        fate: Fate::Executed { place, code },
        record: info.block.transaction_bytes(index),
    })
}
