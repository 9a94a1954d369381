//! Frames of a network: Ethernet, IP and UDP headers.

use netio::xdp::{Mac, headers_len, parse, write};

use super::{Verdict, words};
use crate::samples::Sample;

const MACS: (Mac, Mac) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

/// A frame, read and written again.
pub fn frame(bytes: &[u8]) -> Verdict {
    let parsed = parse(bytes).map_err(words)?;
    let payload = &bytes[parsed.payload.clone()];
    let mut again = [&vec![0; headers_len(&parsed.destination.ip())][..], payload].concat();
    write(&mut again, MACS, parsed.source, parsed.destination);
    let read = parse(&again).expect("what is written can be read");
    assert_eq!((read.source, read.destination), (parsed.source, parsed.destination));
    assert_eq!(&again[read.payload], payload);
    Ok(())
}

/// A datagram over each family, and one that IP has more behind.
pub fn frames() -> Vec<Sample> {
    let sample = |source: &str, destination: &str| {
        let address = |text: &str| text.parse().expect("an address");
        let destination: std::net::SocketAddr = address(destination);
        let mut frame = [&vec![0; headers_len(&destination.ip())][..], b"payload"].concat();
        write(&mut frame, MACS, address(source), destination);
        frame
    };
    let v6 = sample("[2001:db8::1]:5000", "[2001:db8::2]:3478");
    let mut trimmed = [&v6[..], b"more"].concat();
    trimmed[19] += 4; // the payload length of IPv6
    vec![("v4", sample("192.0.2.1:5000", "192.0.2.2:3478")), ("v6", v6), ("trimmed", trimmed)]
}
