//! The model ledger: what a single honest machine would hold, and what was promised to clients.

use std::collections::HashMap;

use dag::{
    Address, Block, Hash, Height, TableId,
    client::{AccountState, Code, Reply},
    keys::VerifyFn,
};

use super::{Invariant, Violation};
use crate::fault::HostId;

/// A block that an honest validator has committed.
struct Decided {
    block: Block,
    codes: Option<Vec<Code>>,
}

/// Remembers what was promised, and compares.
pub struct Ledger {
    verify: VerifyFn,
    violation: Option<Violation>,
    decided: HashMap<(TableId, Height), Decided>,
    hashes: HashMap<(TableId, Height), Hash>,
    /// Transactions that were executed with success, and where.
    executed: HashMap<Hash, (TableId, Height, usize)>,
    acknowledged: Vec<(Hash, TableId, Height)>,
    /// By table: height up to which the model has executed.
    executed_to: Vec<Height>,
    /// By table: the highest block that an honest validator has executed.
    highest: Vec<Height>,
    /// Whether the model had to skip a block; balances mean nothing then.
    gap: bool,
    /// micro-TOP. Signed, as receipts of one table may come before those of another.
    balances: HashMap<Address, i128>,
    fees: i128,
    checkpoints: HashMap<(TableId, Height), Hash>,
    heads: HashMap<(Address, u64), Hash>,
}

impl Ledger {
    /// That of a genesis with so many tables and these balances, in micro-TOP. `verify` is the network's rule of signatures.
    pub fn new(verify: VerifyFn, tables: u16, funded: impl Iterator<Item = (Address, u64)>) -> Ledger {
        Ledger {
            verify,
            violation: None,
            decided: HashMap::new(),
            hashes: HashMap::new(),
            executed: HashMap::new(),
            acknowledged: Vec::new(),
            executed_to: vec![0; usize::from(tables)],
            highest: vec![0; usize::from(tables)],
            gap: false,
            balances: funded.map(|(address, balance)| (address, i128::from(balance))).collect(),
            fees: 0,
            checkpoints: HashMap::new(),
            heads: HashMap::new(),
        }
    }

    /// The first one, if any.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// The first one counts.
    pub fn fail(&mut self, at: u64, invariant: Invariant, what: String) {
        self.violation.get_or_insert(Violation { invariant, at, what });
    }

    /// Blocks that were decided.
    pub fn blocks(&self) -> usize {
        self.decided.len()
    }

    /// Transactions that were executed with success.
    pub fn executed(&self) -> usize {
        self.executed.len()
    }

    /// Transactions that clients were told of, and where they stand.
    pub fn acknowledged(&self) -> &[(Hash, TableId, Height)] {
        &self.acknowledged
    }

    /// Whether a block and its results are known.
    pub fn knows(&self, table: TableId, height: Height) -> bool {
        self.decided.get(&(table, height)).is_some_and(|decided| decided.codes.is_some())
    }

    /// Height up to which the model has executed a table.
    pub fn executed_to(&self, table: TableId) -> Height {
        self.executed_to[usize::from(table)]
    }

    /// Fees of all that was executed, in micro-TOP.
    pub fn fees(&self) -> i128 {
        self.fees
    }

    /// Every account that was ever funded or paid.
    pub fn accounts(&self) -> impl Iterator<Item = &Address> {
        self.balances.keys()
    }

    /// An honest validator has committed a block.
    pub fn on_committed(&mut self, now: u64, host: HostId, table: TableId, height: Height, hash: Hash) {
        let known = *self.hashes.entry((table, height)).or_insert(hash);
        if known != hash {
            let what =
                format!("host {host} commits {hash} at height {height} of table {table}, others {known}");
            self.fail(now, Invariant::Agreement, what);
        }
    }

