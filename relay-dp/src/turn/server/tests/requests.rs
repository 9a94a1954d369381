//! Requests and their answers.

use super::*;
use crate::turn::{Drop, limits, rest_password};

fn code_of(world: &mut World, client: Client, request: &[u8]) -> u16 {
    let answer = world.ask(client, request);
    error_code(&Message::parse(&answer).unwrap()).unwrap_or(0)
}

fn lifetime(seconds: u32) -> impl Fn(&mut Writer<'_>) {
    move |writer| {
        writer.attribute(attribute::LIFETIME, &seconds.to_be_bytes());
    }
}

fn granted(answer: &[u8]) -> u32 {
    let message = Message::parse(answer).unwrap();
    u32::from_be_bytes(message.find(attribute::LIFETIME).unwrap().try_into().unwrap())
}

#[test]
fn binding_tells_the_client_s_address() {
    let mut world = World::new(config());
    let mut request = Vec::new();
    Writer::new(&mut request, Class::Request, method::BINDING, &[9; 12]);
    for from in ["198.51.100.7:77", "[2001:db8::5]:77"] {
        let client = Client::Udp { socket: 3, address: at(from) };
        let answer = world.ask(client, &request);
        let message = Message::parse(&answer).unwrap();
        assert_eq!(address(&message, attribute::XOR_MAPPED_ADDRESS), Some(at(from)));
        assert!(!message.has_fingerprint());
    }
    let mapped = Client::Udp { socket: 3, address: at("[::ffff:198.51.100.7]:77") };
    let answer = world.ask(mapped, &request);
    let seen = address(&Message::parse(&answer).unwrap(), attribute::XOR_MAPPED_ADDRESS);
    assert_eq!(seen, Some(at("198.51.100.7:77")));
    let mut unknown = Vec::new();
    Writer::new(&mut unknown, Class::Request, method::BINDING, &[9; 12]).attribute(0x7777, b"?");
    let answer = world.ask(client(1), &unknown);
    let message = Message::parse(&answer).unwrap();
    assert_eq!(error_code(&message), Some(420));
    assert_eq!(message.find(attribute::UNKNOWN_ATTRIBUTES), Some(&[0x77, 0x77][..]));
}

#[test]
fn all_kinds_of_credentials_work() {
    let expiring = "1000600:carl";
    for (name, password) in [
        ("ann", "pw".to_owned()),
        (expiring, rest_password("old", expiring)),
        (expiring, rest_password("new", expiring)),
        ("1000001", rest_password("new", "1000001")),
    ] {
        for integrity in [Integrity::Sha1, Integrity::Sha256] {
            let mut world = World::new(config());
            let mut user = Requester::new(name, &password, integrity, 1);
            world.allocate(&mut user, client(1));
        }
    }
    // echo -n 1:a | openssl dgst -sha1 -hmac s -binary | base64
    assert_eq!(rest_password("s", "1:a"), "qH1Fb2LKmLFeRP97PvQuaZllyWg=");
}

#[test]
fn wrong_credentials_do_not() {
    for (name, password) in [
        ("ann", "wp".to_owned()),
        ("nobody", "pw".to_owned()),
        ("1000600:carl", rest_password("other", "1000600:carl")),
        ("1000000:carl", rest_password("new", "1000000:carl")),
        ("x:carl", rest_password("new", "x:carl")),
    ] {
        for integrity in [Integrity::Sha1, Integrity::Sha256] {
            let mut world = World::new(config());
            let mut user = Requester::new(name, &password, integrity, 1);
            assert_eq!(world.ask_as(&mut user, client(1), method::ALLOCATE, udp).0, 401, "{name}");
            assert!(world.server.allocations() == 0 && world.sockets.is_empty());
        }
    }
}

#[test]
fn nonces_expire_and_belong_to_an_address() {
    let mut world = World::new(config());
    let mut user = ann();
    world.allocate(&mut user, client(1));
    let refresh = |user: &mut Requester| user.request(method::REFRESH, |_| {});
    assert_eq!(code_of(&mut world, client(2), &refresh(&mut user)), 438, "made for another port");
    world.pass(599);
    assert_eq!(code_of(&mut world, client(1), &refresh(&mut user)), 0);
    for _ in 0..5 {
        world.pass(599);
        world.ask_as(&mut user, client(1), method::REFRESH, |_| {});
    }
    world.pass(100);
    let mut stale = ann();
    world.allocate(&mut stale, client(3));
    world.ask_as(&mut stale, client(3), method::REFRESH, lifetime(3600));
    world.pass(3599);
    assert_eq!(code_of(&mut world, client(3), &refresh(&mut stale)), 0);
    world.ask_as(&mut stale, client(3), method::REFRESH, lifetime(3600));
    world.pass(1);
    assert_eq!(code_of(&mut world, client(3), &refresh(&mut stale)), 438);
    assert_eq!(world.ask_as(&mut stale, client(3), method::REFRESH, |_| {}).0, 0, "with the new nonce");
    world.pass(3600);
    let mut wrong = Requester::new("ann", "no", Integrity::Sha1, 50);
    assert_eq!(world.ask_as(&mut wrong, client(3), method::REFRESH, |_| {}).0, 401);
}

