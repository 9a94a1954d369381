//! From the RPC thread to the cores: which core is asked, and what happens when it has too much to do.

use dag::{Address, TableId};
use tokio::sync::oneshot;

use super::message::{Call, Request, Response};

/// Calls that wait for one core, at most.
pub const RING_CAPACITY: usize = 1024;

/// Why a core can't be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AskError {
    /// Its ring is full.
    #[error("node busy: core {0} has too many calls waiting; try again later")]
    Busy(usize),
    /// Its loop has ended.
    #[error("the node is stopping")]
    Stopping,
}

/// The RPC thread's end of the ring to one core.
pub struct CoreLink {
    calls: rtrb::Producer<Call>,
    wake: Box<dyn Fn() + Send>,
}

/// The core's end.
#[derive(Debug)]
pub struct CoreCalls {
    calls: rtrb::Consumer<Call>,
}

impl CoreCalls {
    /// The next call that someone still waits for.
    pub fn next_call(&mut self) -> Option<Call> {
        loop {
            let call = self.calls.pop().ok()?;
            if !call.is_abandoned() {
                return Some(call);
            }
        }
    }
}

/// A ring of `capacity` calls to one core. `wake` brings the core's loop out of its sleep; it is called after each call.
pub fn link(capacity: usize, wake: Box<dyn Fn() + Send>) -> (CoreLink, CoreCalls) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    (CoreLink { calls: producer, wake }, CoreCalls { calls: consumer })
}

/// The ways to all cores.
pub struct Gateway {
    cores: Vec<CoreLink>,
    core_of_table: Vec<usize>,
}

impl Gateway {
    /// A gateway to `cores`, where table t lives on core `core_of_table[t]`.
    ///
    /// # Panics
    /// Where the table count is not a power of two, or a table's core does not exist.
    pub fn new(cores: Vec<CoreLink>, core_of_table: Vec<usize>) -> Gateway {
        assert!(core_of_table.len().is_power_of_two(), "the table count is a power of two");
        assert!(core_of_table.iter().all(|&core| core < cores.len()), "every table has a core");
        Gateway { cores, core_of_table }
    }

    /// Number of tables.
    pub fn tables(&self) -> u16 {
        u16::try_from(self.core_of_table.len()).expect("table ids have 16 bits")
    }

    /// Asks the core of an account.
    ///
    /// # Errors
    /// Its ring is full, or its loop has ended.
    pub fn ask_account(
        &mut self,
        address: &Address,
        request: Request,
    ) -> Result<oneshot::Receiver<Response>, AskError> {
        self.ask_table(address.table(self.tables()), request)
    }

    /// Asks the core of a table.
    ///
    /// # Errors
    /// Its ring is full, or its loop has ended.
    ///
    /// # Panics
    /// Where there is no such table.
    pub fn ask_table(
        &mut self,
        table: TableId,
        request: Request,
    ) -> Result<oneshot::Receiver<Response>, AskError> {
        self.ask(self.core_of_table[usize::from(table)], request)
    }

    /// Asks every core, in their order; either all or none.
    ///
    /// # Errors
    /// A ring is full, or a loop has ended.
    pub fn ask_all(&mut self, request: &Request) -> Result<Vec<oneshot::Receiver<Response>>, AskError> {
        if let Some(full) = self.cores.iter().position(|core| core.calls.is_full()) {
            return Err(AskError::Busy(full));
        }
        (0..self.cores.len()).map(|core| self.ask(core, request.clone())).collect()
    }

    fn ask(&mut self, core: usize, request: Request) -> Result<oneshot::Receiver<Response>, AskError> {
        let (reply, answer) = oneshot::channel();
        let link = &mut self.cores[core];
        if link.calls.is_abandoned() {
            return Err(AskError::Stopping);
        }
        link.calls.push(Call { request, reply }).map_err(|_| AskError::Busy(core))?;
        (link.wake)();
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn gateway(capacity: usize) -> (Gateway, Vec<CoreCalls>, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let (links, calls) = (0..2)
            .map(|_| {
                let wakes = wakes.clone();
                link(
                    capacity,
                    Box::new(move || {
                        wakes.fetch_add(1, Ordering::Relaxed);
                    }),
                )
            })
            .unzip();
        (Gateway::new(links, vec![0, 1, 0, 1]), calls, wakes)
    }

    #[test]
    fn the_core_of_the_table_is_asked_and_woken() {
        let (mut gateway, mut cores, wakes) = gateway(4);
        let mut answer = gateway.ask_table(3, Request::Latest(3)).unwrap();
        assert!(cores[0].next_call().is_none());
        let call = cores[1].next_call().unwrap();
        assert_eq!(call.request, Request::Latest(3));
        call.answer(Response::Block(None));
        assert!(matches!(answer.try_recv(), Ok(Response::Block(None))));
        assert_eq!(wakes.load(Ordering::Relaxed), 1);

        let address = Address([5; 32]);
        let _answer = gateway.ask_account(&address, Request::Account(address)).unwrap();
        let core = usize::from(address.table(4) % 2);
        assert_eq!(cores[core].next_call().unwrap().request, Request::Account(address));
    }

    #[test]
    fn a_full_ring_is_busy_and_asks_no_other() {
        let (mut gateway, mut cores, _) = gateway(2);
        let _answers = [(); 2].map(|()| gateway.ask_table(1, Request::Status).unwrap());
        assert_eq!(gateway.ask_table(1, Request::Status).unwrap_err(), AskError::Busy(1));
        assert_eq!(gateway.ask_all(&Request::Status).unwrap_err(), AskError::Busy(1));
        assert!(cores[0].next_call().is_none());
        assert!(cores[1].next_call().is_some());
        assert_eq!(gateway.ask_all(&Request::Status).unwrap().len(), 2);
    }

    #[test]
    fn abandoned_calls_cost_the_core_nothing() {
        let (mut gateway, mut cores, _) = gateway(4);
        drop(gateway.ask_table(0, Request::Latest(0)).unwrap());
        let _answer = gateway.ask_table(0, Request::Latest(2)).unwrap();
        assert_eq!(cores[0].next_call().unwrap().request, Request::Latest(2));
        assert!(cores[0].next_call().is_none());
    }

    #[test]
    fn a_loop_that_has_ended_is_noticed() {
        let (mut gateway, cores, _) = gateway(4);
        drop(cores);
        assert_eq!(gateway.ask_table(0, Request::Latest(0)).unwrap_err(), AskError::Stopping);
    }
}
