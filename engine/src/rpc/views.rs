//! Ledger data as JSON. Amounts and chain ids are decimal strings, as they may exceed the 2⁵³ that JavaScript counts exactly;
//! heights, sequences and times are numbers. Hashes and bytes are lower-case hexadecimal, accounts and keys `top1…`.

use dag::{
    Address, Certificate, Hash, Transaction, VoteKind,
    client::{AccountState, Code},
};
use serde_json::{Map, Value, json};

use super::{
    chain_info::ChainInfo,
    json_rpc::{RpcError, code},
    message::{AccountProofInfo, BlockInfo, CoreStatus, Fate, TransactionInfo},
};
use crate::metrics::{CoreUse, Phase};

fn amount(micro_top: u64) -> Value {
    Value::String(micro_top.to_string())
}

fn hash(hash: &Hash) -> Value {
    Value::String(hash.to_string())
}

/// Adds the members of `more` to `object`.
fn extend(object: &mut Value, more: Value) {
    let (Value::Object(object), Value::Object(more)) = (object, more) else {
        unreachable!("both come from json! with braces")
    };
    object.extend(more);
}

pub(super) fn account(address: &Address, tables: u16, state: &AccountState) -> Value {
    json!({
        "address": address.to_string(),
        "table": address.table(tables),
        "balance": amount(state.balance),
        "sequence": state.sequence,
        "pendingSequence": state.pending,
        "unitHeight": state.unit_height,
        "unitHead": hash(&state.unit_head),
    })
}

/// The answer to a submission: an error where the transaction was refused or has failed.
pub(super) fn submitted(id: &Hash, fate: Fate) -> Result<Value, RpcError> {
    let mut view = json!({ "id": hash(id) });
    extend(&mut view, fate_members(fate));
    match fate {
        Fate::Pending | Fate::Executed { code: Code::Committed, .. } => Ok(view),
        Fate::Executed { code, .. } | Fate::Refused(code) => {
            Err(RpcError { code: code::REFUSED, message: code.to_string(), data: Some(view) })
        }
    }
}

fn fate_members(fate: Fate) -> Value {
    match fate {
        Fate::Pending => json!({ "status": "pending" }),
        Fate::Executed { place, code } => {
            let status = if code == Code::Committed { "committed" } else { "failed" };
            json!({
                "status": status, "code": code as u8, "reason": code.to_string(),
                "table": place.table, "height": place.height, "index": place.index,
            })
        }
        Fate::Refused(code) => {
            json!({ "status": "refused", "code": code as u8, "reason": code.to_string() })
        }
    }
}

fn transaction_members(transaction: &Transaction<'_>) -> Value {
    let payees: Vec<Value> = transaction
        .payees()
        .map(|payee| json!({ "to": payee.to.to_string(), "amount": amount(payee.amount) }))
        .collect();
    json!({
        "sender": transaction.sender().to_string(),
        "sequence": transaction.sequence(),
        "fee": amount(transaction.fee()),
        "epoch": transaction.epoch(),
        "payees": payees,
    })
}

pub(super) fn transaction(id: &Hash, info: &TransactionInfo) -> Result<Value, RpcError> {
    let mut view = json!({ "id": hash(id) });
    extend(&mut view, fate_members(info.fate));
    if info.record.is_empty() {
        // So long ago that only its place is remembered.
        return Ok(view);
    }
    let transaction = Transaction::parse(&info.record).map_err(|error| {
        RpcError::new(code::INTERNAL, format_args!("a core sent no transaction: {error}"))
    })?;
    extend(&mut view, transaction_members(&transaction));
    extend(&mut view, json!({ "record": hex::encode(&info.record) }));
    Ok(view)
}

pub(super) fn block(info: &BlockInfo, with_bytes: bool) -> Value {
    let (block, header) = (&info.block, info.block.header());
    let inbox: Vec<Value> = block
        .inbox()
        .iter()
        .map(|from| json!({ "table": from.table, "height": from.height, "hash": hash(&from.hash) }))
        .collect();
    let mut view = json!({
        "hash": hash(&block.hash()),
        "chain": amount(header.chain),
        "epoch": header.epoch,
        "table": header.table,
        "height": header.height,
        "view": header.view,
        "time": header.time,
        "proposer": header.proposer,
        "parent": hash(&header.parent),
        "transactionsRoot": hash(&header.transactions_root),
        "inboxRoot": hash(&header.inbox_root),
        "checkpoint": { "height": header.checkpoint_height, "digest": hash(&header.checkpoint) },
        "inbox": inbox,
        "transactions": block_transactions(info),
        "certificate": info.certificate.as_ref().map(certificate),
    });
    if with_bytes {
        extend(&mut view, json!({ "bytes": hex::encode(block.bytes()) }));
    }
    view
}