/// RFC 8489 section 9.2.4.
#[test]
fn half_credentials_are_bad_requests() {
    let mut world = World::new(config());
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, Class::Request, method::ALLOCATE, &[9; 12]);
    udp(&mut writer);
    writer.attribute(attribute::USERNAME, b"ann").attribute(attribute::REALM, REALM.as_bytes());
    writer.integrity(Integrity::Sha1, crate::turn::stun::Key(b"k"));
    assert_eq!(code_of(&mut world, client(1), &bytes), 400);
    for (offered, chosen) in [
        (Some(&[0, 1, 0, 0, 0, 2, 0, 0][..]), None),
        (None, Some(&[0, 2, 0, 0][..])),
        (Some(&[0, 1, 0, 0]), Some(&[0, 1, 0, 0])),
        (Some(&[0, 1, 0, 0, 0, 2, 0, 0]), Some(&[0, 3, 0, 0])),
    ] {
        let mut user = ann();
        world.ask_as(&mut user, client(1), method::REFRESH, |_| {});
        let request = user.request(method::ALLOCATE, |writer| {
            udp(writer);
            let values = [(attribute::PASSWORD_ALGORITHMS, offered), (attribute::PASSWORD_ALGORITHM, chosen)];
            for (kind, value) in values {
                if let Some(value) = value {
                    writer.attribute(kind, value);
                }
            }
        });
        assert_eq!(code_of(&mut world, client(1), &request), 400, "{offered:?} {chosen:?}");
    }
}

#[test]
fn an_allocation_lives_as_long_as_granted() {
    let mut world = World::new(config());
    let mut user = ann();
    for (wished, given) in [(None, 600), (Some(1), 600), (Some(1200), 1200), (Some(u32::MAX), 3600)] {
        let (code, answer) = world.ask_as(&mut user, client(1), method::ALLOCATE, |writer| {
            udp(writer);
            if let Some(seconds) = wished {
                lifetime(seconds)(writer);
            }
        });
        assert_eq!((code, granted(&answer)), (0, given));
        let mapped = address(&Message::parse(&answer).unwrap(), attribute::XOR_MAPPED_ADDRESS);
        assert_eq!(mapped, Some(client(1).address()));
        assert_eq!(world.server.poll_timeout(), Some(world.now.ns + u64::from(given) * 1_000_000_000));
        let (code, answer) = world.ask_as(&mut user, client(1), method::REFRESH, lifetime(0));
        assert_eq!((code, granted(&answer)), (0, 0));
        assert!(world.sockets.is_empty() && world.server.poll_timeout().is_none());
    }
    world.allocate(&mut user, client(1));
    world.pass(599);
    assert_eq!(world.ask_as(&mut user, client(1), method::REFRESH, lifetime(700)).0, 0);
    world.pass(699);
    assert_eq!(world.sockets.len(), 1);
    world.pass(1);
    assert!(world.sockets.is_empty() && world.server.allocations() == 0);
    assert_eq!(world.server.counters().expired, 1);
    assert_eq!(world.ask_as(&mut user, client(1), method::REFRESH, |_| {}).0, 437);
}

#[test]
fn a_repeated_allocate_gets_the_same_answer_another_one_a_mismatch() {
    let mut world = World::new(config());
    let mut user = ann();
    world.ask_as(&mut user, client(1), method::REFRESH, |_| {});
    let request = user.request(method::ALLOCATE, udp);
    let first = world.ask(client(1), &request);
    assert_eq!(world.ask(client(1), &request), first);
    assert_eq!(world.ask_as(&mut user, client(1), method::ALLOCATE, udp).0, 437);
    assert_eq!(world.sockets.len(), 1);
}

