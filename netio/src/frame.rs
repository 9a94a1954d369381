//! Length-prefixed frames in a byte stream.
//!
//! ```text
//! ┌──────────────────┬─────────────────┐
//! │ length: u32 LE   │ payload         │   1 ≤ length ≤ the receiver's maximum
//! └──────────────────┴─────────────────┘
//! ```

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of the length prefix.
pub const FRAME_PREFIX: usize = 4;

/// Least memory taken at a time for arriving bytes. Frames are slices of such a piece and share it.
const CHUNK: usize = 32 << 10;

/// Why a stream of frames can't be read on. There is no way to find the next frame after it: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame without payload. It would cost us work and its sender nothing.
    #[error("frame without payload")]
    Empty,
    /// A frame longer than agreed.
    #[error("frame of {len} bytes exceeds the maximum of {max}")]
    TooLong {
        /// Its length, in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        max: usize,
    },
}

/// Checks a frame's length against the rules.
fn check_len(len: usize, max: usize) -> Result<usize, FrameError> {
    match len {
        0 => Err(FrameError::Empty),
        len if len > max => Err(FrameError::TooLong { len, max }),
        len => Ok(len),
    }
}

/// Appends one frame, whose payload is the concatenation of `parts`, to `out`.
///
/// # Errors
/// When the payload is empty or longer than `max` bytes; `out` is unchanged then.
pub fn encode_frame(out: &mut Vec<u8>, parts: &[&[u8]], max: usize) -> Result<(), FrameError> {
    let len = check_len(parts.iter().map(|part| part.len()).sum(), max)?;
    let prefix = u32::try_from(len).map_err(|_| FrameError::TooLong { len, max: u32::MAX as usize })?;
    out.reserve(FRAME_PREFIX + len);
    out.extend_from_slice(&prefix.to_le_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

/// Splits a byte stream, arriving in any pieces, into frames.
///
/// The bytes are copied once, into a buffer of some tens of kilobytes that many frames share; frames are slices of
/// it, and it is freed with the last of them. So who keeps a small frame for long should copy it.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    max: usize,
    failed: Option<FrameError>,
}

impl FrameReader {
    /// A reader that refuses frames with more than `max` bytes of payload. A connection then holds at most `max`
    /// bytes and one chunk here.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { buffer: BytesMut::new(), max, failed: None }
    }

    /// Takes the next `bytes` of the stream and hands each frame that they complete to `sink`, in order.
    ///
    /// # Errors
    /// At the first frame that breaks the rules, and ever after. Frames before it have been handed out.
    pub fn push(&mut self, bytes: &[u8], sink: &mut impl FnMut(Bytes)) -> Result<(), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.append(bytes);
        self.split(sink).inspect_err(|error| {
            self.failed = Some(*error);
            self.buffer = BytesMut::new();
        })
    }

    /// Bytes of an unfinished frame, with its prefix.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.buffer.capacity() - self.buffer.len() < bytes.len() {
            self.buffer.reserve(bytes.len().max(CHUNK));
        }
        self.buffer.extend_from_slice(bytes);
    }

    fn split(&mut self, sink: &mut impl FnMut(Bytes)) -> Result<(), FrameError> {
        while let Some(prefix) = self.buffer.first_chunk::<FRAME_PREFIX>() {
            let len = check_len(u32::from_le_bytes(*prefix) as usize, self.max)?;
            if self.buffer.len() < FRAME_PREFIX + len {
                // One allocation of the right size rather than a doubling for each arrival.
                self.buffer.reserve(FRAME_PREFIX + len - self.buffer.len());
                break;
            }
            self.buffer.advance(FRAME_PREFIX);
            sink(self.buffer.split_to(len).freeze());
        }
        Ok(())
    }
}

