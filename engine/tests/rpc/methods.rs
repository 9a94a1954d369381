//! What each method answers.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dag::{
    Block, Certificate, Transaction,
    client::Code,
    state_tree::{AccountProof, CheckpointPreimage},
    wire::Reader,
};
use engine::{
    index::{Index, IndexConfig},
    metrics::{NodeMetrics, Stage},
    rpc::{HttpLimits, MAX_BATCH, MAX_RESPONSE, RpcOptions, code},
};
use serde_json::{Value, json};

use crate::{
    client::{call, get, post},
    fake_node::*,
};

fn hex_record(fee: u64) -> String {
    hex::encode(transfer(1, fee))
}

#[test]
fn a_transaction_is_submitted() {
    let node = FakeNode::willing();
    let send = |params| call(node.address(), "sendTransaction", params);
    let record = transfer(1, 2);
    let id = Transaction::parse(&record).unwrap().id().to_string();

    let pending = send(json!({ "record": hex_record(2) })).unwrap();
    assert_eq!(pending, json!({ "id": id, "status": "pending" }));
    let base64 = send(json!({ "record": STANDARD.encode(&record), "encoding": "base64" }));
    assert_eq!(base64.unwrap(), pending);
    let committed = send(json!({ "record": hex_record(2), "wait": true })).unwrap();
    let expected = json!({
        "id": id, "status": "committed", "code": 0, "reason": "committed",
        "table": home(), "height": HEIGHT, "index": 2,
    });
    assert_eq!(committed, expected);
}

#[test]
fn a_refusal_names_its_cause() {
    let node = FakeNode::willing();
    let refused = |params| call(node.address(), "sendTransaction", params).unwrap_err();

    let (error, message, data) = refused(json!({ "record": hex_record(REFUSED_FEE) }));
    assert_eq!((error, message), (code::REFUSED, Code::StaleSequence.to_string()));
    assert_eq!((&data["status"], &data["code"]), (&json!("refused"), &json!(Code::StaleSequence as u8)));

    let (error, message, data) = refused(json!({ "record": hex_record(FAILING_FEE), "wait": true }));
    assert_eq!((error, message), (code::REFUSED, Code::Overdraft.to_string()));
    assert_eq!((&data["status"], &data["height"]), (&json!("failed"), &json!(HEIGHT)));

    let (error, message, data) = refused(json!({ "record": "0100" }));
    assert_eq!((error, message.contains("wrong length")), (code::REFUSED, true));
    assert_eq!(data["code"], json!(Code::Length as u8));
    assert_eq!(data.get("id"), None);

    for params in [
        json!({}),
        json!({ "record": "xyz" }),
        json!({ "record": 5 }),
        json!({ "record": "00", "encoding": "hex16" }),
        json!({ "record": "00", "hurry": true }),
    ] {
        assert_eq!(refused(params.clone()).0, code::INVALID_PARAMS, "{params}");
    }
}

#[test]
fn accounts_and_transactions_are_found_on_their_core() {
    let node = FakeNode::willing();
    let address = account(0).address();
    let found = call(node.address(), "getAccount", json!({ "address": address.to_string() })).unwrap();
    assert_eq!(found["balance"], json!(u64::MAX.to_string()));
    assert_eq!((&found["sequence"], &found["pendingSequence"]), (&json!(3), &json!(4)));
    assert_eq!((&found["table"], &found["unitHeight"]), (&json!(home()), &json!(9)));
    for index in 1..20 {
        let params = json!({ "address": account(index).address().to_string() });
        assert_eq!(call(node.address(), "getAccount", params), Ok(Value::Null));
    }
    let error = call(node.address(), "getAccount", json!({ "address": "top1abc" })).unwrap_err();
    assert_eq!(error.0, code::INVALID_PARAMS);

    let id = block(home()).id(0).to_string();
    let found = call(node.address(), "getTransaction", json!({ "id": id })).unwrap();
    assert_eq!((&found["id"], &found["status"]), (&json!(id), &json!("committed")));
    assert_eq!(found["sender"], json!(address.to_string()));
    assert_eq!(found["payees"][0]["amount"], json!((1u64 << 60).to_string()));
    assert_eq!(found["record"], json!(hex_record(2)));
    let unknown = json!({ "id": "0".repeat(64) });
    assert_eq!(call(node.address(), "getTransaction", unknown), Ok(Value::Null));
    assert_eq!(
        call(node.address(), "getTransaction", json!({ "id": "12" })).unwrap_err().0,
        code::INVALID_PARAMS
    );
}

