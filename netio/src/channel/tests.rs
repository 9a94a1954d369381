use proptest::prelude::*;
use rustls::AlertDescription;

use super::*;

const LIMITS: ChannelLimits = ChannelLimits { max_frame: 1 << 20, max_unsealed: 4 << 20 };

fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

fn key(seed: u8) -> PublicKey {
    identity(seed).public_key()
}

fn config(own: u8, peers: &[u8]) -> ChannelConfig {
    ChannelConfig::new(identity(own), peers.iter().map(|seed| key(*seed)), LIMITS)
}

/// Two ends with a wire between them that cuts into pieces.
struct Pair {
    client: Channel,
    server: Channel,
    piece: usize,
    to_client: Vec<Bytes>,
    to_server: Vec<Bytes>,
}

#[derive(Debug, PartialEq)]
enum Failed {
    Client(ChannelError),
    Server(ChannelError),
}

impl Pair {
    fn new(client: &ChannelConfig, expected: u8, server: &ChannelConfig) -> Self {
        let client = Channel::client(client, key(expected));
        let server = Channel::server(server);
        Self { client, server, piece: usize::MAX, to_client: Vec::new(), to_server: Vec::new() }
    }

    /// A pair that knows each other.
    fn friends() -> Self {
        Self::new(&config(1, &[2]), 2, &config(2, &[1]))
    }

    /// Carries bytes until neither end has any.
    fn run(&mut self) -> Result<(), Failed> {
        loop {
            let up = self.client.take_tls();
            for piece in up.iter().flat_map(|bytes| bytes.chunks(self.piece)) {
                let frames = &mut |frame| self.to_server.push(frame);
                self.server.read_tls(piece, frames).map_err(Failed::Server)?;
            }
            let down = self.server.take_tls();
            for piece in down.iter().flat_map(|bytes| bytes.chunks(self.piece)) {
                let frames = &mut |frame| self.to_client.push(frame);
                self.client.read_tls(piece, frames).map_err(Failed::Client)?;
            }
            if up.is_none() && down.is_none() {
                return Ok(());
            }
        }
    }
}

#[test]
fn each_end_learns_the_others_key_and_frames_flow() {
    let mut pair = Pair::friends();
    assert!(pair.client.is_handshaking() && pair.client.peer().is_none());
    pair.run().unwrap();
    assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
    assert_eq!(pair.client.peer(), Some(key(2)));
    assert_eq!(pair.server.peer(), Some(key(1)));

    pair.client.write_frame(&[b"one ", b"frame"]).unwrap();
    pair.client.write_frame(&[b"another"]).unwrap();
    pair.server.write_frame(&[b"answer"]).unwrap();
    pair.run().unwrap();
    assert_eq!(pair.to_server, ["one frame", "another"]);
    assert_eq!(pair.to_client, ["answer"]);
}

#[test]
fn frames_written_early_wait_for_the_handshake() {
    let mut pair = Pair::friends();
    pair.client.write_frame(&[b"eager"]).unwrap();
    pair.server.write_frame(&[b"eager too"]).unwrap();
    pair.run().unwrap();
    assert_eq!(pair.to_server, ["eager"]);
    assert_eq!(pair.to_client, ["eager too"]);
}

#[test]
fn byte_by_byte_delivery_changes_nothing() {
    let mut pair = Pair::friends();
    pair.piece = 1;
    pair.client.write_frame(&[&[7; 40_000]]).unwrap();
    pair.run().unwrap();
    pair.server.write_frame(&[b"slow"]).unwrap();
    pair.run().unwrap();
    assert_eq!(pair.to_server, [vec![7; 40_000]]);
    assert_eq!(pair.to_client, ["slow"]);
}

#[test]
fn the_longest_frame_passes_and_a_longer_one_is_refused_by_its_writer() {
    let mut pair = Pair::friends();
    let longest: Vec<u8> = (0..=250).cycle().take(LIMITS.max_frame).collect();
    pair.client.write_frame(&[&longest]).unwrap();
    pair.run().unwrap();
    assert_eq!(pair.to_server, [longest]);

    let too_long = FrameError::TooLong { len: LIMITS.max_frame + 1, max: LIMITS.max_frame };
    let refused = pair.client.write_frame(&[&vec![0; LIMITS.max_frame + 1]]);
    assert_eq!(refused, Err(ChannelError::Frame(too_long)));
    assert_eq!(pair.client.write_frame(&[]), Err(ChannelError::Frame(FrameError::Empty)));
}

#[test]
fn a_frame_too_long_for_the_reader_fails_the_channel() {
    let small = ChannelLimits { max_frame: 100, ..LIMITS };
    let server = ChannelConfig::new(identity(2), [key(1)], small);
    let mut pair = Pair::new(&config(1, &[2]), 2, &server);
    pair.client.write_frame(&[&[0; 100]]).unwrap();
    pair.client.write_frame(&[&[0; 101]]).unwrap();
    let too_long = FrameError::TooLong { len: 101, max: 100 };
    assert_eq!(pair.run(), Err(Failed::Server(ChannelError::Frame(too_long))));
    assert_eq!(pair.to_server.len(), 1, "what came before is delivered");
}

#[test]
fn a_caller_with_an_unknown_key_is_refused_and_told() {
    let mut pair = Pair::new(&config(3, &[2]), 2, &config(2, &[1]));
    assert_eq!(pair.run(), Err(Failed::Server(ChannelError::UnknownPeer(key(3)))));
    assert_eq!(pair.server.peer(), None);
    let alert = pair.server.take_tls().expect("an alert for the caller");
    let told = pair.client.read_tls(&alert, &mut |_| ());
    assert!(matches!(told, Err(ChannelError::Tls(rustls::Error::AlertReceived(_)))), "{told:?}");
}

