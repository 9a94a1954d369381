//! Bytes in and out for one core.
//!
//! A [`Reactor`] owns one io_uring and everything that goes through it: listening sockets, connections, the log
//! file. It belongs to one thread and is driven by that thread's loop through [`Reactor::poll`], which submits what
//! was queued, reaps what completed, and hands it out as [`Event`]s. Nothing is called back.
//!
//! Packets have a path of their own: [`udp::UdpSocket`] moves bursts of datagrams through a [`PacketPool`].
//!
//! On top of the bytes, and without any IO of their own: [`FrameReader`] splits a stream into length-prefixed
//! frames, [`channel::Channel`] is the encrypted and mutually authenticated link between two nodes, and [`Backoff`]
//! says when to try to connect again.
//!
//! # Fault model
//!
//! Peers are hostile: any bytes, at any pace, closed at any moment. No byte from outside panics, and what one
//! peer can make us hold is bounded by [`ReactorConfig`] and [`channel::ChannelConfig`]. The kernel and the local
//! caller are trusted: what they get wrong is an assertion.

mod aligned;
mod backoff;
mod bpf;
pub mod channel;
pub mod checksum;
mod counters;
mod frame;
mod packet;
mod pool;
mod probe;
mod reactor;
mod ring;
mod schedule;
mod send_queue;
mod slots;
mod tcp;
mod tun;
pub mod udp;
mod wait;
mod waker;
pub mod xdp;

pub use aligned::{ALIGNMENT, AlignedBuf};
pub use backoff::Backoff;
pub use counters::Counters;
pub use frame::{FRAME_PREFIX, FrameError, FrameReader, assert_chunking_is_invisible, encode_frame};
pub use packet::{PACKET_CAPACITY, PACKET_HEADROOM, Packet, PacketPool};
pub use pool::RecvBuf;
pub use probe::Features;
pub use reactor::{CloseReason, ConnId, Event, FileId, Reactor, ReactorConfig, WatchId, WriteRefused};
pub use ring::Wait;
pub use schedule::{schedule_first, schedule_soon};
pub use send_queue::SendError;
pub use tcp::check_port;
pub use tun::{Tun, TunCounters, TunSteering};
pub use wait::wait;
pub use waker::Waker;