    /// A block that is committed, in full; the first one of a height counts.
    pub fn on_block(&mut self, now: u64, table: TableId, block: &Block) {
        let height = block.height();
        if self.decided.contains_key(&(table, height)) {
            return;
        }
        for index in 0..block.len() {
            let (id, transaction) = (block.id(index), block.transaction(index));
            if !(self.verify)(transaction.sender().as_bytes(), id.as_bytes(), transaction.signature()) {
                let what = format!("height {height} of table {table} holds a forged transaction, {id}");
                self.fail(now, Invariant::Admission, what);
            }
        }
        self.decided.insert((table, height), Decided { block: block.clone(), codes: None });
    }

    /// An honest validator has executed a block, with these codes.
    pub fn on_executed(&mut self, now: u64, host: HostId, table: TableId, height: Height, codes: &[Code]) {
        let Some(decided) = self.decided.get_mut(&(table, height)) else { return };
        if let Some(known) = &decided.codes {
            if known != codes {
                let what =
                    format!("host {host} executes height {height} of table {table} otherwise: {codes:?}");
                self.fail(now, Invariant::Execution, what);
            }
            return;
        }
        if codes.len() != decided.block.len() {
            let what = format!(
                "height {height} of table {table} has {} results for {} transactions",
                codes.len(),
                decided.block.len()
            );
            return self.fail(now, Invariant::Execution, what);
        }
        decided.codes = Some(codes.to_vec());
        let block = decided.block.clone();
        if self.executed_to[usize::from(table)] + 1 != height {
            self.gap = true;
        }
        self.executed_to[usize::from(table)] = height;
        for (index, code) in codes.iter().enumerate() {
            if *code != Code::Committed {
                continue;
            }
            let (id, transaction) = (block.id(index), block.transaction(index));
            if let Some(before) = self.executed.insert(id, (table, height, index)) {
                let what = format!("transaction {id} is executed at {before:?} and at height {height}");
                self.fail(now, Invariant::Execution, what);
            }
            *self.balances.entry(*transaction.sender()).or_default() -= i128::from(transaction.total());
            self.fees += i128::from(transaction.fee());
            for payee in transaction.payees() {
                *self.balances.entry(payee.to).or_default() += i128::from(payee.amount);
            }
        }
    }

    /// An honest validator stands at this height.
    pub fn on_height(&mut self, table: TableId, height: Height) {
        let highest = &mut self.highest[usize::from(table)];
        *highest = height.max(*highest);
    }

    /// An honest validator has this state after a block.
    pub fn on_checkpoint(&mut self, now: u64, host: HostId, table: TableId, height: Height, digest: Hash) {
        let known = *self.checkpoints.entry((table, height)).or_insert(digest);
        if known != digest {
            let what = format!("host {host} has another state after height {height} of table {table}");
            self.fail(now, Invariant::Execution, what);
        }
    }

    /// A client was told that its transaction stands in a block.
    pub fn on_acknowledged(&mut self, now: u64, id: &Hash, reply: &Reply) {
        let place = (reply.table, reply.height);
        let index = reply.index as usize;
        if reply.height <= self.highest[usize::from(reply.table)] && !self.decided.contains_key(&place) {
            // Seen by nobody whom we watch: all began above it, or their short memory had let it go by the end of their turn.
            return self.acknowledged.push((*id, reply.table, reply.height));
        }
        let decided = self.decided.get(&place);
        let there =
            decided.is_some_and(|decided| index < decided.block.len() && decided.block.id(index) == *id);
        let code =
            decided.and_then(|decided| decided.codes.as_ref()).and_then(|codes| codes.get(index)).copied();
        if !there || code != Some(reply.code) {
            let what = format!("{id} is acknowledged and is not where that says ({code:?}): {reply:?}");
            return self.fail(now, Invariant::Acknowledged, what);
        }
        self.acknowledged.push((*id, reply.table, reply.height));
    }

    /// A client was told that its sequence is used: then by this very transaction.
    pub fn on_called_stale(&mut self, now: u64, id: &Hash) {
        if !self.executed.contains_key(id) {
            self.fail(now, Invariant::Admission, format!("{id} is called stale and was never executed"));
        }
    }

