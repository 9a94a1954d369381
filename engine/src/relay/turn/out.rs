//! What the server says is to be done: datagrams leave, sockets open and close.

use std::{io, net::SocketAddr};

use netio::{
    Packet,
    udp::{Datagram, UdpConfig, UdpSocket},
    xdp::XdpDatagram,
};
use relay_dp::turn::{Client, Effect, Now, RelayId, Send, To, Where};

use super::{Dirty, Loss, Port, TurnCore, ready::Token};

/// Bytes of the kernel's buffers of a relayed port.
const RELAY_BUFFER: usize = 1 << 20;

impl TurnCore {
    /// Does what the server said about the bytes of `packet`. What goes out last goes out in the packet itself, anything
    /// before it as a copy.
    pub(super) fn carry_out(&mut self, packet: Option<Packet>, now: Now) -> io::Result<()> {
        self.effects(now)?;
        let mut sends = std::mem::take(&mut self.out.sends);
        let last = sends.iter().rposition(|send| send.place == Where::Room);
        if let Some((mut packet, last)) = packet.zip(last) {
            for send in sends.iter().take(last).filter(|send| send.place == Where::Room) {
                self.send_copy(send, &packet);
            }
            let send = sends[last];
            packet.trim_front(send.start);
            packet.resize(send.len);
            self.send(&send, packet);
        }
        self.replies(&sends);
        sends.clear();
        self.out.sends = sends;
        self.out.clear();
        Ok(())
    }

    /// Like [`carry_out`](Self::carry_out), of bytes that are needed further.
    pub(super) fn carry_out_copies(&mut self, bytes: &[u8], now: Now) -> io::Result<()> {
        self.effects(now)?;
        let sends = std::mem::take(&mut self.out.sends);
        for send in sends.iter().filter(|send| send.place == Where::Room) {
            self.send_copy(send, bytes);
        }
        self.replies(&sends);
        self.out.sends = sends;
        self.out.clear();
        Ok(())
    }

    fn replies(&mut self, sends: &[Send]) {
        let replies = std::mem::take(&mut self.out.replies);
        for send in sends.iter().filter(|send| send.place == Where::Replies) {
            self.send_copy(send, &replies);
        }
        self.out.replies = replies;
    }

    /// Opens and closes sockets. Opening one may cause further effects.
    fn effects(&mut self, now: Now) -> io::Result<()> {
        let mut done = 0;
        while let Some(effect) = self.out.effects.get(done).copied() {
            match effect {
                Effect::Open { relay, bind } => {
                    let opened = self.open(relay, bind);
                    self.server.on_opened(relay, opened, now, &mut self.out);
                }
                Effect::Close { relay } => {
                    // What is queued was allowed to go.
                    self.flush_bypass()?;
                    self.flush_port(Dirty::Relay(relay.slot))?;
                    let slot = self.relays.get_mut(relay.slot as usize).and_then(Option::take);
                    if let Some((_, port)) = slot {
                        if let Some(bypass) = &mut self.bypass {
                            bypass.close_shortcuts(&mut self.server, relay);
                            bypass.set_relay(port.address, None);
                        }
                        self.meters.retire(port.socket.counters());
                    }
                }
            }
            done += 1;
        }
        Ok(())
    }

    fn open(&mut self, relay: RelayId, bind: SocketAddr) -> bool {
        let config = UdpConfig { socket_buffer: RELAY_BUFFER, local_address: false, ..UdpConfig::default() };
        let Ok(socket) = UdpSocket::bind(bind, &config) else { return false };
        if self.ready.add(&socket, Token::Relay(relay.slot)).is_err() {
            return false;
        }
        let slot = relay.slot as usize;
        self.relays.resize_with(self.relays.len().max(slot + 1), || None);
        self.relays[slot] = Some((relay, Port::new(socket, bind)));
        if let Some(bypass) = &mut self.bypass {
            bypass.set_relay(bind, Some(relay.slot));
        }
        true
    }

    fn send_copy(&mut self, send: &Send, place: &[u8]) {
        let bytes = &place[send.start..send.start + send.len];
        if let To::Client(Client::Tcp { connection, .. }) = send.to {
            self.streams.send(connection, bytes, &mut self.meters);
            return;
        }
        match self.pool.take() {
            Some(mut packet) => {
                packet.fill(bytes);
                self.send(send, packet);
            }
            None => self.meters.lose(Loss::NoBuffer, bytes.len().div_ceil(send.segment.max(1))),
        }
    }

    /// Queues datagrams; [`flush`](Self::flush) sends them.
    fn send(&mut self, send: &Send, packet: Packet) {
        let (dirty, peer) = match send.to {
            To::Client(Client::Tcp { connection, .. }) => {
                self.streams.send(connection, &packet, &mut self.meters);
                return;
            }
            To::Client(Client::Udp { socket, address }) => (Dirty::Listener(socket.into()), address),
            To::Peer { relay, address } => (Dirty::Relay(relay.slot), address),
        };
        self.queued += 1;
        let local = port(&mut self.listeners, &mut self.relays, dirty).map(|port| port.address);
        match (&mut self.bypass, local) {
            // What must not be fragmented might come back to be.
            (Some(bypass), Some(local)) if bypass.owns(&packet) && !send.dont_fragment => {
                bypass.queue(XdpDatagram { packet, peer, local });
            }
            _ => {
                let (segment, dont_fragment) = (send.segment.max(1), send.dont_fragment);
                self.queue(dirty, Datagram { packet, segment, peer, local: None, dont_fragment });
            }
        }
    }

    /// Queues a datagram for a port's socket.
    fn queue(&mut self, dirty: Dirty, datagram: Datagram) {
        let Some(port) = port(&mut self.listeners, &mut self.relays, dirty) else { return };
        if port.queue.is_empty() {
            self.dirty.push(dirty);
        }
        port.queue.push_back(datagram);
    }

    /// Sends what leaves past the kernel, and queues the rest for the ports' sockets.
    fn flush_bypass(&mut self) -> io::Result<()> {
        let Some(bypass) = &mut self.bypass else { return Ok(()) };
        let mut rest = bypass.flush()?;
        for XdpDatagram { packet, peer, local } in rest.drain(..) {
            if let Some(dirty) = self.bypass.as_mut().and_then(|bypass| bypass.port(local)) {
                self.queue(dirty, Datagram::single(packet, peer, None));
            }
        }
        if let Some(bypass) = &mut self.bypass {
            bypass.reuse(rest);
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.flush_bypass()?;
        while let Some(dirty) = self.dirty.pop() {
            self.flush_port(dirty)?;
        }
        self.queued = 0;
        self.streams.flush(&mut self.ready);
        Ok(())
    }

    /// Sends what a port has queued. What its socket has no room for is lost: late media is worth less than none.
    fn flush_port(&mut self, dirty: Dirty) -> io::Result<()> {
        let Some(port) = port(&mut self.listeners, &mut self.relays, dirty) else { return Ok(()) };
        if port.queue.is_empty() {
            return Ok(());
        }
        port.socket.send_burst(&mut port.queue)?;
        let lost: usize = port.queue.drain(..).map(|datagram| datagram.segments().len().max(1)).sum();
        self.meters.lose(Loss::SocketFull, lost);
        Ok(())
    }
}

fn port<'a>(
    listeners: &'a mut [Port],
    relays: &'a mut [Option<(RelayId, Port)>],
    dirty: Dirty,
) -> Option<&'a mut Port> {
    match dirty {
        Dirty::Listener(index) => listeners.get_mut(index),
        Dirty::Relay(slot) => relays.get_mut(slot as usize)?.as_mut().map(|(_, port)| port),
    }
}
