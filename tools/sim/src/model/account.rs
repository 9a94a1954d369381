//! A client's account: it signs, remembers what it waits for, and makes sense of answers.

use std::collections::VecDeque;

use dag::{
    Address, ChainId, Hash, Transaction,
    client::{Code, Reply},
    keys::KeyPair,
    transaction::{self, Payee, Terms},
};

use crate::random::Random;

/// Transactions of an account that wait at once.
const OUTSTANDING: usize = 3;

/// A transaction that a client wants to be committed.
pub struct Wanted {
    /// As it is signed, for the first submission and all others.
    pub record: Vec<u8>,
    /// Its id.
    pub id: Hash,
    /// The client's name for it.
    pub tag: u64,
    /// When it was submitted last, ns.
    pub sent: u64,
}

/// An account and what it waits for.
pub struct Account {
    key: KeyPair,
    address: Address,
    /// The last sequence that was used.
    sequence: u64,
    outstanding: VecDeque<Wanted>,
}

impl Account {
    /// The account of a key, never used.
    pub fn new(key: KeyPair) -> Account {
        Account { address: key.address(), key, sequence: 0, outstanding: VecDeque::new() }
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Its key.
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The last sequence that was used.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What it waits for, by ascending sequence.
    pub fn outstanding(&self) -> &VecDeque<Wanted> {
        &self.outstanding
    }

    /// The same, to note when it was submitted.
    pub fn outstanding_mut(&mut self) -> &mut VecDeque<Wanted> {
        &mut self.outstanding
    }

    /// Wants one transaction more, to some of the accounts `known` or to strangers. `None` where enough of it waits.
    ///
    /// # Panics
    /// Where `known` is empty.
    pub fn want(
        &mut self,
        dice: &mut Random,
        known: &[Address],
        chain: ChainId,
        tag: u64,
        now: u64,
    ) -> Option<&Wanted> {
        if self.outstanding.len() >= OUTSTANDING {
            return None;
        }
        self.sequence += 1;
        let count = if dice.percent(15) { dice.between(2, 6) } else { 1 };
        let payees: Vec<Payee> = (0..count)
            .map(|_| {
                let known = known[dice.index(known.len())];
                let strange = dice.percent(10) || known == self.address;
                let to = if strange { Address(dice.bytes()) } else { known };
                Payee { to, amount: dice.between(1, 1_000) }
            })
            .collect();
        let terms = Terms { chain, epoch: 0, sequence: self.sequence, fee: dice.below(3) };
        let record = transaction::sign(&self.key, &terms, &payees).expect("a well-formed transaction");
        let id = Transaction::parse(&record).expect("just made").id();
        self.outstanding.push_back(Wanted { record, id, tag, sent: now });
        self.outstanding.back()
    }
}

/// What an answer to a good record means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// It stands in a block, and the ledger has to agree.
    Acknowledged(Hash),
    /// Its sequence is used: by itself, as its owner has signed no other.
    Stale(Hash),
    /// Not yet: it has to be submitted again.
    Later(Hash),
    /// No honest validator may say so.
    Refused(Hash, Code),
}

/// What an answer means to the one of these accounts that waits for its tag, if any still does.
pub fn hear(accounts: &mut [Account], reply: &Reply) -> Option<Heard> {
    let (account, at) = accounts.iter_mut().find_map(|account| {
        let at = account.outstanding.iter().position(|wanted| wanted.tag == reply.tag)?;
        Some((account, at))
    })?;
    let id = account.outstanding[at].id;
    match reply.code {
        code if reply.height > 0 => {
            // A block may hold it too early, a liar's or a primary's at the start of its view: it failed, and its sequence is still
            // to be used.
            if code != Code::GappedSequence {
                account.outstanding.remove(at);
            }
            Some(Heard::Acknowledged(id))
        }
        Code::StaleSequence => {
            account.outstanding.remove(at);
            Some(Heard::Stale(id))
        }
        Code::GappedSequence
        | Code::TooManyPending
        | Code::MempoolFull
        | Code::Unavailable
        | Code::Overdraft => Some(Heard::Later(id)),
        other => Some(Heard::Refused(id, other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> (Account, Random) {
        let mut dice = Random::new(1, "account");
        (Account::new(KeyPair::from_seed(&dice.bytes())), dice)
    }

    #[test]
    fn an_account_wants_in_order_and_not_too_much() {
        let (mut account, mut dice) = account();
        let known = [account.address(), Address([7; 32])];
        for tag in 0..OUTSTANDING as u64 {
            let wanted = account.want(&mut dice, &known, 9, tag, 5).expect("there is room");
            let transaction = Transaction::parse(&wanted.record).unwrap();
            assert_eq!((transaction.sequence(), transaction.id()), (tag + 1, wanted.id));
        }
        assert!(account.want(&mut dice, &known, 9, 77, 5).is_none());
        assert_eq!(account.sequence(), OUTSTANDING as u64);
    }

    #[test]
    fn answers_end_the_wait_only_where_they_are_final() {
        let (mut account, mut dice) = account();
        let known = [Address([7; 32])];
        let id = account.want(&mut dice, &known, 9, 4, 0).unwrap().id;
        let mut accounts = [account];
        let reply = |code, height| Reply { tag: 4, code, table: 0, height, index: 0 };
        let mut hear = |reply| hear(&mut accounts, &reply);
        assert_eq!(hear(Reply { tag: 5, ..reply(Code::Committed, 1) }), None);
        assert_eq!(hear(reply(Code::Unavailable, 0)), Some(Heard::Later(id)));
        assert_eq!(hear(reply(Code::GappedSequence, 3)), Some(Heard::Acknowledged(id)));
        assert_eq!(hear(reply(Code::BadSignature, 0)), Some(Heard::Refused(id, Code::BadSignature)));
        assert_eq!(hear(reply(Code::Committed, 3)), Some(Heard::Acknowledged(id)));
        assert_eq!(hear(reply(Code::Committed, 3)), None);
    }
}
