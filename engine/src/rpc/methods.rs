//! The methods: their parameters, which cores they ask, and how the answers become a result.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use dag::{Address, Hash, Height, TableId, Transaction, client::Code};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::{
    chain_info::ChainInfo,
    gateway::{AskError, Gateway},
    json_rpc::{RpcError, code},
    message::{CoreStatus, Fate, ProofAnswer, Request, Response},
    views,
};
use crate::{
    index::Question,
    metrics::{CoreMetrics, NodeMetrics, ProcessUse},
};

/// How long a question may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patience {
    /// As long as a core needs to look something up.
    Reply,
    /// As long as the committee needs to agree.
    Wait,
}

/// Makes the result of the cores' answers.
type Render = Box<dyn FnOnce(Vec<Response>) -> Result<Value, RpcError>>;

/// A method that has been started.
pub(super) enum Started {
    /// It needed no core.
    Done(Value),
    /// Cores have been asked.
    Asked {
        answers: Vec<oneshot::Receiver<Response>>,
        patience: Patience,
        /// What to ask the block index where no core knows.
        archived: Option<Question>,
        render: Render,
    },
}

/// What methods may use.
pub(super) struct Context<'a> {
    pub gateway: &'a mut Gateway,
    pub chain: &'a ChainInfo,
    pub uptime: Duration,
}

type Params = Map<String, Value>;

/// Starts a method: checks its parameters and asks the cores.
pub(super) fn start(context: &mut Context<'_>, method: &str, params: Params) -> Result<Started, RpcError> {
    match method {
        "sendTransaction" => send_transaction(context, params),
        "getAccount" => get_account(context, params),
        "getTransaction" => get_transaction(context, params),
        "getBlock" | "getBlockByHeight" => get_block(context, params),
        "getLatestBlock" => get_latest_block(context, params),
        "getProof" => get_proof(context, params),
        "getStatus" | "queryNodeInfo" => get_status(context, params),
        "getChainInfo" => read::<NoParams>(params).map(|_| Started::Done(views::chain(context.chain))),
        "getMetrics" => get_metrics(context, params),
        _ => Err(RpcError::new(code::METHOD_NOT_FOUND, format_args!("there is no method «{method}»"))),
    }
}

fn read<T: DeserializeOwned>(params: Params) -> Result<T, RpcError> {
    serde_json::from_value(Value::Object(params)).map_err(RpcError::params)
}

impl From<AskError> for RpcError {
    fn from(error: AskError) -> RpcError {
        let code = match error {
            AskError::Busy(_) => code::BUSY,
            AskError::Stopping => code::STOPPING,
        };
        RpcError::new(code, error)
    }
}

fn one(
    answer: oneshot::Receiver<Response>,
    render: impl FnOnce(Response) -> Result<Value, RpcError> + 'static,
) -> Started {
    let render = |mut answers: Vec<Response>| render(answers.pop().expect("one question, one answer"));
    Started::Asked {
        answers: vec![answer],
        patience: Patience::Reply,
        archived: None,
        render: Box::new(render),
    }
}

fn all(
    answers: Vec<oneshot::Receiver<Response>>,
    render: impl FnOnce(Vec<Response>) -> Result<Value, RpcError> + 'static,
) -> Started {
    Started::Asked { answers, patience: Patience::Reply, archived: None, render: Box::new(render) }
}

/// The same, for what the block index knows longer than the cores.
fn archived(
    question: Question,
    answers: Vec<oneshot::Receiver<Response>>,
    render: impl FnOnce(Vec<Response>) -> Result<Value, RpcError> + 'static,
) -> Started {
    let (archived, render) = (Some(question), Box::new(render));
    Started::Asked { answers, patience: Patience::Reply, archived, render }
}

fn mismatch() -> RpcError {
    RpcError::new(code::INTERNAL, "a core answered another question")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParams {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendTransaction {
    record: String,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default)]
    wait: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Hex,
    Base64,
}

fn send_transaction(context: &mut Context<'_>, params: Params) -> Result<Started, RpcError> {
    let SendTransaction { record, encoding, wait } = read(params)?;
    let record = match encoding {
        Encoding::Hex => hex::decode(&record).map_err(|e| RpcError::params(format_args!("record: {e}")))?,
        Encoding::Base64 => {
            STANDARD.decode(&record).map_err(|e| RpcError::params(format_args!("record: {e}")))?
        }
    };
    let (id, sender) = match Transaction::parse(&record) {
        Ok(transaction) => (transaction.id(), *transaction.sender()),
        Err(error) => {
            let code = Code::from(error);
            let reason =
                views::submitted(&Hash::ZERO, Fate::Refused(code)).expect_err("a refusal is an error");
            return Err(RpcError { message: error.to_string(), ..without_id(reason) });
        }
    };
    let request = Request::Submit { record: Bytes::from(record), wait };
    let answer = context.gateway.ask_account(&sender, request)?;
    let render = move |answers: Vec<Response>| match answers.as_slice() {
        [Response::Submitted(fate)] => views::submitted(&id, *fate),
        _ => Err(mismatch()),
    };
    let patience = if wait { Patience::Wait } else { Patience::Reply };
    Ok(Started::Asked { answers: vec![answer], patience, archived: None, render: Box::new(render) })
}

