//! The client for commands: one question, one answer.

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use dag::{
    Address,
    client::{AccountState, Reply, Response, encode_account, encode_submit},
    transaction,
    wire::WireError,
};

use super::{ClientError, FrameBuffer};

/// Most requests on their way at once. Their answers fit into a socket's buffers, so that neither side can wait for the
/// other to read.
const WINDOW: usize = 512;
/// Most bytes of records in one frame, which leaves room for the header and the records' lengths.
const FRAME_BYTES: usize = 128 * 1024;

/// A blocking connection to a node's submission port.
#[derive(Debug)]
pub struct Client {
    socket: TcpStream,
    address: SocketAddr,
    timeout: Duration,
    inbound: FrameBuffer,
    outbound: Vec<u8>,
    next_tag: u64,
}

impl Client {
    /// Connects. `timeout` (not zero) bounds the connecting and, later, each silence while an answer is due.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(address: SocketAddr, timeout: Duration) -> Result<Client, ClientError> {
        let open = || {
            let socket = TcpStream::connect_timeout(&address, timeout)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(timeout))?;
            socket.set_write_timeout(Some(timeout))?;
            Ok(socket)
        };
        let socket = open().map_err(|cause| ClientError::Connect { address, cause })?;
        let (inbound, outbound) = (FrameBuffer::new(), Vec::new());
        Ok(Client { socket, address, timeout, inbound, outbound, next_tag: 0 })
    }

    /// The node's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Submits one record (see [`dag::transaction`]) and waits for its fate. A refusal is an `Ok` too: see [`Reply::code`].
    ///
    /// # Errors
    /// The node could not be asked; whether the transaction arrived is open. Submitting it again is safe.
    pub fn submit(&mut self, record: &[u8]) -> Result<Reply, ClientError> {
        let replies = self.submit_all(&[record])?;
        Ok(*replies.first().expect("one reply for each record"))
    }

    /// Submits records and waits for their fates, which come back in the records' order.
    ///
    /// # Errors
    /// As for [`submit`](Self::submit). Nothing is sent where a record is longer than any transaction.
    pub fn submit_all(&mut self, records: &[&[u8]]) -> Result<Vec<Reply>, ClientError> {
        if let Some(record) = records.iter().find(|record| record.len() > transaction::MAX_SIZE) {
            return Err(ClientError::Oversize(record.len()));
        }
        let mut replies = Vec::with_capacity(records.len());
        let mut rest = records;
        while !rest.is_empty() {
            let (frame, tail) = rest.split_at(frame_length(rest));
            replies.extend(self.submit_frame(frame)?);
            rest = tail;
        }
        Ok(replies)
    }

    /// Asks for an account; `None` where it has never been paid.
    ///
    /// # Errors
    /// The node could not be asked.
    pub fn account(&mut self, address: &Address) -> Result<Option<AccountState>, ClientError> {
        let states = self.accounts(&[*address])?;
        Ok(*states.first().expect("one state for each address"))
    }

    /// Asks for many accounts at once; the answers are in the order of the addresses.
    ///
    /// # Errors
    /// The node could not be asked.
    pub fn accounts(&mut self, addresses: &[Address]) -> Result<Vec<Option<AccountState>>, ClientError> {
        let mut states = Vec::with_capacity(addresses.len());
        for window in addresses.chunks(WINDOW) {
            states.extend(self.ask_window(window)?);
        }
        Ok(states)
    }

    fn ask_window(&mut self, addresses: &[Address]) -> Result<Vec<Option<AccountState>>, ClientError> {
        let first = self.take_tags(addresses.len());
        for (tag, address) in (first..).zip(addresses) {
            encode_account(tag, address, &mut self.outbound);
        }
        self.flush()?;
        let mut answers = Answers::new(first, addresses.len());
        while !answers.complete() {
            match self.receive()? {
                Response::Account { tag, state } => answers.put(tag, state),
                Response::Replies(_) => Err(WireError::Field("frame kind")),
            }
            .map_err(|cause| self.protocol(cause))?;
        }
        Ok(answers.take())
    }

    fn submit_frame(&mut self, records: &[&[u8]]) -> Result<Vec<Reply>, ClientError> {
        let first = self.take_tags(records.len());
        encode_submit(first, records.iter().copied(), &mut self.outbound);
        self.flush()?;
        let mut answers = Answers::new(first, records.len());
        while !answers.complete() {
            match self.receive()? {
                Response::Replies(replies) => {
                    replies.into_iter().try_for_each(|reply| answers.put(reply.tag, reply))
                }
                Response::Account { .. } => Err(WireError::Field("frame kind")),
            }
            .map_err(|cause| self.protocol(cause))?;
        }
        Ok(answers.take())
    }

    fn take_tags(&mut self, count: usize) -> u64 {
        let first = self.next_tag;
        self.next_tag += u64::try_from(count).expect("a window is small");
        first
    }

    fn flush(&mut self) -> Result<(), ClientError> {
        let sent = self.socket.write_all(&self.outbound);
        self.outbound.clear();
        sent.map_err(|cause| self.broken(cause))
    }

    fn receive(&mut self) -> Result<Response, ClientError> {
        let address = self.address;
        let protocol = |cause| ClientError::Protocol { address, cause };
        loop {
            if let Some(frame) = self.inbound.take().map_err(protocol)? {
                return Response::parse(frame).map_err(protocol);
            }
            match self.inbound.fill(&mut self.socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other.map_err(|cause| self.broken(cause))?,
            }
        }
    }

    fn broken(&self, cause: io::Error) -> ClientError {
        let address = self.address;
        match cause.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ClientError::TimedOut { address, waited: self.timeout }
            }
            _ => ClientError::Closed { address, cause },
        }
    }

    fn protocol(&self, cause: WireError) -> ClientError {
        ClientError::Protocol { address: self.address, cause }
    }
}

