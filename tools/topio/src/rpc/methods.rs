//! The methods that commands use.

use dag::Address;
use serde_json::json;

use super::{Account, Answered, Chain, Fate, Rpc, RpcError, Status, Transaction};

impl Rpc {
    /// The network that the node is of.
    ///
    /// # Errors
    /// See [`call`](Self::call), as for the following.
    pub fn chain(&self) -> Result<Chain, RpcError> {
        self.call("getChainInfo", &json!({}))
    }

    /// The node's state.
    pub fn status(&self) -> Result<Answered<Status>, RpcError> {
        self.call("getStatus", &json!({}))
    }

    /// Peers to which the node has all channels.
    pub fn connected_peers(&self) -> Result<usize, RpcError> {
        let status = self.status()?.view;
        Ok(status.peers.iter().filter(|peer| peer.is_connected()).count())
    }

    /// What the node measures about itself.
    pub fn metrics(&self) -> Result<engine::metrics::NodeMetrics, RpcError> {
        self.call("getMetrics", &json!({}))
    }

    /// An account; `None` where it has never been paid.
    pub fn account(&self, address: &Address) -> Result<Option<Answered<Account>>, RpcError> {
        self.call("getAccount", &json!({ "address": address.to_string() }))
    }

    /// A transaction; `None` where the node does not know it.
    pub fn transaction(&self, id: &str) -> Result<Option<Answered<Transaction>>, RpcError> {
        self.call("getTransaction", &json!({ "id": id }))
    }

    /// Submits a signed record. With `wait` the answer comes when it is executed and durable.
    pub fn send(&self, record: &[u8], wait: bool) -> Result<Answered<Fate>, RpcError> {
        self.call("sendTransaction", &json!({ "record": hex::encode(record), "wait": wait }))
    }
}
