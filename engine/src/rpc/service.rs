//! From the body of a request to the body of its answer.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout_at,
};

use super::{
    chain_info::ChainInfo,
    gateway::Gateway,
    json_rpc::{self, Body, Invocation, MAX_RESPONSE, RpcError, code},
    message::{Request, Response},
    methods::{self, Context, Patience, Started},
};
use crate::{
    index::{self, Question},
    metrics::NodeMetrics,
};

/// Look-ups in the index that run at once; further ones wait.
const LOOKUPS: usize = 4;

/// What all connections share. The RPC thread is one, so a cell is enough.
pub(super) struct Service {
    gateway: RefCell<Gateway>,
    chain: ChainInfo,
    index: Option<index::Reader>,
    /// Look-ups in the index that run at once.
    lookups: Semaphore,
    reply_timeout: Duration,
    wait_timeout: Duration,
    started: Instant,
}

/// A request whose cores have been asked, or that has failed before.
struct Running {
    id: Option<Value>,
    begun: tokio::time::Instant,
    started: Result<Started, RpcError>,
}

/// An HTTP answer to a POST.
#[derive(Debug, PartialEq)]
pub(super) struct Reply {
    pub status: u16,
    /// Empty where all requests were notifications.
    pub body: String,
}

/// A request of a batch.
enum Turn {
    Begun(Running),
    Later(Invocation),
}

impl Service {
    pub fn new(
        gateway: Gateway,
        chain: ChainInfo,
        index: Option<index::Reader>,
        reply_timeout: Duration,
        wait_timeout: Duration,
    ) -> Service {
        let (gateway, lookups) = (RefCell::new(gateway), Semaphore::new(LOOKUPS));
        Service { gateway, chain, index, lookups, reply_timeout, wait_timeout, started: Instant::now() }
    }

    /// Handles one body.
    pub async fn post(&self, body: &[u8]) -> Reply {
        match Body::parse(body) {
            Err(error) => Reply { status: 400, body: json_rpc::answer(Value::Null, Err(error)) },
            Ok(Body::Single(invocation)) => self.single(invocation).await,
            Ok(Body::Batch(invocations)) => self.batch(invocations).await,
        }
    }

    async fn single(&self, invocation: Invocation) -> Reply {
        let (id, result) = self.finish(self.begin(invocation)).await;
        let Some(id) = id else { return Reply { status: 204, body: String::new() } };
        let status = match &result {
            Err(error) if error.code == code::BUSY => 503,
            Err(error) if error.code == code::INVALID_REQUEST => 400,
            _ => 200,
        };
        Reply { status, body: json_rpc::answer(id, result) }
    }

    /// Submissions are all begun first, so that they wait for the committee together; the rest is asked one by one, so that
    /// the answers of a batch never pile up.
    async fn batch(&self, invocations: Vec<Invocation>) -> Reply {
        let begin = |invocation: Invocation| match invocation.is_submission() {
            true => Turn::Begun(self.begin(invocation)),
            false => Turn::Later(invocation),
        };
        let turns: Vec<Turn> = invocations.into_iter().map(begin).collect();
        let mut body = String::new();
        for turn in turns {
            let running = match turn {
                Turn::Begun(running) => running,
                Turn::Later(invocation) => self.begin(invocation),
            };
            let (Some(id), result) = self.finish(running).await else { continue };
            let mut answer = json_rpc::answer(id.clone(), result);
            if body.len() + answer.len() > MAX_RESPONSE {
                let error =
                    RpcError::new(code::RESPONSE_TOO_LARGE, "the batch's answers are too long: ask in parts");
                answer = json_rpc::answer(id, Err(error));
            }
            body.push(if body.is_empty() { '[' } else { ',' });
            body.push_str(&answer);
        }
        if body.is_empty() {
            return Reply { status: 204, body };
        }
        body.push(']');
        Reply { status: 200, body }
    }

    fn begin(&self, Invocation { id, call }: Invocation) -> Running {
        let started = call.and_then(|(method, params)| {
            let mut gateway = self.gateway.borrow_mut();
            let uptime = self.started.elapsed();
            let mut context = Context { gateway: &mut gateway, chain: &self.chain, uptime };
            methods::start(&mut context, &method, params)
        });
        Running { id, begun: tokio::time::Instant::now(), started }
    }