/// How many of these records go into one frame: at least one.
fn frame_length(records: &[&[u8]]) -> usize {
    let mut bytes = 0;
    let fits = |record: &&&[u8]| {
        bytes += 2 + record.len();
        bytes <= FRAME_BYTES
    };
    records.iter().take(WINDOW).take_while(fits).count()
}

const _: () = assert!(2 + transaction::MAX_SIZE <= FRAME_BYTES && 9 + FRAME_BYTES <= dag::client::MAX_FRAME);

/// The answers to consecutive tags, in whatever order they come.
struct Answers<T> {
    first: u64,
    missing: usize,
    slots: Vec<Option<T>>,
}

impl<T> Answers<T> {
    fn new(first: u64, count: usize) -> Answers<T> {
        Answers { first, missing: count, slots: (0..count).map(|_| None).collect() }
    }

    fn complete(&self) -> bool {
        self.missing == 0
    }

    /// Refuses tags that were not asked, or are answered already.
    fn put(&mut self, tag: u64, answer: T) -> Result<(), WireError> {
        let index = tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let slot = index.and_then(|index| self.slots.get_mut(index)).filter(|slot| slot.is_none());
        *slot.ok_or(WireError::Field("tag"))? = Some(answer);
        self.missing -= 1;
        Ok(())
    }

    fn take(self) -> Vec<T> {
        self.slots.into_iter().map(|slot| slot.expect("complete")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use dag::client::{Code, MIN_RECORD, Request};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// A node that answers each frame of one connection by `answer`, until `answer` gives nothing.
    fn node(mut answer: impl FnMut(Request<'_>) -> Vec<u8> + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut inbound = FrameBuffer::new();
            while inbound.fill(&mut socket).is_ok() {
                while let Some(frame) = inbound.take().unwrap() {
                    let bytes = answer(Request::parse(frame).unwrap());
                    if bytes.is_empty() {
                        return;
                    }
                    socket.write_all(&bytes).unwrap();
                }
            }
        });
        address
    }

    fn frame(response: Response) -> Vec<u8> {
        let mut out = Vec::new();
        response.encode_frame(&mut out);
        out
    }

    /// Answers from the last record to the first, each in a frame of its own.
    fn backwards(request: Request<'_>) -> Vec<u8> {
        let Request::Submit { first_tag, records } = request else { panic!("only submissions") };
        let replies: Vec<Reply> = (first_tag..)
            .zip(records)
            .map(|(tag, record)| Reply {
                height: u64::from(record[0]),
                ..Reply::refused(tag, Code::Overdraft)
            })
            .collect();
        replies.iter().rev().flat_map(|&reply| frame(Response::Replies(vec![reply]))).collect()
    }

    #[test]
    fn replies_are_in_the_order_of_the_records() {
        let mut client = Client::connect(node(backwards), TIMEOUT).unwrap();
        assert_eq!(client.submit(&[9; MIN_RECORD]).unwrap().height, 9);
        let records: Vec<Vec<u8>> = (0..2_000u32).map(|i| vec![i.to_le_bytes()[0]; 500]).collect();
        let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let replies = client.submit_all(&records).unwrap();
        assert_eq!(replies.len(), records.len());
        assert!(replies.iter().zip(&records).all(|(reply, record)| reply.height == u64::from(record[0])));
    }

    #[test]
    fn accounts_are_in_the_order_of_the_addresses() {
        let address = node(|request| {
            let Request::Account { tag, address } = request else { panic!("only questions") };
            let balance = u64::from(address.0[0]);
            let state = (balance > 0).then_some(AccountState { balance, ..AccountState::default() });
            frame(Response::Account { tag, state })
        });
        let mut client = Client::connect(address, TIMEOUT).unwrap();
        let addresses: Vec<Address> = (0..1_500u32).map(|i| Address([i.to_le_bytes()[0]; 32])).collect();
        let states = client.accounts(&addresses).unwrap();
        for (address, state) in addresses.iter().zip(states) {
            assert_eq!(state.map_or(0, |state| state.balance), u64::from(address.0[0]));
        }
        assert_eq!(client.account(&Address([0; 32])).unwrap(), None);
    }

    #[test]
    fn each_failure_is_named() {
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Client::connect(unused, TIMEOUT).unwrap_err();
        assert!(error.to_string().contains("is a node running there"), "{error}");

        let mut closed = Client::connect(node(|_| Vec::new()), TIMEOUT).unwrap();
        assert!(matches!(closed.submit(&[1; MIN_RECORD]), Err(ClientError::Closed { .. })));

        let http = node(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
        let mut http = Client::connect(http, TIMEOUT).unwrap();
        assert!(matches!(http.submit(&[1; MIN_RECORD]), Err(ClientError::Protocol { .. })));

        let stranger = node(|_| frame(Response::Replies(vec![Reply::refused(77, Code::Length)])));
        let mut stranger = Client::connect(stranger, TIMEOUT).unwrap();
        assert!(matches!(stranger.submit(&[1; MIN_RECORD]), Err(ClientError::Protocol { .. })));
        assert!(matches!(stranger.submit(&[1; 20_000]), Err(ClientError::Oversize(20_000))));

        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut silent = Client::connect(silent.local_addr().unwrap(), Duration::from_millis(20)).unwrap();
        assert!(matches!(silent.submit(&[1; MIN_RECORD]), Err(ClientError::TimedOut { .. })));
    }
}
