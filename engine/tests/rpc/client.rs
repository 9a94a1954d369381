//! A plain HTTP/1.1 client over a blocking socket.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

/// Far above what a test needs, far below what a person waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a server said.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads until the server closes the connection, which it has to.
pub fn read_answer(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // A server that closes with unread bytes resets the connection behind its answer.
    let end = stream.read_to_end(&mut bytes).map_err(|error| error.kind());
    assert_ne!(end, Err(std::io::ErrorKind::WouldBlock), "the server keeps the connection open");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.unwrap_or(0), head: head.to_lowercase(), body: body.into() }
}

pub fn send(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    // A server that has seen enough may close before it has read all.
    let _ = stream.write_all(bytes);
    read_answer(stream)
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
}

pub fn post(address: SocketAddr, body: &str) -> Answer {
    let head =
        format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    send(address, format!("{head}{body}").as_bytes())
}

/// Calls one method; the result, or code and message of the error.
pub fn call(address: SocketAddr, method: &str, params: Value) -> Result<Value, (i64, String, Value)> {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let mut answer = post(address, &request.to_string()).json();
    assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(1)));
    match answer.get_mut("error").map(Value::take) {
        None => Ok(answer["result"].take()),
        Some(error) => {
            let message = error["message"].as_str().unwrap().to_string();
            Err((error["code"].as_i64().unwrap(), message, error["data"].clone()))
        }
    }
}