#[test]
fn a_called_node_with_another_key_is_the_wrong_peer() {
    let mut pair = Pair::new(&config(1, &[2, 3]), 2, &config(3, &[1]));
    let wrong = ChannelError::WrongPeer { expected: key(2), found: key(3) };
    assert_eq!(pair.run(), Err(Failed::Client(wrong)));
    let alert = pair.client.take_tls().expect("an alert for the called node");
    assert!(pair.server.read_tls(&alert, &mut |_| ()).is_err());
}

#[test]
fn calling_a_key_that_is_not_allowed_fails() {
    let mut pair = Pair::new(&config(1, &[3]), 2, &config(2, &[1]));
    assert_eq!(pair.run(), Err(Failed::Client(ChannelError::UnknownPeer(key(2)))));
}

#[test]
fn a_caller_without_a_key_is_refused() {
    let server = config(2, &[1]);
    let client = config(1, &[2]);
    let mut anonymous = ClientConfig::builder_with_provider(Arc::clone(&client.provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::new(
            Arc::clone(&client.peers),
            Some(key(2)),
            &client.provider,
        )))
        .with_no_client_auth();
    anonymous.enable_sni = false;
    let mut pair = Pair::new(&client, 2, &server);
    pair.client.tls = ClientConnection::new(Arc::new(anonymous), "peer".try_into().unwrap()).unwrap().into();
    assert!(matches!(pair.run(), Err(Failed::Server(ChannelError::Tls(_)))));
}

#[test]
fn garbage_fails_either_end() {
    for end in [Channel::server(&config(2, &[1])), Channel::client(&config(1, &[2]), key(2))] {
        let mut end = end;
        let result = end.read_tls(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", &mut |_| panic!("a frame"));
        assert!(matches!(result, Err(ChannelError::Tls(_))), "{result:?}");
        assert!(end.read_tls(b"more", &mut |_| panic!("a frame")).is_err(), "an error is final");
    }
}

#[test]
fn a_flipped_bit_on_the_wire_is_detected() {
    let mut pair = Pair::friends();
    pair.run().unwrap();
    pair.client.write_frame(&[b"pay 1"]).unwrap();
    let mut sealed = pair.client.take_tls().unwrap().to_vec();
    let last = sealed.len() - 1;
    sealed[last] ^= 1;
    let result = pair.server.read_tls(&sealed, &mut |_| panic!("a frame"));
    assert_eq!(result, Err(ChannelError::Tls(rustls::Error::DecryptError)));
}

#[test]
fn closing_seals_what_was_written_and_ends_the_stream() {
    let mut pair = Pair::friends();
    pair.run().unwrap();
    pair.client.write_frame(&[b"last words"]).unwrap();
    pair.client.close();
    pair.run().unwrap();
    assert_eq!(pair.to_server, ["last words"]);
    pair.server.read_tls(b"ignored", &mut |_| panic!("a frame")).unwrap();
}

#[test]
fn waiting_frames_are_bounded() {
    let mut channel = Channel::client(&config(1, &[2]), key(2));
    let frame = vec![0; LIMITS.max_frame];
    let accepted = (0..100).take_while(|_| channel.write_frame(&[&frame]).is_ok()).count();
    assert_eq!(accepted, 4);
    assert_eq!(channel.write_frame(&[b"x"]), Err(ChannelError::QueueFull));
}

#[test]
fn small_frames_share_records() {
    const FRAMES: usize = 1000;
    let mut pair = Pair::friends();
    pair.run().unwrap();
    for _ in 0..FRAMES {
        pair.client.write_frame(&[&[5; 96]]).unwrap();
    }
    let sealed = pair.client.take_tls().unwrap();
    let plain = FRAMES * 100;
    let records = plain.div_ceil(16 << 10);
    assert!(sealed.len() <= plain + records * 22, "{} bytes for {plain}", sealed.len());
}

#[test]
fn errors_name_keys_in_hex() {
    let error = ChannelError::UnknownPeer([0xab; 32]);
    assert_eq!(error.to_string(), format!("peer with unknown key {}", "ab".repeat(32)));
    let alert = ChannelError::Tls(rustls::Error::AlertReceived(AlertDescription::AccessDenied));
    assert!(alert.to_string().contains("AccessDenied"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_frames_in_any_pieces_arrive_in_order(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000), 1..30),
        piece in 1usize..5000,
        batch in 1usize..10,
    ) {
        let mut pair = Pair::friends();
        pair.piece = piece;
        for batch in payloads.chunks(batch) {
            for payload in batch {
                pair.client.write_frame(&[payload]).unwrap();
            }
            pair.run().unwrap();
        }
        prop_assert_eq!(&pair.to_server, &payloads);
    }

    #[test]
    fn no_bytes_from_outside_panic(
        before in 0usize..4,
        garbage in prop::collection::vec(any::<u8>(), 1..600),
    ) {
        let mut pair = Pair::friends();
        for _ in 0..before {
            let _stopped = pair.client.take_tls().map(|up| pair.server.read_tls(&up, &mut |_| ()));
            let _stopped = pair.server.take_tls().map(|down| pair.client.read_tls(&down, &mut |_| ()));
        }
        // Garbage may look like the beginning of a record, and then more is awaited.
        let _judged = pair.server.read_tls(&garbage, &mut |_| panic!("a frame out of garbage"));
        let _judged = pair.client.read_tls(&garbage, &mut |_| panic!("a frame out of garbage"));
    }
}
