//! Secure channels over reactors: what an engine does with both.

use netio::ConnId;
use netio::channel::{Channel, ChannelConfig, ChannelError, ChannelLimits, Identity};

use crate::{Linked, Node, linked, pattern, pump, small};

struct Peer {
    node: Node,
    conn: ConnId,
    channel: Channel,
    frames: Vec<Vec<u8>>,
    failed: Option<ChannelError>,
}

impl Peer {
    /// Feeds the channel what arrived and sends what it gives.
    fn exchange(&mut self) {
        let bytes = self.node.take_data(self.conn);
        let read = self.channel.read_tls(&bytes, &mut |frame| self.frames.push(frame.to_vec()));
        self.failed = self.failed.take().or(read.err());
        if let Some(bytes) = self.channel.take_tls() {
            self.node.reactor.send(self.conn, bytes).expect("a large queue and an open connection");
        }
    }
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

fn peers(allowed: u8) -> [Peer; 2] {
    let Linked { caller, called, out, inn } = linked(small(), small());
    let config = |own: u8, peer: u8| {
        ChannelConfig::new(identity(own), [identity(peer).public_key()], ChannelLimits::default())
    };
    let client = Channel::client(&config(1, 2), identity(2).public_key());
    let server = Channel::server(&config(2, allowed));
    let peer = |node, conn, channel| Peer { node, conn, channel, frames: Vec::new(), failed: None };
    [peer(caller, out, client), peer(called, inn, server)]
}

/// Turns both peers until `done`.
fn run(peers: &mut [Peer; 2], mut done: impl FnMut(&mut [Peer; 2]) -> bool) {
    let mut idle = Node::new(small());
    pump(&mut [&mut idle], |_| {
        for peer in peers.iter_mut() {
            peer.node.turn();
            peer.exchange();
        }
        done(peers)
    });
}

#[test]
fn frames_of_all_sizes_cross_a_secure_connection() {
    let mut peers = peers(1);
    let sent: Vec<Vec<u8>> = (0..200).map(|i| pattern(1 + i * i * 4)).collect();
    let mut unsent = sent.iter();
    run(&mut peers, |[client, server]| {
        if client.node.reactor.queued(client.conn) < 256 << 10
            && let Some(frame) = unsent.next()
        {
            client.channel.write_frame(&[frame]).unwrap();
        }
        server.frames.len() == sent.len()
    });
    let [client, server] = peers;
    assert!(server.frames == sent);
    assert_eq!(client.channel.peer(), Some(identity(2).public_key()));
    assert_eq!(server.channel.peer(), Some(identity(1).public_key()));
}

#[test]
fn a_stranger_is_named_to_the_called_node_and_told_so() {
    let mut peers = peers(3);
    run(&mut peers, |[_, server]| server.failed.is_some());
    let stranger = identity(1).public_key();
    assert_eq!(peers[1].failed, Some(ChannelError::UnknownPeer(stranger)));
    let called = &mut peers[1];
    called.node.reactor.close_after_flush(called.conn);
    run(&mut peers, |[client, _]| client.failed.is_some());
    assert!(matches!(peers[0].failed, Some(ChannelError::Tls(_))));
}