/// For tests and fuzzers: reads `stream` whole and again in pieces whose lengths `cuts` gives, and asserts that both ways agree. Both
/// inputs may be anything.
///
/// # Panics
/// When the property does not hold.
pub fn assert_chunking_is_invisible(stream: &[u8], cuts: &[u8], max: usize) {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut reader = FrameReader::new(max);
        let mut frames = Vec::new();
        let mut result = Ok(());
        for piece in pieces {
            result = reader.push(piece, &mut |frame| frames.push(frame));
        }
        assert!(frames.iter().all(|frame| !frame.is_empty() && frame.len() <= max));
        (frames, result, reader.pending())
    };
    let whole = read(&mut std::iter::once(stream));
    let mut rest = stream;
    let mut cuts = cuts.iter().cycle();
    let mut pieces = std::iter::from_fn(|| {
        let cut = cuts.next().map_or(1, |cut| usize::from(*cut).max(1)).min(rest.len());
        let (piece, tail) = rest.split_at(cut);
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(read(&mut pieces), whole);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 300;

    fn encoded(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut stream = Vec::new();
        for payload in payloads {
            encode_frame(&mut stream, &[payload], MAX).unwrap();
        }
        stream
    }

    proptest! {
        #[test]
        fn frames_survive_any_chunking(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..=MAX), 0..20),
            cuts in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let stream = encoded(&payloads);
            assert_chunking_is_invisible(&stream, &cuts, MAX);
            let mut frames = Vec::new();
            let mut reader = FrameReader::new(MAX);
            for piece in stream.chunks(7) {
                reader.push(piece, &mut |frame| frames.push(frame.to_vec())).unwrap();
            }
            prop_assert_eq!(frames, payloads);
            prop_assert_eq!(reader.pending(), 0);
        }

        #[test]
        fn arbitrary_bytes_read_alike_in_any_chunking(
            stream in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..2000),
            cuts in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            assert_chunking_is_invisible(&stream, &cuts, MAX);
        }
    }

    #[test]
    fn bad_lengths_are_refused_once_and_for_all() {
        for (prefix, error) in [
            (0u32, FrameError::Empty),
            (301, FrameError::TooLong { len: MAX + 1, max: MAX }),
            (u32::MAX, FrameError::TooLong { len: u32::MAX as usize, max: MAX }),
        ] {
            let mut stream = encoded(&[b"good".to_vec()]);
            stream.extend_from_slice(&prefix.to_le_bytes());
            let mut reader = FrameReader::new(MAX);
            let mut frames = Vec::new();
            assert_eq!(reader.push(&stream, &mut |frame| frames.push(frame)), Err(error));
            assert_eq!(frames, ["good"], "what came before is delivered");
            assert_eq!(reader.push(&encoded(&[b"more".to_vec()]), &mut |_| panic!("delivered")), Err(error));
            assert_eq!(reader.pending(), 0, "a failed reader holds nothing");
        }
    }

    #[test]
    fn encoding_obeys_the_same_rules() {
        let mut out = vec![9];
        assert_eq!(encode_frame(&mut out, &[b"", b""], MAX), Err(FrameError::Empty));
        let long = [0; MAX + 1];
        assert_eq!(
            encode_frame(&mut out, &[&long], MAX),
            Err(FrameError::TooLong { len: MAX + 1, max: MAX })
        );
        assert_eq!(out, [9]);
        encode_frame(&mut out, &[b"ab", b"c"], 3).unwrap();
        assert_eq!(out, [9, 3, 0, 0, 0, b'a', b'b', b'c']);
    }

    #[test]
    fn frames_of_one_arrival_share_its_memory() {
        let stream = encoded(&[vec![1; 10], vec![2; 10]]);
        let mut frames = Vec::new();
        FrameReader::new(MAX).push(&stream, &mut |frame| frames.push(frame)).unwrap();
        let distance = frames[1].as_ptr() as usize - frames[0].as_ptr() as usize;
        assert_eq!(distance, 10 + FRAME_PREFIX);
    }
}