#[test]
fn what_the_cores_have_forgotten_comes_from_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let config = IndexConfig { path: folder.path().join("index"), retain_bytes: u64::MAX };
    let old = block_at(home(), 3);
    let (index, mut feeds) = Index::start(config.clone(), 1).unwrap();
    feeds[0].push(*executed(old.clone())).unwrap();
    drop(feeds);
    index.join();
    let (index, _feeds) = Index::start(config, 1).unwrap();
    let reader = Some(index.reader().clone());
    let node = FakeNode::with_index(Mood::Willing, 64, RpcOptions::default(), reader);
    let get = |params| call(node.address(), "getBlock", params).unwrap();
    let by_height = get(json!({ "table": home(), "height": 3 }));
    assert_eq!(by_height["hash"], json!(old.hash().to_string()));
    assert_eq!(by_height["transactions"][1]["reason"], json!(Code::Overdraft.to_string()));
    assert_eq!(get(json!({ "hash": old.hash().to_string() })), by_height);
    let transaction = |id: String| call(node.address(), "getTransaction", json!({ "id": id })).unwrap();
    let found = transaction(old.id(2).to_string());
    assert_eq!(
        (&found["status"], &found["height"], &found["index"]),
        (&json!("committed"), &json!(3), &json!(2))
    );
    assert_eq!(found["record"], json!(hex::encode(old.transaction_bytes(2))));
    // What the cores know comes from them, and what nobody knows is null.
    assert_eq!(get(json!({ "table": home(), "height": HEIGHT }))["height"], json!(HEIGHT));
    assert_eq!(get(json!({ "table": home(), "height": 4 })), Value::Null);
    assert_eq!(transaction("77".repeat(32)), Value::Null);
}

#[test]
fn blocks_are_found_by_height_and_hash() {
    let node = FakeNode::willing();
    let get = |params| call(node.address(), "getBlock", params);
    for table in 0..TABLES {
        let by_height = get(json!({ "table": table, "height": HEIGHT })).unwrap();
        let hash = block(table).hash().to_string();
        assert_eq!((&by_height["hash"], &by_height["table"]), (&json!(hash), &json!(table)));
        assert_eq!(get(json!({ "hash": hash })).unwrap(), by_height);
        assert_eq!(call(node.address(), "getLatestBlock", json!({ "table": table })).unwrap(), by_height);
        let alias = call(node.address(), "getBlockByHeight", json!({ "table": table, "height": HEIGHT }));
        assert_eq!(alias.unwrap(), by_height);
        let status = |index: usize| by_height["transactions"][index]["status"].clone();
        assert_eq!(
            [status(0), status(1), status(2)],
            [json!("committed"), json!("failed"), json!("committed")]
        );
        assert_eq!(by_height["certificate"]["signers"], json!([0, 1, 3]));
    }
    let bytes = get(json!({ "table": 0, "height": HEIGHT, "bytes": true })).unwrap()["bytes"].take();
    let bytes = hex::decode(bytes.as_str().unwrap()).unwrap();
    assert_eq!(Block::parse(bytes.into()).unwrap().hash(), block(0).hash());

    assert_eq!(get(json!({ "table": 0, "height": 99 })), Ok(Value::Null));
    assert_eq!(get(json!({ "hash": "0".repeat(64) })), Ok(Value::Null));
    for params in [
        json!({}),
        json!({ "table": 0 }),
        json!({ "table": 0, "height": 0 }),
        json!({ "table": TABLES, "height": 1 }),
        json!({ "table": 0, "height": 1, "hash": "0".repeat(64) }),
        json!({ "table": -1, "height": 1 }),
    ] {
        assert_eq!(get(params.clone()).unwrap_err().0, code::INVALID_PARAMS, "{params}");
    }
    let table = call(node.address(), "getLatestBlock", json!({ "table": TABLES })).unwrap_err();
    assert!(table.1.contains("tables 0 to 3"), "{}", table.1);
}