#[test]
fn only_its_owner_controls_an_allocation() {
    let mut world = World::new(config());
    world.allocate(&mut ann(), client(1));
    let mut bob = Requester::new("bob", "wp", Integrity::Sha1, 100);
    for (method, code) in
        [(method::REFRESH, 441), (method::CREATE_PERMISSION, 441), (method::CHANNEL_BIND, 441), (0x00a, 400)]
    {
        assert_eq!(world.ask_as(&mut bob, client(1), method, peer("203.0.113.9:1")).0, code);
    }
    // The same person with renewed credentials is the same user.
    let renewed = |expiry: &str| Requester::new(expiry, &rest_password("new", expiry), Integrity::Sha1, 200);
    world.allocate(&mut renewed("1000100:dora"), client(2));
    assert_eq!(world.ask_as(&mut renewed("1000200:dora"), client(2), method::REFRESH, |_| {}).0, 0);
}

#[test]
fn what_an_allocate_may_not_ask() {
    let mut world = World::new(Config { ipv6: None, ..config() });
    let mut user = ann();
    type Fill = fn(&mut Writer<'_>);
    let rows: [(Fill, u16); 12] = [
        (|_| {}, 400),
        (
            |w| {
                w.attribute(attribute::REQUESTED_TRANSPORT, &[17]);
            },
            400,
        ),
        (
            |w| {
                w.attribute(attribute::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
            },
            442,
        ),
        (
            |w| {
                w.attribute(0x7abc, &[]);
            },
            420,
        ),
        (
            |w| {
                w.attribute(attribute::DONT_FRAGMENT, &[]);
            },
            420,
        ),
        (
            |w| {
                udp(w);
                w.attribute(attribute::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
            },
            440,
        ),
        (
            |w| {
                udp(w);
                w.attribute(attribute::REQUESTED_ADDRESS_FAMILY, &[3, 0, 0, 0]);
            },
            440,
        ),
        (
            |w| {
                udp(w);
                w.attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &[1, 0, 0, 0]);
            },
            400,
        ),
        (
            |w| {
                udp(w);
                w.attribute(attribute::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0])
                    .attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
            },
            400,
        ),
        (
            |w| {
                udp(w);
                w.attribute(attribute::RESERVATION_TOKEN, &[1; 8]);
            },
            508,
        ),
        (
            |w| {
                udp(w);
                w.attribute(attribute::RESERVATION_TOKEN, &[1; 8]).attribute(attribute::EVEN_PORT, &[0]);
            },
            400,
        ),
        (
            |w| {
                udp(w);
                w.attribute(attribute::RESERVATION_TOKEN, &[1; 7]);
            },
            400,
        ),
    ];
    for (number, (fill, code)) in rows.into_iter().enumerate() {
        assert_eq!(world.ask_as(&mut user, client(1), method::ALLOCATE, fill).0, code, "row {number}");
    }
    assert!(world.sockets.is_empty());
    // What can't be had in addition is said.
    let (code, answer) = world.ask_as(&mut user, client(1), method::ALLOCATE, |w| {
        udp(w);
        w.attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    });
    let message = Message::parse(&answer).unwrap();
    assert_eq!(code, 0);
    assert_eq!(&message.find(attribute::ADDRESS_ERROR_CODE).unwrap()[..4], [2, 0, 4, 40]);
}

#[test]
fn both_families_in_one_allocation() {
    let mut world = World::new(config());
    let mut user = ann();
    let (code, answer) = world.ask_as(&mut user, client(1), method::ALLOCATE, |w| {
        udp(w);
        w.attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    });
    assert_eq!(code, 0);
    let message = Message::parse(&answer).unwrap();
    let relayed: Vec<SocketAddr> = message
        .attributes()
        .filter(|found| found.kind == attribute::XOR_RELAYED_ADDRESS)
        .map(|found| crate::turn::stun::decode_xor_address(found.value, message.transaction()).unwrap())
        .collect();
    assert!(relayed[0].is_ipv4() && relayed[1].is_ipv6() && relayed.len() == 2);
    for (address, index) in [("203.0.113.9:1", 0), ("[2001:db8::9]:1", 1)] {
        assert_eq!(world.ask_as(&mut user, client(1), method::CREATE_PERMISSION, peer(address)).0, 0);
        let relay = world.relay(relayed[index]);
        let sent = world.client_sends(client(1), &send_indication(at(address), b"x"), 100);
        assert_eq!(sent, [(To::Peer { relay, address: at(address) }, b"x".to_vec(), 1)]);
        assert_eq!(world.peer_sends(relay, at(address), b"y", 1).len(), 1);
    }
    let end_ipv6 = |w: &mut Writer<'_>| {
        w.attribute(attribute::LIFETIME, &[0; 4])
            .attribute(attribute::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    };
    assert_eq!(world.ask_as(&mut user, client(1), method::REFRESH, end_ipv6).0, 0);
    assert_eq!(world.ask_as(&mut user, client(1), method::REFRESH, end_ipv6).0, 443);
    assert_eq!(world.ask_as(&mut user, client(1), method::CREATE_PERMISSION, peer("[2001:db8::9]:1")).0, 443);
    assert_eq!(world.sockets.len(), 1);
}

#[test]
fn an_even_port_and_the_next_one() {
    let mut world = World::new(config());
    let mut user = ann();
    let (_, answer) = world.ask_as(&mut user, client(1), method::ALLOCATE, |w| {
        udp(w);
        w.attribute(attribute::EVEN_PORT, &[0x80]);
    });
    let message = Message::parse(&answer).unwrap();
    let even = address(&message, attribute::XOR_RELAYED_ADDRESS).unwrap().port();
    assert_eq!(even % 2, 0);
    let token: Vec<u8> = message.find(attribute::RESERVATION_TOKEN).unwrap().into();
    assert_eq!(world.sockets.len(), 2);
    let claim = |w: &mut Writer<'_>| {
        udp(w);
        w.attribute(attribute::RESERVATION_TOKEN, &token);
    };
    let (code, answer) = world.ask_as(&mut user, client(1), method::ALLOCATE, claim);
    assert_eq!((code, answer.is_empty()), (437, false));
    let mut other = Requester::new("ann", "pw", Integrity::Sha1, 300);
    let (code, answer) = world.ask_as(&mut other, client(2), method::ALLOCATE, claim);
    let odd = address(&Message::parse(&answer).unwrap(), attribute::XOR_RELAYED_ADDRESS).unwrap().port();
    assert_eq!((code, odd), (0, even + 1));
    let mut third = Requester::new("ann", "pw", Integrity::Sha1, 400);
    assert_eq!(world.ask_as(&mut third, client(3), method::ALLOCATE, claim).0, 508, "a token serves once");
    // An unclaimed one goes back.
    world.ask_as(&mut third, client(3), method::ALLOCATE, |w| {
        udp(w);
        w.attribute(attribute::EVEN_PORT, &[0x80]);
    });
    assert_eq!(world.sockets.len(), 4);
    world.pass(30);
    assert_eq!(world.sockets.len(), 3);
}