    async fn finish(&self, running: Running) -> (Option<Value>, Result<Value, RpcError>) {
        let result = match running.started {
            Err(error) => Err(error),
            Ok(Started::Done(value)) => Ok(value),
            Ok(Started::Asked { answers, patience, archived, render }) => {
                let answers = self.collect(answers, running.begun, patience).await;
                let answers = match (answers, archived) {
                    (Ok(answers), Some(question)) if answers.iter().all(is_unknown) => {
                        self.look_up(question, answers, running.begun).await
                    }
                    (answers, _) => answers,
                };
                answers.and_then(render)
            }
        };
        (running.id, result)
    }

    async fn collect(
        &self,
        questions: Vec<oneshot::Receiver<Response>>,
        begun: tokio::time::Instant,
        patience: Patience,
    ) -> Result<Vec<Response>, RpcError> {
        let limit = match patience {
            Patience::Reply => self.reply_timeout,
            Patience::Wait => self.wait_timeout,
        };
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            match timeout_at(begun + limit, question).await {
                Ok(Ok(answer)) => answers.push(answer),
                Ok(Err(_)) => return Err(RpcError::new(code::STOPPING, "the node is stopping")),
                Err(_) => return Err(timeout(limit, patience)),
            }
        }
        Ok(answers)
    }

    /// Asks the index for what the cores don't know (any more). Without an index their answers stand.
    async fn look_up(
        &self,
        question: Question,
        answers: Vec<Response>,
        begun: tokio::time::Instant,
    ) -> Result<Vec<Response>, RpcError> {
        let Some(index) = self.index.clone() else { return Ok(answers) };
        let found = async {
            let _place = self.lookups.acquire().await.expect("the semaphore is never closed");
            tokio::task::spawn_blocking(move || index.answer(question)).await
        };
        match timeout_at(begun + self.reply_timeout, found).await {
            // What a core said of a transaction is more than nothing.
            Ok(Ok(Ok(Response::Transaction(None)))) => Ok(answers),
            Ok(Ok(Ok(response))) => Ok(vec![response]),
            Ok(Ok(Err(error))) => {
                Err(RpcError::new(code::INTERNAL, format_args!("the block index can't be read: {error}")))
            }
            Ok(Err(_)) => Err(RpcError::new(code::INTERNAL, "the block index is damaged")),
            Err(_) => Err(timeout(self.reply_timeout, Patience::Reply)),
        }
    }

    async fn ask_all(&self, request: &Request) -> Result<Vec<Response>, RpcError> {
        let answers = self.gateway.borrow_mut().ask_all(request)?;
        self.collect(answers, tokio::time::Instant::now(), Patience::Reply).await
    }

    /// For `/metrics`.
    pub async fn metrics(&self) -> Result<NodeMetrics, RpcError> {
        methods::node_metrics(self.ask_all(&Request::Metrics).await?)
    }

    /// For `/healthz`: every core answers and none reports a fault.
    pub async fn health(&self) -> Result<(), String> {
        let statuses = self.ask_all(&Request::Status).await.and_then(methods::statuses);
        let faults = statuses.map_err(|error| error.message)?.into_iter().filter_map(|status| status.fault);
        let faults: Vec<String> = faults.collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
    }
}

/// Whether a core does not know what was asked for, or knows only where it stands.
fn is_unknown(answer: &Response) -> bool {
    match answer {
        Response::Block(block) => block.is_none(),
        Response::Transaction(transaction) => transaction.as_ref().is_none_or(|info| info.record.is_empty()),
        _ => false,
    }
}

fn timeout(limit: Duration, patience: Patience) -> RpcError {
    let limit = humantime::format_duration(limit);
    match patience {
        Patience::Reply => RpcError::new(code::TIMEOUT, format_args!("no answer from a core within {limit}")),
        Patience::Wait => RpcError {
            data: Some(json!({ "status": "pending" })),
            ..RpcError::new(
                code::TIMEOUT,
                format_args!("not executed within {limit}, but it may be later: ask getTransaction"),
            )
        },
    }
}