#[test]
fn a_proof_convinces_whoever_knows_the_committee() {
    fn verify(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        let key = ed25519_dalek::VerifyingKey::from_bytes(key).unwrap();
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
    let node = FakeNode::willing();
    let get =
        |index| call(node.address(), "getProof", json!({ "address": account(index).address().to_string() }));
    let answer = get(0).unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();

    let certificate = bytes(&answer["certificate"]["bytes"]);
    let certificate = Certificate::decode(&mut Reader::new(&certificate)).unwrap();
    certificate.check(genesis().committee(), &verify).unwrap();
    let checkpoint = bytes(&answer["checkpoint"]);
    let checkpoint = CheckpointPreimage::decode(&mut Reader::new(&checkpoint)).unwrap();
    assert_eq!(checkpoint.digest(), certificate.vote.digest);
    let proof = bytes(&answer["proof"]);
    let proof = AccountProof::decode(&mut Reader::new(&proof)).unwrap();
    assert!(proof.verify(&checkpoint));
    assert_eq!((proof.leaf.address, proof.leaf.balance), (account(0).address(), 77));

    assert_eq!(get(1).unwrap_err().0, code::PROOF_LATER);
    assert_eq!(get(2), Ok(Value::Null));
}

#[test]
fn the_node_tells_about_itself() {
    let node = FakeNode::willing();
    let chain = call(node.address(), "getChainInfo", json!({})).unwrap();
    assert_eq!((&chain["name"], &chain["tables"]), (&json!("test"), &json!(TABLES)));
    assert_eq!(chain["chain"], json!(genesis().chain().to_string()));
    assert_eq!(chain["validators"][3]["key"], json!(validator(3).address().to_string()));

    let status = call(node.address(), "getStatus", json!({})).unwrap();
    assert_eq!(call(node.address(), "queryNodeInfo", json!({})).unwrap()["tables"], status["tables"]);
    assert_eq!(status["validator"]["name"], json!("v2"));
    let tables: Vec<u64> =
        status["tables"].as_array().unwrap().iter().map(|t| t["table"].as_u64().unwrap()).collect();
    assert_eq!(tables, [0, 1, 2, 3], "merged from both cores");
    let peers = status["peers"].as_array().unwrap();
    assert_eq!(peers.iter().map(|p| &p["index"]).collect::<Vec<_>>(), [&json!(0), &json!(1), &json!(3)]);
    assert_eq!((&peers[0]["lanesConnected"], &peers[0]["lanes"]), (&json!(2), &json!(2)));
    assert_eq!(status["cores"][1]["busyShare"], json!(0.25));
    assert_eq!(call(node.address(), "getStatus", json!({ "x": 1 })).unwrap_err().0, code::INVALID_PARAMS);

    let metrics = call(node.address(), "getMetrics", json!({})).unwrap();
    let metrics: NodeMetrics = serde_json::from_value(metrics).unwrap();
    assert_eq!(metrics.metrics.value("frames_total"), 42);
    assert_eq!(metrics.metrics.stages.get(Stage::Commit).len(), 20);
    assert!(metrics.process.resident_bytes > 0);

    let text = get(node.address(), "/metrics");
    assert_eq!(text.status, 200);
    assert!(text.head.contains("content-type: text/plain; version=0.0.4"), "{}", text.head);
    assert!(text.body.contains("\ntopio_frames_total 42\n"), "{}", text.body);
    let health = get(node.address(), "/healthz");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
}

#[test]
fn batches_are_answered_in_order() {
    let node = FakeNode::willing();
    let request = |id: Value, method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let batch = json!([
        request(json!(1), "getLatestBlock", json!({ "table": 1 })),
        request(json!("two"), "sendTransaction", json!({ "record": hex_record(2), "wait": true })),
        { "jsonrpc": "2.0", "method": "getChainInfo" },
        request(json!(3), "noSuchMethod", json!({})),
        5,
        request(json!(4), "sendTransaction", json!({ "record": hex_record(REFUSED_FEE) })),
    ]);
    let answer = post(node.address(), &batch.to_string());
    assert_eq!(answer.status, 200);
    let answers = answer.json();
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|a| &a["id"]).collect();
    assert_eq!(ids, [&json!(1), &json!("two"), &json!(3), &Value::Null, &json!(4)]);
    assert_eq!(answers[0]["result"]["height"], json!(HEIGHT));
    assert_eq!(answers[1]["result"]["status"], json!("committed"));
    assert_eq!(answers[2]["error"]["code"], json!(code::METHOD_NOT_FOUND));
    assert_eq!(answers[3]["error"]["code"], json!(code::INVALID_REQUEST));
    assert_eq!(answers[4]["error"]["code"], json!(code::REFUSED));

    let notifications = json!([{ "jsonrpc": "2.0", "method": "getChainInfo" }]);
    let answer = post(node.address(), &notifications.to_string());
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    let answer = post(node.address(), &notifications[0].to_string());
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
}

#[test]
fn long_answers_to_a_batch_end_in_errors() {
    let http = HttpLimits { body_bytes: 8 << 20, ..HttpLimits::default() };
    let node = FakeNode::start(Mood::Willing, 64, RpcOptions { http, ..RpcOptions::default() });
    let request = json!({ "jsonrpc": "2.0", "id": "i".repeat(100_000), "method": "getChainInfo" });
    let answers = post(node.address(), &Value::from(vec![request; MAX_BATCH]).to_string()).json();
    let answers = answers.as_array().unwrap();
    let answered = answers.iter().take_while(|answer| answer["result"]["name"] == json!("test")).count();
    assert_eq!((answered, answers.len()), (MAX_RESPONSE / 101_000, MAX_BATCH));
    let refused = |answer: &Value| answer["error"]["code"] == json!(code::RESPONSE_TOO_LARGE);
    assert!(answers[answered..].iter().all(refused));
}