#[test]
fn taken_ports_are_passed_over_and_given_up_in_the_end() {
    let mut world = World::new(config());
    world.fail_next = vec![true, true, false];
    world.allocate(&mut ann(), client(1));
    assert_eq!(world.sockets.len(), 1);
    world.fail_next = vec![true; limits::PORT_TRIES.into()];
    let mut user = ann();
    assert_eq!(world.ask_as(&mut user, client(2), method::ALLOCATE, udp).0, 508);
    assert_eq!((world.sockets.len(), world.server.allocations()), (1, 1));
    // The second of a pair fails: both go, another pair comes.
    world.fail_next = vec![false, true];
    let even = |w: &mut Writer<'_>| {
        udp(w);
        w.attribute(attribute::EVEN_PORT, &[0x80]);
    };
    assert_eq!(world.ask_as(&mut user, client(2), method::ALLOCATE, even).0, 0);
    assert_eq!(world.sockets.len(), 3);
}

#[test]
fn quotas_and_capacities() {
    let mut world = World::new(Config { max_allocations: 3, max_allocations_per_user: 2, ..config() });
    let mut users: Vec<Requester> = (0..4).map(|_| ann()).collect();
    world.allocate(&mut users[0], client(0));
    world.allocate(&mut users[1], client(1));
    assert_eq!(world.ask_as(&mut users[2], client(2), method::ALLOCATE, udp).0, 486);
    let mut bob = Requester::new("bob", "wp", Integrity::Sha1, 100);
    world.allocate(&mut bob, client(3));
    let mut bob = Requester::new("bob", "wp", Integrity::Sha1, 200);
    assert_eq!(world.ask_as(&mut bob, client(4), method::ALLOCATE, udp).0, 508);
    world.ask_as(&mut users[0], client(0), method::REFRESH, lifetime(0));
    assert_eq!(world.ask_as(&mut users[2], client(2), method::ALLOCATE, udp).0, 0);

    let mut world = World::new(Config { ports: 50_000..=50_000, ..config() });
    world.allocate(&mut ann(), client(0));
    assert_eq!(world.ask_as(&mut ann(), client(1), method::ALLOCATE, udp).0, 508, "no ports");

    let mut world = World::new(config());
    let mut user = ann();
    world.allocate(&mut user, client(0));
    for index in 0..limits::CHANNELS as u16 {
        let to = SocketAddr::new("203.0.113.9".parse().unwrap(), index + 1);
        assert_eq!(
            world.ask_as(&mut user, client(0), method::CHANNEL_BIND, channel(0x4000 + index, to)).0,
            0
        );
    }
    let bind = channel(0x4fff, at("203.0.113.9:9999"));
    assert_eq!(world.ask_as(&mut user, client(0), method::CHANNEL_BIND, bind).0, 508);
    for index in 1..limits::PERMISSIONS {
        let to = format!("203.0.113.{}:1", index + 100);
        assert_eq!(world.ask_as(&mut user, client(0), method::CREATE_PERMISSION, peer(&to)).0, 0);
    }
    let code = world.ask_as(&mut user, client(0), method::CREATE_PERMISSION, peer("203.0.113.99:1")).0;
    assert_eq!(code, 508);
}

