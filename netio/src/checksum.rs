//! The Internet checksum (RFC 1071), in native byte order until it is written.

/// A sum in progress. Every part added must begin at an even offset of what is summed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds `bytes`; an odd last byte counts as followed by zero. At most 2 GiB in all.
    pub fn with(self, bytes: &[u8]) -> Self {
        // Eight lanes of 32 bits, widened: the compiler makes vector code of it. The order of bytes does not matter to a
        // one's complement sum as long as it is the same everywhere (RFC 1071, section 2).
        let mut lanes = [0u64; 8];
        let (chunks, rest) = bytes.as_chunks::<32>();
        for chunk in chunks {
            let (words, _) = chunk.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let mut total = self.0 + lanes.iter().sum::<u64>();
        let (words, tail) = rest.as_chunks::<2>();
        for word in words {
            total += u64::from(u16::from_ne_bytes(*word));
        }
        if let [last] = tail {
            total += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(total)
    }

    /// Adds a 16-bit field.
    pub fn with_u16(self, value: u16) -> Self {
        Self(self.0 + u64::from(u16::from_ne_bytes(value.to_be_bytes())))
    }

    /// Adds the pseudo-header of TCP and UDP (RFC 9293 section 3.1, RFC 8200 section 8.1): `addresses` are source and
    /// destination as they stand in the IP header.
    pub fn with_pseudo_header(self, addresses: &[u8], protocol: u8, len: usize) -> Self {
        let len = u16::try_from(len).expect("an IP packet is at most 64 KiB");
        self.with(addresses).with_u16(u16::from(protocol)).with_u16(len)
    }

    /// The sum in 16 bits, as it is written (bytes in memory order).
    pub fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).expect("folded").to_ne_bytes()
    }

    /// The checksum: the complement, as it is written.
    pub fn checksum(self) -> [u8; 2] {
        let [high, low] = self.folded();
        [!high, !low]
    }

    /// The checksum as UDP writes it, which keeps zero for "none" (RFC 768).
    pub fn udp_checksum(self) -> [u8; 2] {
        match self.checksum() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        }
    }

    /// Whether what was summed, its checksum included, is intact.
    pub fn is_intact(self) -> bool {
        self.folded() == [0xff, 0xff]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As RFC 1071 writes it.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    proptest! {
        #[test]
        fn the_wide_sum_is_the_plain_one(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            let cut = (cut * 2).min(bytes.len() & !1);
            let sum = Sum::default().with(&bytes[..cut]).with(&bytes[cut..]);
            prop_assert_eq!(u16::from_be_bytes(sum.checksum()), plain(&bytes));
        }
    }

    #[test]
    fn the_longest_packet_of_ones_does_not_overflow() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(u16::from_be_bytes(Sum::default().with(&bytes).checksum()), plain(&bytes));
    }
}
