//! Where a message ends in a stream (RFC 8656 section 12.5, RFC 8489 section 6.2.2).

use super::{channel, stun};

/// A stream that carries something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("neither STUN nor channel data")]
pub struct FrameError;

/// Bytes of the frame that begins here, with its padding; `None` before its header is there. Over a stream channel data is
/// padded to a multiple of four.
///
/// # Errors
/// Nothing that TURN knows begins like this: the stream can't be followed any more.
pub fn frame_len(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(&[first, _, l0, l1]) = bytes.first_chunk() else {
        let known = bytes.first().is_none_or(|first| first & 0xc0 == 0 || channel::is_channel_data(*first));
        return if known { Ok(None) } else { Err(FrameError) };
    };
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    if channel::is_channel_data(first) {
        Ok(Some(stun::padded(channel::CHANNEL_HEADER + len)))
    } else if first & 0xc0 == 0 && len % 4 == 0 {
        Ok(Some(stun::HEADER + len))
    } else {
        Err(FrameError)
    }
}
