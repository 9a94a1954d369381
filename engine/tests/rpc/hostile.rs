//! Clients that err or attack, and cores that do not answer.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use engine::rpc::{ChainInfo, Gateway, HttpLimits, MAX_BATCH, RpcOptions, Server, code, link};
use serde_json::json;

use crate::{
    client::{PATIENCE, call, connect, get, post, read_answer, send},
    fake_node::*,
};

fn impatient() -> RpcOptions {
    RpcOptions {
        http: HttpLimits {
            connections: 2,
            body_bytes: 64 * 1024,
            head_timeout: Duration::from_millis(200),
            body_timeout: Duration::from_millis(200),
            connection_lifetime: PATIENCE,
        },
        reply_timeout: Duration::from_millis(100),
        wait_timeout: Duration::from_millis(150),
    }
}

fn error_code(body: &serde_json::Value) -> i64 {
    body["error"]["code"].as_i64().unwrap()
}

#[test]
fn malformed_bodies_are_told_so() {
    let node = FakeNode::willing();
    let too_many = json!(vec![json!({ "jsonrpc": "2.0", "id": 1, "method": "getChainInfo" }); MAX_BATCH + 1]);
    for (body, status, code) in [
        ("{", 400, code::PARSE),
        ("", 400, code::PARSE),
        ("[]", 400, code::INVALID_REQUEST),
        ("{}", 400, code::INVALID_REQUEST),
        (&too_many.to_string(), 400, code::INVALID_REQUEST),
        (r#"{"jsonrpc": "2.0", "id": 1, "method": "rm"}"#, 200, code::METHOD_NOT_FOUND),
        (r#"{"jsonrpc": "2.0", "id": 1, "method": "getBlock", "params": [1]}"#, 200, code::INVALID_PARAMS),
    ] {
        let answer = post(node.address(), body);
        assert_eq!((answer.status, error_code(&answer.json())), (status, code), "{body:.60}");
        assert!(answer.head.contains("content-type: application/json"));
    }
}

#[test]
fn other_paths_and_methods_do_not_exist() {
    let node = FakeNode::willing();
    assert_eq!(get(node.address(), "/").status, 405);
    assert_eq!(get(node.address(), "/etc/passwd").status, 404);
    assert_eq!(send(node.address(), b"DELETE /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").status, 405);
    assert_eq!(send(node.address(), b"\x16\x03\x01 this is no HTTP\r\n\r\n").status, 400);
}

#[test]
fn heads_and_bodies_have_a_size() {
    let node = FakeNode::start(Mood::Willing, 64, impatient());
    let body = format!("{{\"x\": \"{}\"}}", "x".repeat(64 * 1024));
    let answer = post(node.address(), &body);
    assert_eq!(answer.status, 413);
    assert!(answer.body.contains("at most 65536 bytes"), "{}", answer.body);
    let chunked = format!(
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_eq!(send(node.address(), chunked.as_bytes()).status, 413);
    let long_head = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    assert_eq!(send(node.address(), long_head.as_bytes()).status, 431);
    let many_headers = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    assert_eq!(send(node.address(), many_headers.as_bytes()).status, 431);
    assert_eq!(get(node.address(), "/healthz").status, 200);
}

#[test]
fn a_full_ring_means_busy() {
    let node = FakeNode::start(Mood::Stuck, 1, RpcOptions { reply_timeout: PATIENCE, ..impatient() });
    let mut waiting = connect(node.address());
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "getLatestBlock", "params": { "table": 0 } })
        .to_string();
    let request = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    waiting.write_all(request.as_bytes()).unwrap();
    // Until that call fills the ring, this one waits itself, is given up and asked again.
    loop {
        let mut probe = TcpStream::connect(node.address()).unwrap();
        probe.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        probe.write_all(request.as_bytes()).unwrap();
        let mut first = [0; 12];
        if probe.read_exact(&mut first).is_ok() {
            assert_eq!(&first, b"HTTP/1.1 503");
            break;
        }
    }
    let answer = post(node.address(), &body);
    assert_eq!((answer.status, error_code(&answer.json())), (503, code::BUSY));
    assert!(answer.body.contains("node busy"), "{}", answer.body);
    // In a batch, the others still get their answers.
    let other = json!({ "jsonrpc": "2.0", "id": 2, "method": "getChainInfo" }).to_string();
    let answer = post(node.address(), &format!("[{body}, {other}]"));
    assert_eq!((answer.status, error_code(&answer.json()[0])), (200, code::BUSY));
    assert_eq!(answer.json()[1]["result"]["name"], json!("test"));
    for path in ["/metrics", "/healthz"] {
        assert_eq!(get(node.address(), path).status, 503, "{path}");
    }
}

#[test]
fn cores_that_stay_silent_time_out() {
    let node = FakeNode::start(Mood::Silent, 64, impatient());
    let (code, message, _) = call(node.address(), "getLatestBlock", json!({ "table": 0 })).unwrap_err();
    assert_eq!((code, message.as_str()), (code::TIMEOUT, "no answer from a core within 100ms"));
    let params = json!({ "record": hex::encode(transfer(1, 2)), "wait": true });
    let (code, message, data) = call(node.address(), "sendTransaction", params).unwrap_err();
    assert_eq!((code, &data["status"]), (code::TIMEOUT, &json!("pending")));
    assert!(message.contains("it may be later: ask getTransaction"), "{message}");
    let health = get(node.address(), "/healthz");
    assert_eq!((health.status, health.body.as_str()), (503, "no answer from a core within 100ms\n"));
}

#[test]
fn cores_that_have_ended_are_named() {
    let node = FakeNode::start(Mood::Ended, 64, RpcOptions::default());
    let (code, message, _) = call(node.address(), "getStatus", json!({})).unwrap_err();
    assert_eq!((code, message.as_str()), (code::STOPPING, "the node is stopping"));
    assert_eq!(call(node.address(), "getChainInfo", json!({})).unwrap()["name"], json!("test"));
}

#[test]
fn slow_clients_lose_their_places() {
    let node = FakeNode::start(Mood::Willing, 64, impatient());
    // As many as there are places: one sends half a head, one nothing.
    let mut half = connect(node.address());
    half.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").unwrap();
    let silent = connect(node.address());
    assert_eq!(get(node.address(), "/healthz").status, 200, "a third client gets its turn");
    for stream in [half, silent] {
        assert_ne!(read_answer(stream).status, 200);
    }

    let mut body = connect(node.address());
    body.write_all(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"jsonrpc\"").unwrap();
    assert_eq!(read_answer(body).status, 408);
}

#[test]
fn connections_have_a_lifetime() {
    let limits = HttpLimits { connection_lifetime: Duration::from_millis(100), ..HttpLimits::default() };
    let node = FakeNode::start(Mood::Willing, 64, RpcOptions { http: limits, ..RpcOptions::default() });
    let mut stream = connect(node.address());
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_answer(stream).status, 200, "answered, and closed without being asked to");
}

#[test]
fn an_address_in_use_says_what_to_do() {
    let node = FakeNode::willing();
    let (core, _calls) = link(1, Box::new(|| {}));
    let gateway = Gateway::new(vec![core], vec![0]);
    let chain = ChainInfo::new(&genesis(), 0);
    let error =
        Server::start(node.address(), RpcOptions::default(), chain, gateway, None).unwrap_err().to_string();
    assert!(error.contains("is in use: stop the program that listens there"), "{error}");
}

#[test]
fn stopping_closes_everything() {
    let mut node = FakeNode::willing();
    let address = node.address();
    let mut open = connect(address);
    open.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    let mut first = [0; 12];
    open.read_exact(&mut first).unwrap();
    node.stop_server();
    assert!(read_answer(open).body.ends_with("ok\n"), "the open connection was closed");
    assert!(TcpStream::connect(address).is_err());
}
