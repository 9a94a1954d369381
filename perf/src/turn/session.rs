//! A client's way to its channel, whatever carries its datagrams: an allocation, and a channel that is bound to the peer.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use netio::Packet;
use relay_dp::turn::{
    client::{Requester, address, error_code},
    stun::{Integrity, Message, Writer, attribute, method},
};

use super::servers::{PASSWORD, USER};

/// Nothing comes back for so long: what is on its way is lost, and new packets leave.
pub const LOST_AFTER: Duration = Duration::from_millis(50);
/// A request that is not answered by then is sent again, so often.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);
const TRIES: u32 = 20;
const CHANNEL: u16 = 0x4001;

/// What carries a client's requests to the server, and the answers back.
pub trait Line {
    /// Sends a request.
    ///
    /// # Errors
    /// The socket fails.
    fn send(&mut self, request: &[u8]) -> anyhow::Result<()>;
    /// What has come, if anything has. Never blocks.
    ///
    /// # Errors
    /// The socket fails.
    fn receive(&mut self) -> anyhow::Result<Option<Packet>>;
}

/// Channel data with so many bytes of payload, for every client's channel.
pub fn channel_data(bytes: u16) -> Vec<u8> {
    let header = [CHANNEL.to_be_bytes(), bytes.to_be_bytes()].concat();
    [header, vec![0x5a; bytes.into()]].concat()
}

/// Makes the allocation of client `number` and binds its channel to `peer`.
///
/// # Errors
/// The server refuses, or does not answer.
pub fn open_channel(line: &mut impl Line, number: u16, peer: SocketAddr) -> anyhow::Result<()> {
    let mut user = Requester::new(USER, PASSWORD, Integrity::Sha1, u64::from(number) << 32);
    let mut asked = || -> anyhow::Result<()> {
        ask(line, &mut user, method::ALLOCATE, |writer| {
            writer.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        })?;
        ask(line, &mut user, method::CHANNEL_BIND, |writer| {
            let [high, low] = CHANNEL.to_be_bytes();
            writer
                .attribute(attribute::CHANNEL_NUMBER, &[high, low, 0, 0])
                .xor_address(attribute::XOR_PEER_ADDRESS, &peer);
        })
    };
    asked().with_context(|| format!("client {number}"))
}

fn ask(
    line: &mut impl Line,
    user: &mut Requester,
    method: u16,
    fill: impl Fn(&mut Writer<'_>),
) -> anyhow::Result<()> {
    for _ in 0..TRIES {
        let request = user.request(method, &fill);
        line.send(&request)?;
        let start = Instant::now();
        while start.elapsed() < ANSWER_WITHIN {
            let Some(packet) = line.receive()? else { continue };
            let answer = Message::parse(&packet)?;
            if answer.transaction()[..] != request[8..20] {
                continue;
            }
            if user.learn(&answer) {
                break;
            }
            if let Some(code) = error_code(&answer) {
                bail!("the server refuses with {code}");
            }
            let relayed = address(&answer, attribute::XOR_RELAYED_ADDRESS);
            ensure!(method != method::ALLOCATE || relayed.is_some(), "an allocation without an address");
            return Ok(());
        }
    }
    bail!("the server does not answer")
}