/// A record that is no transaction has no id.
fn without_id(mut error: RpcError) -> RpcError {
    if let Some(Value::Object(data)) = &mut error.data {
        data.remove("id");
    }
    error
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByAddress {
    address: String,
}

fn read_address(params: Params) -> Result<Address, RpcError> {
    let ByAddress { address } = read(params)?;
    address.parse().map_err(|error| RpcError::params(format_args!("address: {error}")))
}

fn get_account(context: &mut Context<'_>, params: Params) -> Result<Started, RpcError> {
    let address = read_address(params)?;
    let tables = context.gateway.tables();
    let answer = context.gateway.ask_account(&address, Request::Account(address))?;
    Ok(one(answer, move |answer| match answer {
        Response::Account(state) => Ok(state.map(|state| views::account(&address, tables, &state)).into()),
        _ => Err(mismatch()),
    }))
}

fn get_proof(context: &mut Context<'_>, params: Params) -> Result<Started, RpcError> {
    let address = read_address(params)?;
    let answer = context.gateway.ask_account(&address, Request::Proof(address))?;
    Ok(one(answer, move |answer| match answer {
        Response::Proof(ProofAnswer::Proven(info)) => Ok(views::proof(&info)),
        Response::Proof(ProofAnswer::Unknown) => Ok(Value::Null),
        Response::Proof(ProofAnswer::Later) => Err(RpcError::new(
            code::PROOF_LATER,
            "the account has changed since the last checkpoint: ask again after the next",
        )),
        _ => Err(mismatch()),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ById {
    id: String,
}

fn read_hash(name: &str, text: &str) -> Result<Hash, RpcError> {
    Hash::from_hex(text).ok_or_else(|| RpcError::params(format_args!("{name}: write 64 hexadecimal digits")))
}

fn get_transaction(context: &mut Context<'_>, params: Params) -> Result<Started, RpcError> {
    let ById { id } = read(params)?;
    let id = read_hash("id", &id)?;
    let answers = context.gateway.ask_all(&Request::Transaction(id))?;
    Ok(archived(Question::Transaction(id), answers, move |answers| {
        for answer in answers {
            match answer {
                Response::Transaction(Some(info)) => return views::transaction(&id, &info),
                Response::Transaction(None) => {}
                _ => return Err(mismatch()),
            }
        }
        Ok(Value::Null)
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetBlock {
    table: Option<TableId>,
    height: Option<Height>,
    hash: Option<String>,
    #[serde(default)]
    bytes: bool,
}

fn get_block(context: &mut Context<'_>, params: Params) -> Result<Started, RpcError> {
    let GetBlock { table, height, hash, bytes } = read(params)?;
    let (question, answers) = match (table, height, hash) {
        (Some(table), Some(height), None) => {
            check_table(context, table)?;
            if height == 0 {
                return Err(RpcError::params("height: a table's first block has height 1"));
            }
            let answer = context.gateway.ask_table(table, Request::Block { table, height })?;
            (Question::Block(table, height), vec![answer])
        }
        (None, None, Some(hash)) => {
            let hash = read_hash("hash", &hash)?;
            (Question::BlockByHash(hash), context.gateway.ask_all(&Request::BlockByHash(hash))?)
        }
        _ => return Err(RpcError::params("give «table» and «height», or «hash»")),
    };
    Ok(archived(question, answers, move |answers| first_block(answers, bytes)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetLatestBlock {
    table: TableId,
    #[serde(default)]
    bytes: bool,
}

fn get_latest_block(context: &mut Context<'_>, params: Params) -> Result<Started, RpcError> {
    let GetLatestBlock { table, bytes } = read(params)?;
    check_table(context, table)?;
    let answer = context.gateway.ask_table(table, Request::Latest(table))?;
    Ok(one(answer, move |answer| first_block(vec![answer], bytes)))
}

fn check_table(context: &Context<'_>, table: TableId) -> Result<(), RpcError> {
    let tables = context.gateway.tables();
    if table < tables {
        return Ok(());
    }
    Err(RpcError::params(format_args!("table: this network has the tables 0 to {}", tables - 1)))
}

fn first_block(answers: Vec<Response>, bytes: bool) -> Result<Value, RpcError> {
    for answer in answers {
        match answer {
            Response::Block(Some(info)) => return Ok(views::block(&info, bytes)),
            Response::Block(None) => {}
            _ => return Err(mismatch()),
        }
    }
    Ok(Value::Null)
}

fn get_status(context: &mut Context<'_>, params: Params) -> Result<Started, RpcError> {
    read::<NoParams>(params)?;
    let (chain, uptime) = (context.chain.clone(), context.uptime.as_secs());
    let answers = context.gateway.ask_all(&Request::Status)?;
    Ok(all(answers, move |answers| Ok(views::status(&chain, uptime, &statuses(answers)?))))
}

/// The cores' states out of their answers.
pub(super) fn statuses(answers: Vec<Response>) -> Result<Vec<CoreStatus>, RpcError> {
    let status = |answer| match answer {
        Response::Status(status) => Ok(status),
        _ => Err(mismatch()),
    };
    answers.into_iter().map(status).collect()
}

fn get_metrics(context: &mut Context<'_>, params: Params) -> Result<Started, RpcError> {
    read::<NoParams>(params)?;
    let answers = context.gateway.ask_all(&Request::Metrics)?;
    Ok(all(answers, |answers| {
        serde_json::to_value(node_metrics(answers)?).map_err(|error| RpcError::new(code::INTERNAL, error))
    }))
}

/// The node's metrics out of its cores' answers.
pub(super) fn node_metrics(answers: Vec<Response>) -> Result<NodeMetrics, RpcError> {
    let mut metrics = CoreMetrics::default();
    for answer in answers {
        match answer {
            Response::Metrics(core) => metrics.merge(*core),
            _ => return Err(mismatch()),
        }
    }
    let process = ProcessUse::now().map_err(|error| RpcError::new(code::INTERNAL, error))?;
    Ok(NodeMetrics { process, metrics })
}
