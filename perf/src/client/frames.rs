//! Cutting a stream of bytes into frames.

use std::io::{self, Read};

use dag::{client::MAX_FRAME, wire::WireError};

/// Bytes of a frame's length.
const PREFIX: usize = 4;

/// Received bytes and the frames in them. It holds exactly one frame of the largest size and never grows.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl FrameBuffer {
    /// An empty buffer.
    pub fn new() -> FrameBuffer {
        FrameBuffer { bytes: vec![0; PREFIX + MAX_FRAME].into(), start: 0, end: 0 }
    }

    /// Reads once from `source`. All whole frames have to be taken out with [`take`](Self::take) before.
    ///
    /// # Errors
    /// Those of `source`, and [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) at its end.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start.., 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = &mut self.bytes[self.end..];
        assert!(!room.is_empty(), "a full buffer holds a whole frame, which is taken out first");
        match source.read(room)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "end of the connection")),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }

    /// Takes out the next whole frame: its kind and body, without the length.
    ///
    /// # Errors
    /// A length of zero or above [`MAX_FRAME`]: the stream is lost.
    pub fn take(&mut self) -> Result<Option<&[u8]>, WireError> {
        let Some((prefix, rest)) = self.bytes[self.start..self.end].split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if length == 0 || length > MAX_FRAME {
            return Err(WireError::Field("frame length"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let body = self.start + PREFIX;
        self.start = body + length;
        Ok(Some(&self.bytes[body..self.start]))
    }
}

impl Default for FrameBuffer {
    fn default() -> Self {
        FrameBuffer::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Yields at most `step` bytes per read.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let step = self.1.min(buffer.len());
            self.0.read(&mut buffer[..step])
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_frames(
            lengths in prop::collection::vec(prop_oneof![1..300usize, Just(MAX_FRAME), 100_000..MAX_FRAME], 1..8),
            step in prop_oneof![1..5_000usize, Just(MAX_FRAME)],
        ) {
            let frames: Vec<Vec<u8>> = (1..).zip(&lengths).map(|(byte, &length)| vec![byte; length]).collect();
            let mut stream = Vec::new();
            for frame in &frames {
                stream.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_le_bytes());
                stream.extend_from_slice(frame);
            }
            let mut source = Trickle(&stream, step);
            let (mut buffer, mut seen) = (FrameBuffer::new(), Vec::new());
            loop {
                while let Some(frame) = buffer.take().unwrap() {
                    seen.push(frame.to_vec());
                }
                if buffer.fill(&mut source).is_err() {
                    break;
                }
            }
            prop_assert!(seen == frames);
        }
    }

    #[test]
    fn lengths_out_of_range_are_refused() {
        for length in [0, u32::try_from(MAX_FRAME).unwrap() + 1, u32::MAX] {
            let mut buffer = FrameBuffer::new();
            buffer.fill(&mut &length.to_le_bytes()[..]).unwrap();
            assert_eq!(buffer.take(), Err(WireError::Field("frame length")));
        }
    }

    #[test]
    fn the_end_is_an_error() {
        let error = FrameBuffer::new().fill(&mut &[][..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