    /// An honest validator told a client of its account.
    pub fn on_account(&mut self, now: u64, address: &Address, state: Option<&AccountState>) {
        let Some(state) = state else {
            return self.fail(now, Invariant::AccountChain, format!("{address} is unknown"));
        };
        let known = *self.heads.entry((*address, state.unit_height)).or_insert(state.unit_head);
        if known != state.unit_head {
            let what = format!("the chain of {address} has two units of height {}", state.unit_height);
            self.fail(now, Invariant::AccountChain, what);
        }
    }

    /// At the very end, when everything rests: what an honest validator has executed of each table must hold all that was
    /// acknowledged.
    pub fn check_promises(&mut self, now: u64, host: HostId, height_of: impl Fn(TableId) -> Height) {
        let missing = self.acknowledged.iter().find(|&&(_, table, height)| height_of(table) < height);
        if let Some((transaction, _, height)) = missing {
            let what = format!("host {host} never executes {transaction}, acknowledged at height {height}");
            self.fail(now, Invariant::Acknowledged, what);
        }
    }

    /// At the very end: these balances of an honest validator must be those of the model, where it knows all blocks.
    pub fn check_balances(&mut self, now: u64, host: HostId, told: impl Iterator<Item = (Address, u64)>) {
        if self.gap {
            return;
        }
        for (address, balance) in told {
            let expected = self.balances.get(&address).copied().unwrap_or(0);
            if i128::from(balance) != expected {
                let what = format!("host {host}: {address} has {balance} and should have {expected}");
                return self.fail(now, Invariant::Execution, what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dag::{
        Transaction,
        keys::{KeyPair, simulated},
        table_block::{BlockBuilder, BlockHeader},
        transaction::{Payee, Terms, sign},
    };

    use super::*;

    const RICH: u64 = 1_000;
    const PAYEE: Address = Address([9; 32]);

    fn payer() -> KeyPair {
        simulated::key(&[1; 32])
    }

    fn ledger() -> Ledger {
        let rule = engine::topology::Signatures::Simulated.verify();
        Ledger::new(rule, 1, std::iter::once((payer().address(), RICH)))
    }

    /// A block of transfers with these sequences and a fee of 1, of 10 each.
    fn block(height: Height, time: u64, sequences: &[u64]) -> Block {
        let mut builder = BlockBuilder::new();
        for &sequence in sequences {
            let terms = Terms { chain: 5, epoch: 0, sequence, fee: 1 };
            let record = sign(&payer(), &terms, &[Payee { to: PAYEE, amount: 10 }]).unwrap();
            let transaction = Transaction::parse(&record).unwrap();
            assert!(builder.push(transaction.id(), &transaction));
        }
        builder.seal(BlockHeader { chain: 5, height, time, ..BlockHeader::default() })
    }

    fn tell(ledger: &mut Ledger, host: HostId, block: &Block, codes: &[Code]) {
        ledger.on_committed(1, host, 0, block.height(), block.hash());
        ledger.on_block(1, 0, block);
        ledger.on_executed(1, host, 0, block.height(), codes);
        ledger.on_height(0, block.height());
    }

    fn violated(ledger: &Ledger) -> Option<Invariant> {
        ledger.violation().map(|violation| violation.invariant)
    }

    fn reply(height: Height, index: u32) -> Reply {
        Reply { tag: 0, code: Code::Committed, table: 0, height, index }
    }

    #[test]
    fn the_truth_passes() {
        let mut ledger = ledger();
        let first = block(1, 1, &[1, 2]);
        for host in 0..4 {
            tell(&mut ledger, host, &first, &[Code::Committed; 2]);
            ledger.on_checkpoint(1, host, 0, 1, Hash([4; 32]));
        }
        ledger.on_acknowledged(1, &first.id(1), &reply(1, 1));
        ledger.on_called_stale(1, &first.id(0));
        ledger.check_promises(1, 2, |_| 1);
        ledger.check_balances(1, 2, [(payer().address(), RICH - 22), (PAYEE, 20)].into_iter());
        assert_eq!(violated(&ledger), None);
        assert_eq!((ledger.blocks(), ledger.executed(), ledger.fees()), (1, 2, 2));
        assert!(ledger.knows(0, 1) && !ledger.knows(0, 2));
    }

    #[test]
    fn different_blocks_at_a_height_are_told() {
        let mut ledger = ledger();
        tell(&mut ledger, 0, &block(1, 1, &[1]), &[Code::Committed]);
        tell(&mut ledger, 1, &block(1, 2, &[1]), &[Code::Committed]);
        assert_eq!(violated(&ledger), Some(Invariant::Agreement));
    }

    #[test]
    fn different_results_and_states_are_told() {
        for codes in [&[Code::Overdraft][..], &[]] {
            let mut ledger = ledger();
            tell(&mut ledger, 0, &block(1, 1, &[1]), &[Code::Committed]);
            tell(&mut ledger, 1, &block(1, 1, &[1]), codes);
            assert_eq!(violated(&ledger), Some(Invariant::Execution));
        }
        let mut ledger = ledger();
        ledger.on_checkpoint(1, 0, 0, 7, Hash([1; 32]));
        ledger.on_checkpoint(1, 1, 0, 7, Hash([2; 32]));
        assert_eq!(violated(&ledger), Some(Invariant::Execution));
    }

    #[test]
    fn a_transaction_that_is_executed_twice_is_told() {
        let mut ledger = ledger();
        tell(&mut ledger, 0, &block(1, 1, &[1]), &[Code::Committed]);
        tell(&mut ledger, 0, &block(2, 2, &[1]), &[Code::Committed]);
        assert_eq!(violated(&ledger), Some(Invariant::Execution));
    }

    #[test]
    fn promises_that_are_not_kept_are_told() {
        let first = block(1, 1, &[1, 2]);
        let stranger = block(1, 1, &[3]).id(0);
        for (id, reply) in [(first.id(0), reply(1, 1)), (stranger, reply(1, 0)), (first.id(0), reply(2, 0))] {
            let mut ledger = ledger();
            tell(&mut ledger, 0, &first, &[Code::Committed; 2]);
            ledger.on_acknowledged(1, &id, &reply);
            assert_eq!(violated(&ledger), Some(Invariant::Acknowledged), "{reply:?}");
        }
        let mut ledger = ledger();
        tell(&mut ledger, 0, &first, &[Code::Committed; 2]);
        ledger.on_called_stale(1, &stranger);
        assert_eq!(violated(&ledger), Some(Invariant::Admission));
    }

    #[test]
    fn wrong_balances_and_missing_blocks_are_told() {
        let first = block(1, 1, &[1]);
        for (address, balance) in [(payer().address(), RICH), (PAYEE, 9), (Address([7; 32]), 1)] {
            let mut ledger = ledger();
            tell(&mut ledger, 0, &first, &[Code::Committed]);
            ledger.check_balances(1, 3, std::iter::once((address, balance)));
            assert_eq!(violated(&ledger), Some(Invariant::Execution));
        }
        let mut ledger = ledger();
        tell(&mut ledger, 0, &first, &[Code::Committed]);
        ledger.on_acknowledged(1, &first.id(0), &reply(1, 0));
        ledger.check_promises(1, 3, |_| 0);
        assert_eq!(violated(&ledger), Some(Invariant::Acknowledged));
    }

    #[test]
    fn forgeries_are_told() {
        let verify: VerifyFn = |_, _, _| false;
        let mut ledger = Ledger::new(verify, 1, std::iter::empty());
        tell(&mut ledger, 0, &block(1, 1, &[1]), &[Code::Committed]);
        assert_eq!(violated(&ledger), Some(Invariant::Admission));
    }

    #[test]
    fn an_account_chain_with_two_heads_is_told() {
        let mut ledger = ledger();
        let state =
            |byte| AccountState { unit_height: 3, unit_head: Hash([byte; 32]), ..AccountState::default() };
        ledger.on_account(1, &PAYEE, Some(&state(1)));
        ledger.on_account(1, &PAYEE, Some(&state(1)));
        assert_eq!(violated(&ledger), None);
        ledger.on_account(1, &PAYEE, Some(&state(2)));
        assert_eq!(violated(&ledger), Some(Invariant::AccountChain));
    }
}
