//! The envelope: JSON-RPC 2.0 requests, batches, notifications and errors.

use std::fmt::Display;

use serde_json::{Map, Value, json};

/// Most requests of a batch.
pub const MAX_BATCH: usize = 64;

/// Bytes of the answers to a batch, at most; what one client can make us hold while it does not read.
pub const MAX_RESPONSE: usize = 2 << 20;

/// Error codes. Those from −32768 to −32600 are JSON-RPC's, the others ours.
pub mod code {
    /// The body is not JSON.
    pub const PARSE: i64 = -32700;
    /// The JSON is no request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// There is no such method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The method takes other parameters.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The node broke a rule of its own.
    pub const INTERNAL: i64 = -32603;
    /// Too many calls wait for a core; HTTP status 503 where it was the only request.
    pub const BUSY: i64 = -32001;
    /// No answer in time. A transaction may still be executed.
    pub const TIMEOUT: i64 = -32002;
    /// The node is stopping.
    pub const STOPPING: i64 = -32003;
    /// The transaction was refused, or failed in execution; `data` says why.
    pub const REFUSED: i64 = -32010;
    /// The answers to a batch are longer than [`MAX_RESPONSE`](super::MAX_RESPONSE) together: ask in parts.
    pub const RESPONSE_TOO_LARGE: i64 = -32004;
    /// The account has changed since the last checkpoint: ask again after the next.
    pub const PROOF_LATER: i64 = -32011;
}

/// An error as the client sees it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct RpcError {
    pub code: i64,
    pub message: String,
    pub data: Option<Value>,
}

impl RpcError {
    pub fn new(code: i64, message: impl Display) -> RpcError {
        RpcError { code, message: message.to_string(), data: None }
    }

    pub fn params(message: impl Display) -> RpcError {
        RpcError::new(code::INVALID_PARAMS, message)
    }
}

/// One request of a body.
#[derive(Debug)]
pub(super) struct Invocation {
    /// `None`: a notification, which gets no answer.
    pub id: Option<Value>,
    /// Method and parameters, or why there are none.
    pub call: Result<(String, Map<String, Value>), RpcError>,
}

/// What a body holds.
#[derive(Debug)]
pub(super) enum Body {
    Single(Invocation),
    Batch(Vec<Invocation>),
}

impl Body {
    /// Reads a body. An error here concerns the body as a whole.
    pub fn parse(bytes: &[u8]) -> Result<Body, RpcError> {
        let value = serde_json::from_slice(bytes)
            .map_err(|error| RpcError::new(code::PARSE, format_args!("the body is not JSON: {error}")))?;
        match value {
            Value::Array(requests) if requests.is_empty() => {
                Err(RpcError::new(code::INVALID_REQUEST, "an empty batch"))
            }
            Value::Array(requests) if requests.len() > MAX_BATCH => Err(RpcError::new(
                code::INVALID_REQUEST,
                format_args!("a batch of {} requests: send at most {MAX_BATCH}", requests.len()),
            )),
            Value::Array(requests) => Ok(Body::Batch(requests.into_iter().map(Invocation::read).collect())),
            request => Ok(Body::Single(Invocation::read(request))),
        }
    }
}

impl Invocation {
    /// Whether the answer may have to wait for the committee.
    pub fn is_submission(&self) -> bool {
        self.call.as_ref().is_ok_and(|(method, _)| method == "sendTransaction")
    }

    fn read(request: Value) -> Invocation {
        let invalid = |id, message: &str| Invocation {
            id: Some(id),
            call: Err(RpcError::new(code::INVALID_REQUEST, message)),
        };
        let Value::Object(mut request) = request else {
            return invalid(Value::Null, "a request is a JSON object");
        };
        let id = match request.remove("id") {
            id @ (None | Some(Value::Null | Value::String(_) | Value::Number(_))) => id,
            Some(_) => return invalid(Value::Null, "«id» is a string, a number or null"),
        };
        let known_id = id.clone().unwrap_or(Value::Null);
        if request.get("jsonrpc") != Some(&json!("2.0")) {
            return invalid(known_id, "«jsonrpc» has to be \"2.0\"");
        }
        let Some(Value::String(method)) = request.remove("method") else {
            return invalid(known_id, "«method» has to be a string");
        };
        let call = match request.remove("params") {
            None => Ok((method, Map::new())),
            Some(Value::Object(params)) => Ok((method, params)),
            Some(_) => Err(RpcError::params("parameters are given by name, as a JSON object")),
        };
        Invocation { id, call }
    }
}

/// The answer to one request, as text.
pub(super) fn answer(id: Value, result: Result<Value, RpcError>) -> String {
    let answer = match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(RpcError { code, message, data: None }) => {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
        }
        Err(RpcError { code, message, data: Some(data) }) => {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message, "data": data } })
        }
    };
    answer.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn single(text: &str) -> Invocation {
        match Body::parse(text.as_bytes()).unwrap() {
            Body::Single(invocation) => invocation,
            Body::Batch(_) => panic!("{text} is no batch"),
        }
    }

    #[test]
    fn requests_and_notifications() {
        let request = single(r#"{"jsonrpc": "2.0", "id": "a", "method": "m", "params": {"x": 1}}"#);
        assert_eq!(request.id, Some(json!("a")));
        let (method, params) = request.call.unwrap();
        assert_eq!((method.as_str(), &params["x"]), ("m", &json!(1)));
        let notification = single(r#"{"jsonrpc": "2.0", "method": "m"}"#);
        assert_eq!(notification.id, None);
        assert!(notification.call.unwrap().1.is_empty());
        assert_eq!(single(r#"{"jsonrpc": "2.0", "id": null, "method": "m"}"#).id, Some(Value::Null));
    }

    #[test]
    fn what_is_no_request_is_told_why() {
        for (text, code) in [
            ("1", code::INVALID_REQUEST),
            (r#"{"id": 1, "method": "m"}"#, code::INVALID_REQUEST),
            (r#"{"jsonrpc": "1.0", "id": 1, "method": "m"}"#, code::INVALID_REQUEST),
            (r#"{"jsonrpc": "2.0", "id": 1}"#, code::INVALID_REQUEST),
            (r#"{"jsonrpc": "2.0", "id": 1, "method": 5}"#, code::INVALID_REQUEST),
            (r#"{"jsonrpc": "2.0", "id": [], "method": "m"}"#, code::INVALID_REQUEST),
            (r#"{"jsonrpc": "2.0", "id": 1, "method": "m", "params": [1]}"#, code::INVALID_PARAMS),
        ] {
            assert_eq!(single(text).call.unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn bodies_that_are_refused_as_a_whole() {
        let batch = |count| format!("[{}]", vec!["1"; count].join(","));
        for (text, code) in [
            ("{", code::PARSE),
            ("", code::PARSE),
            ("{} {}", code::PARSE),
            ("[]", code::INVALID_REQUEST),
            (&batch(MAX_BATCH + 1), code::INVALID_REQUEST),
            (&"[".repeat(100_000), code::PARSE),
        ] {
            assert_eq!(Body::parse(text.as_bytes()).unwrap_err().code, code, "{:.20}", text);
        }
        assert!(
            matches!(Body::parse(batch(MAX_BATCH).as_bytes()), Ok(Body::Batch(all)) if all.len() == MAX_BATCH)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = Body::parse(&bytes);
        }
    }
}
