//! What a reactor has seen, as plain numbers.

/// Running totals of one reactor since its start. The reactor's thread owns them; a metrics exporter gets copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted and handed to the caller.
    pub accepted: u64,
    /// Connections closed at once because the connection table was full, and own attempts not begun for that reason.
    pub refused: u64,
    /// Failed accepts (out of descriptors or memory, or the peer was gone before we looked).
    pub accept_errors: u64,
    /// Own connection attempts that succeeded.
    pub connected: u64,
    /// Own connection attempts that failed.
    pub connect_failed: u64,
    /// Connections that ended, for any reason.
    pub closed: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes that the kernel took for sending.
    pub bytes_out: u64,
    /// Completed receives that carried bytes.
    pub receives: u64,
    /// Completed sends; `bytes_out / sends` says how well small messages are gathered.
    pub sends: u64,
    /// Sends that took only a part of what was offered.
    pub partial_sends: u64,
    /// Receives armed. With multishot receives far fewer than `receives`.
    pub recv_arms: u64,
    /// Receives that ended because every receive buffer was in use.
    pub recv_starved: u64,
    /// Sends refused because the connection's queue was full.
    pub send_queue_full: u64,
    /// Turns that found completions waiting behind a full completion queue.
    pub cq_overflows: u64,
    /// Durable writes completed, with or without success.
    pub file_writes: u64,
    /// Bytes made durable.
    pub file_bytes: u64,
    /// Durable writes that needed another attempt because the device took only a part.
    pub file_retries: u64,
    /// Durable writes that failed.
    pub file_errors: u64,
    /// Calls of [`Waker::wake`](crate::Waker::wake) noticed (several calls in one turn count once).
    pub wakeups: u64,
    /// Turns of the loop.
    pub polls: u64,
    /// Frames that broke the framing rules. The reactor knows no frames: whoever splits them counts here.
    pub frames_malformed: u64,
    /// Secure channels that failed to authenticate or decrypt. Counted by whoever drives the channel.
    pub channel_errors: u64,
}