fn block_transactions(info: &BlockInfo) -> Vec<Value> {
    let view = |index: usize| {
        let code = info.code(u32::try_from(index).expect("at most 1024"));
        let mut view = json!({
            "id": hash(&info.block.id(index)),
            "status": if code == Code::Committed { "committed" } else { "failed" },
            "code": code as u8,
            "reason": code.to_string(),
        });
        extend(&mut view, transaction_members(&info.block.transaction(index)));
        view
    };
    (0..info.block.len()).map(view).collect()
}

fn certificate(certificate: &Certificate) -> Value {
    let kind = match certificate.vote.kind {
        VoteKind::Prepare => "prepare",
        VoteKind::Commit => "commit",
        VoteKind::Checkpoint => "checkpoint",
    };
    let mut bytes = Vec::new();
    certificate.encode(&mut bytes);
    json!({
        "kind": kind,
        "table": certificate.vote.table,
        "view": certificate.vote.view,
        "height": certificate.vote.height,
        "digest": hash(&certificate.vote.digest),
        "signers": certificate.proofs.iter().map(|proof| proof.replica).collect::<Vec<_>>(),
        "bytes": hex::encode(bytes),
    })
}

pub(super) fn proof(info: &AccountProofInfo) -> Value {
    let AccountProofInfo { proof, checkpoint, certificate: votes } = info;
    let mut encoded = Vec::new();
    proof.encode(&mut encoded);
    json!({
        "address": proof.leaf.address.to_string(),
        "table": checkpoint.table,
        "height": checkpoint.height,
        "balance": amount(proof.leaf.balance),
        "sequence": proof.leaf.sequence,
        "unitHeight": proof.leaf.unit_height,
        "unitHead": hash(&proof.leaf.unit_head),
        "proof": hex::encode(encoded),
        "checkpoint": hex::encode(checkpoint.to_bytes()),
        "certificate": certificate(votes),
    })
}

pub(super) fn chain(info: &ChainInfo) -> Value {
    let validators: Vec<Value> = info
        .validators
        .iter()
        .enumerate()
        .map(|(index, validator)| json!({ "index": index, "name": validator.name, "key": validator.key.to_string() }))
        .collect();
    json!({
        "name": info.name,
        "chain": amount(info.chain),
        "genesis": hash(&info.genesis),
        "genesisTime": info.time,
        "epoch": info.epoch,
        "tables": info.tables,
        "lanes": info.lanes,
        "supply": amount(info.supply),
        "validators": validators,
    })
}

/// The whole node's state from that of its cores.
pub(super) fn status(info: &ChainInfo, uptime_seconds: u64, cores: &[CoreStatus]) -> Value {
    let mut tables: Vec<_> = cores.iter().flat_map(|core| &core.tables).collect();
    tables.sort_unstable_by_key(|table| table.table);
    let faults: Vec<&String> = cores.iter().filter_map(|core| core.fault.as_ref()).collect();
    json!({
        "validator": validator(info, info.replica),
        "chain": amount(info.chain),
        "epoch": info.epoch,
        "version": env!("CARGO_PKG_VERSION"),
        "uptimeSeconds": uptime_seconds,
        "healthy": faults.is_empty(),
        "faults": faults,
        "votes": cores.iter().all(|core| core.votes),
        "tables": tables,
        "peers": peers(info, cores),
        "cores": cores.iter().map(|core| core_use(&core.core_use)).collect::<Vec<_>>(),
    })
}

fn validator(info: &ChainInfo, replica: dag::ReplicaId) -> Value {
    let (name, key) = info.validator(replica).unzip();
    json!({ "index": replica, "name": name, "key": key.map(|key| key.to_string()) })
}

fn peers(info: &ChainInfo, cores: &[CoreStatus]) -> Vec<Value> {
    let replicas = (0..).take(info.validators.len()).filter(|&replica| replica != info.replica);
    replicas
        .map(|replica| {
            let seen = cores.iter().flat_map(|core| &core.peers).filter(|peer| peer.replica == replica);
            let connected: u32 = seen.map(|peer| u32::from(peer.lanes_connected)).sum();
            let mut view = validator(info, replica);
            extend(&mut view, json!({ "lanesConnected": connected, "lanes": info.lanes }));
            view
        })
        .collect()
}

fn core_use(core: &CoreUse) -> Value {
    let phases: Map<String, Value> =
        Phase::ALL.map(|phase| (phase.name().to_string(), core.phase_ns(phase).into())).into_iter().collect();
    json!({
        "core": core.core,
        "busyShare": core.busy_share(),
        "cpuNs": core.cpu_ns,
        "busyNs": core.busy_ns(),
        "blockedNs": core.blocked_ns,
        "idleNs": core.idle_ns,
        "phasesNs": phases,
    })
}
