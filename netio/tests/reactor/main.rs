//! Reactors on real sockets and files of this machine.

mod files;
mod lifecycle;
mod pressure;
mod secure;
mod streams;
mod wake;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use netio::{ConnId, Event, Features, Reactor, ReactorConfig, Wait};

/// A hang fails the test instead of stopping the run. No test depends on how long anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// The kernel's features and what remains of them on older kernels or in sandboxes.
fn feature_masks() -> [Features; 6] {
    let all = Features::all();
    [
        all,
        all - Features::MULTISHOT_RECV,
        all - Features::MULTISHOT_RECV - Features::BUFFER_RING,
        all - Features::MULTISHOT_ACCEPT - Features::REGISTERED_FILES,
        all - Features::DEFER_TASKRUN,
        Features::empty(),
    ]
}

/// Small enough to meet the limits.
fn small() -> ReactorConfig {
    ReactorConfig {
        entries: 8,
        recv_buffers: 16,
        recv_buffer_size: 4096,
        max_connections: 8,
        send_queue_bytes: 1 << 20,
        ..ReactorConfig::default()
    }
}

/// A reactor and the events it has given.
struct Node {
    reactor: Reactor,
    events: Vec<Event>,
}

impl Node {
    fn new(config: ReactorConfig) -> Self {
        Self { reactor: Reactor::new(config).expect("io_uring works here"), events: Vec::new() }
    }

    fn with_features(mask: Features) -> Self {
        Self::new(ReactorConfig { features_mask: mask, ..small() })
    }

    fn listen(&mut self) -> SocketAddr {
        self.reactor.listen(loopback(), false, 0).expect("a free port")
    }

    /// One turn that does not block for long: tests drive several reactors on one thread.
    fn turn(&mut self) {
        self.reactor.poll(Wait::For(Duration::from_micros(200)), &mut self.events).expect("a working ring");
    }

    /// Takes the first event that `pick` wants, waiting for it. Earlier events stay.
    fn wait_for<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let mut found = None;
        pump(&mut [self], |nodes| {
            let events = &mut nodes[0].events;
            let position = events.iter().position(|event| {
                found = pick(event);
                found.is_some()
            });
            position.map(|position| events.remove(position)).is_some()
        });
        found.expect("pump returns when it was found")
    }

    fn wait_closed(&mut self, conn: ConnId) -> netio::CloseReason {
        pump(&mut [self], |nodes| {
            nodes[0].events.iter().any(|e| matches!(e, Event::Closed { conn: c, .. } if *c == conn))
        });
        let position =
            self.events.iter().position(|e| matches!(e, Event::Closed { conn: c, .. } if *c == conn));
        match self.events.remove(position.expect("just seen")) {
            Event::Closed { reason, .. } => reason,
            other => unreachable!("{other:?}"),
        }
    }

    fn wait_accepted(&mut self) -> ConnId {
        self.wait_for(|event| match event {
            Event::Accepted { conn, .. } => Some(*conn),
            _ => None,
        })
    }

    /// Bytes received from a connection, taken out of the events.
    fn take_data(&mut self, from: ConnId) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.events.retain(|event| match event {
            Event::Data { conn, data } if *conn == from => {
                bytes.extend_from_slice(data);
                false
            }
            _ => true,
        });
        bytes
    }
}

/// Turns all nodes until `done`.
fn pump(nodes: &mut [&mut Node], mut done: impl FnMut(&mut [&mut Node]) -> bool) {
    let started = Instant::now();
    while !done(nodes) {
        assert!(started.elapsed() < PATIENCE, "nothing more happens: {:?}", nodes[0].events);
        nodes.iter_mut().for_each(|node| node.turn());
    }
}

/// Two connected nodes and each one's end.
struct Linked {
    caller: Node,
    called: Node,
    out: ConnId,
    inn: ConnId,
}

fn linked(caller: ReactorConfig, called: ReactorConfig) -> Linked {
    let (mut caller, mut called) = (Node::new(caller), Node::new(called));
    let addr = called.listen();
    let out = caller.reactor.connect(addr, 7).expect("a socket");
    // Submits it.
    caller.turn();
    let inn = called.wait_accepted();
    caller.wait_for(|event| match event {
        Event::Connected { conn, tag } => (*conn == out && *tag == 7).then_some(()),
        _ => None,
    });
    Linked { caller, called, out, inn }
}

/// Bytes that repeat too late to hide a lost or doubled piece.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| i.wrapping_mul(0x9e37_79b1).to_le_bytes()[2]).collect()
}