#[test]
fn peers_that_may_not_be_reached() {
    let mut world = World::new(config());
    let mut user = ann();
    world.allocate(&mut user, client(1));
    for address in ["127.0.0.1:80", "10.0.0.1:80", "169.254.169.254:80", "224.0.0.1:80"] {
        assert_eq!(world.ask_as(&mut user, client(1), method::CREATE_PERMISSION, peer(address)).0, 403);
        let bind = channel(0x4000, at(address));
        assert_eq!(world.ask_as(&mut user, client(1), method::CHANNEL_BIND, bind).0, 403);
    }
    // One bad address spoils the request.
    let both = |w: &mut Writer<'_>| {
        peer("203.0.113.9:1")(w);
        peer("127.0.0.1:1")(w);
    };
    assert_eq!(world.ask_as(&mut user, client(1), method::CREATE_PERMISSION, both).0, 403);
    assert_eq!(world.client_sends(client(1), &send_indication(at("203.0.113.9:1"), b"x"), 100), []);
    for (fill, code) in
        [(channel(0x3fff, at("203.0.113.9:1")), 400), (channel(0x7fff, at("203.0.113.9:1")), 400)]
    {
        assert_eq!(world.ask_as(&mut user, client(1), method::CHANNEL_BIND, fill).0, code);
    }
    assert_eq!(world.ask_as(&mut user, client(1), method::CREATE_PERMISSION, |_| {}).0, 400);
    let bind = |number, to: &str| channel(number, at(to));
    assert_eq!(world.ask_as(&mut user, client(1), method::CHANNEL_BIND, bind(0x4001, "203.0.113.9:1")).0, 0);
    assert_eq!(world.ask_as(&mut user, client(1), method::CHANNEL_BIND, bind(0x4001, "203.0.113.9:1")).0, 0);
    assert_eq!(
        world.ask_as(&mut user, client(1), method::CHANNEL_BIND, bind(0x4001, "203.0.113.9:2")).0,
        400
    );
    assert_eq!(
        world.ask_as(&mut user, client(1), method::CHANNEL_BIND, bind(0x4002, "203.0.113.9:1")).0,
        400
    );
}

/// Whatever strangers send under a forged address, that address gets no more than is stated, and nothing is kept of them.
#[test]
fn no_flood_by_way_of_strangers() {
    let mut world = World::new(config());
    let request = Requester::new("ann", "pw", Integrity::Sha1, 1).request(method::ALLOCATE, udp);
    let (mut sent, mut longest) = (0, 0);
    let rounds = 100_000;
    for round in 0..rounds {
        world.now.ns += 100_000;
        for (to, bytes, _) in world.client_sends(client(round as u16), &request, request.len()) {
            assert!(matches!(to, To::Client(_)));
            sent += bytes.len();
            longest = longest.max(bytes.len());
        }
    }
    let seconds = rounds / 10_000;
    assert!(sent <= limits::STRANGER_BYTES as usize * (4 + seconds), "{sent} bytes in {seconds} s");
    assert!(longest <= 4 * request.len(), "{longest} for {}", request.len());
    assert!(world.server.counters().dropped(Drop::Strangers) > 0);
    assert_eq!(world.server.allocations(), 0);
    assert!(world.server.users.is_empty() && world.server.timers.is_empty());
}
