//! A small JSON-RPC 2.0 client; the methods stand in `engine/src/rpc/README.md`.

mod ledger;
mod methods;
mod status;

use std::{fmt::Display, time::Duration};

use engine::rpc::code;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use ureq::Agent;

pub use ledger::{Account, Answered, Block, Chain, Fate, Payee, Transaction, Votes};
pub use status::{Core, Peer, Status, Table, Validator};

use crate::exit::Failure;

/// How long a node may take to answer; more than it gives itself.
const TIMEOUT: Duration = Duration::from_secs(40);
/// How long a node may take to say how it is.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions of a batch: fewer than a node takes, as it bounds the answers' bytes too.
const BATCH: usize = 32;
/// Most bytes of an answer.
const MAX_ANSWER: u64 = 64 << 20;

/// Why a node did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// No connection, or a broken one.
    #[error("{address} can't be reached ({cause}): is a node running there, and is this its RPC port?")]
    Unreachable {
        /// Where.
        address: String,
        /// The system's answer.
        cause: String,
    },
    /// Silence.
    #[error("{0} did not answer in time: look at its log, or ask another node")]
    TimedOut(String),
    /// An answer in another language.
    #[error("{address} does not speak TOP's JSON-RPC ({detail}): is this another service's port?")]
    Foreign {
        /// Who.
        address: String,
        /// What was odd.
        detail: String,
    },
    /// The node said no, and why.
    #[error("{message}")]
    Refused {
        /// See [`engine::rpc::code`].
        code: i64,
        /// The node's reason.
        message: String,
        /// More about it.
        data: Option<Value>,
    },
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Failure {
        match error {
            RpcError::TimedOut(_) | RpcError::Refused { code: code::TIMEOUT, .. } => {
                Failure::TimedOut(error.to_string())
            }
            _ => Failure::failed(error),
        }
    }
}

/// The envelope of an answer.
#[derive(Deserialize)]
struct Answer {
    error: Option<ErrorObject>,
    #[serde(default)]
    result: Value,
}

#[derive(Deserialize)]
struct ErrorObject {
    code: i64,
    message: String,
    data: Option<Value>,
}

/// The RPC port of one node. Each call is a connection of its own.
#[derive(Clone, Debug)]
pub struct Rpc {
    address: String,
    agent: Agent,
}

impl Rpc {
    /// Of `HOST:PORT`.
    pub fn new(address: &impl Display) -> Rpc {
        Rpc { address: address.to_string(), agent: agent(TIMEOUT) }
    }

    /// The same port, with less patience.
    pub fn with_timeout(&self, timeout: Duration) -> Rpc {
        Rpc { address: self.address.clone(), agent: agent(timeout) }
    }

    /// Asks. Unknown fields of the answer are skipped.
    ///
    /// # Errors
    /// The node can't be asked, or says no.
    pub fn call<T: DeserializeOwned>(&self, method: &str, params: &Value) -> Result<T, RpcError> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.result(self.post(&request)?)
    }

    /// Asks the same of many, in the fewest requests. The answers are in the questions' order.
    ///
    /// # Errors
    /// The node can't be asked, or says no to one of them.
    pub fn call_each<T: DeserializeOwned>(&self, method: &str, params: &[Value]) -> Result<Vec<T>, RpcError> {
        let mut answers = Vec::with_capacity(params.len());
        for part in params.chunks(BATCH) {
            let request =
                |(id, params)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
            let requests: Vec<Value> = part.iter().enumerate().map(request).collect();
            let batch: Vec<Value> = self.result_of_batch(self.post(&Value::Array(requests))?)?;
            if batch.len() != part.len() {
                return Err(self.foreign(format!("{} answers to {} questions", batch.len(), part.len())));
            }
            for answer in batch {
                answers.push(self.result(answer)?);
            }
        }
        Ok(answers)
    }

    fn post(&self, request: &Value) -> Result<Value, RpcError> {
        let sent = self
            .agent
            .post(format!("http://{}/", self.address))
            .header("content-type", "application/json")
            .send(request.to_string());
        let body =
            sent.and_then(|mut answer| answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec());
        let body = body.map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.foreign(error))
    }

    /// A batch that is refused as a whole is answered by one error.
    fn result_of_batch(&self, answer: Value) -> Result<Vec<Value>, RpcError> {
        match answer {
            Value::Array(answers) => Ok(answers),
            refusal => self.result(refusal),
        }
    }

    fn result<T: DeserializeOwned>(&self, answer: Value) -> Result<T, RpcError> {
        match serde_json::from_value(answer).map_err(|error| self.foreign(error))? {
            Answer { error: Some(ErrorObject { code, message, data }), .. } => {
                Err(RpcError::Refused { code, message, data })
            }
            Answer { error: None, result } => {
                serde_json::from_value(result).map_err(|error| self.foreign(error))
            }
        }
    }

    fn foreign(&self, detail: impl Display) -> RpcError {
        RpcError::Foreign { address: self.address.clone(), detail: detail.to_string() }
    }

    /// Whether the node takes part, by its own account.
    ///
    /// # Errors
    /// What it says instead, or that it says nothing.
    pub fn healthy(&self) -> Result<(), String> {
        let answer = agent(HEALTH_TIMEOUT).get(format!("http://{}/healthz", self.address)).call();
        let mut answer = answer.map_err(|error| format!("no answer to GET /healthz: {error}"))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let said = answer.body_mut().with_config().limit(1024).read_to_string().unwrap_or_default();
        Err(format!("GET /healthz: {} {}", answer.status(), said.trim()))
    }

    /// The text of `GET /metrics`.
    ///
    /// # Errors
    /// The node can't be asked.
    pub fn prometheus(&self) -> Result<String, RpcError> {
        let answer = self.agent.get(format!("http://{}/metrics", self.address)).call();
        let text =
            answer.and_then(|mut answer| answer.body_mut().with_config().limit(MAX_ANSWER).read_to_string());
        text.map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &ureq::Error) -> RpcError {
        let address = self.address.clone();
        match error {
            ureq::Error::Timeout(_) => RpcError::TimedOut(address),
            ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::BodyExceedsLimit(_) => {
                RpcError::Foreign { address, detail: error.to_string() }
            }
            ureq::Error::Io(cause) => RpcError::Unreachable { address, cause: cause.to_string() },
            _ => RpcError::Unreachable { address, cause: error.to_string() },
        }
    }
}

fn agent(timeout: Duration) -> Agent {
    // Answers to errors are read, not thrown away; and a node is asked directly, whatever proxy the environment names.
    let config = Agent::config_builder().http_status_as_error(false).proxy(None).max_idle_connections(0);
    config.timeout_global(Some(timeout)).build().into()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpListener},
        thread,
    };

    use super::*;

    /// A server that gives one answer, and returns what it was asked.
    fn server(answer: &'static str) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let count = socket.read(&mut asked).unwrap();
            socket.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..count]).into_owned()
        };
        (address, thread::spawn(serve))
    }

    fn ask(answer: &'static str) -> Result<u64, RpcError> {
        let (address, serving) = server(answer);
        let result = Rpc::new(&address).call("getAnswer", &json!({ "x": 1 }));
        assert!(serving.join().unwrap().starts_with("POST / HTTP/1.1\r\n"));
        result
    }

    #[test]
    fn results_and_refusals() {
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":42}";
        assert_eq!(ask(ok).unwrap(), 42);
        let refused = ask(
            "HTTP/1.1 503 Busy\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32001,\"message\":\"node busy\"}}",
        );
        assert!(
            matches!(&refused, Err(RpcError::Refused { code: code::BUSY, message, .. }) if message == "node busy")
        );
    }

    #[test]
    fn other_services_and_silence_are_told_apart() {
        let null = ask("HTTP/1.1 200 OK\r\n\r\n{}");
        assert!(matches!(null, Err(RpcError::Foreign { .. })), "{null:?}");
        let html = ask("HTTP/1.1 200 OK\r\n\r\n<html>");
        assert!(matches!(html, Err(RpcError::Foreign { .. })), "{html:?}");
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Rpc::new(&unused).call::<u64>("getAnswer", &json!({})).unwrap_err();
        assert!(matches!(error, RpcError::Unreachable { .. }), "{error:?}");
        assert_eq!(error.to_string().lines().count(), 1);
        assert!(Rpc::new(&unused).healthy().unwrap_err().starts_with("no answer"));
    }

    #[test]
    fn sickness_is_told_in_the_nodes_words() {
        let (address, _serving) = server("HTTP/1.1 503 Service Unavailable\r\n\r\ncatching up\n");
        let said = Rpc::new(&address).healthy().unwrap_err();
        assert!(said.contains("503") && said.ends_with("catching up"), "{said}");
    }
}
