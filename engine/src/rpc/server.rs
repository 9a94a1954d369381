//! The HTTP side: one thread, one tokio executor, hyper's HTTP/1.1.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::{LocalSet, spawn_local},
    time::{sleep, timeout},
};

use super::{chain_info::ChainInfo, gateway::Gateway, service::Service};
use crate::{config::NodeConfig, index, metrics::prometheus};

/// Bytes of a request's head, and its number of headers, at most.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// What clients can hold, at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpLimits {
    /// Connections. Further ones wait to be accepted.
    pub connections: usize,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Time for a request's head, counted from the last answer or the connection's start: the longest idle time, too.
    pub head_timeout: Duration,
    /// Time for a request's body.
    pub body_timeout: Duration,
    /// A connection serves no request that begins later, and the kernel closes one whose client does not read.
    pub connection_lifetime: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        HttpLimits {
            connections: 128,
            body_bytes: 1 << 20,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            connection_lifetime: Duration::from_secs(600),
        }
    }
}

/// Limits of the RPC thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RpcOptions {
    /// What clients can hold.
    pub http: HttpLimits,
    /// A question that a core has not answered by then fails.
    pub reply_timeout: Duration,
    /// `sendTransaction` with `wait` gives up by then.
    pub wait_timeout: Duration,
}

impl From<&NodeConfig> for RpcOptions {
    fn from(config: &NodeConfig) -> Self {
        let (limits, timeouts) = (&config.limits, &config.timeouts);
        let http = HttpLimits {
            connections: limits.rpc_connections as usize,
            body_bytes: limits.rpc_body_bytes as usize,
            ..HttpLimits::default()
        };
        RpcOptions { http, reply_timeout: timeouts.rpc_reply, wait_timeout: timeouts.rpc_wait }
    }
}

impl Default for RpcOptions {
    fn default() -> Self {
        let (reply_timeout, wait_timeout) = (Duration::from_secs(5), Duration::from_secs(30));
        RpcOptions { http: HttpLimits::default(), reply_timeout, wait_timeout }
    }
}

/// Why the RPC thread does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another process listens there.
    #[error("the RPC address {0} is in use: stop the program that listens there, or set another listen.rpc")]
    InUse(SocketAddr),
    /// The operating system refused.
    #[error("the RPC address {address} can't be listened on: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The refusal.
        source: io::Error,
    },
    /// No thread, or no executor on it.
    #[error("the RPC thread can't be started: {0}")]
    Thread(io::Error),
}

/// The running RPC thread. Dropping it stops the thread and closes all connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address` and starts the thread. `index` knows what the cores have forgotten.
    ///
    /// # Errors
    /// The address is in use or not ours, or there is no thread to be had.
    pub fn start(
        address: SocketAddr,
        options: RpcOptions,
        chain: ChainInfo,
        gateway: Gateway,
        index: Option<index::Reader>,
    ) -> Result<Server, ServerError> {
        let listener = std::net::TcpListener::bind(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServerError::InUse(address),
            _ => ServerError::Listen { address, source },
        })?;
        let address = listener.local_addr().map_err(ServerError::Thread)?;
        listener.set_nonblocking(true).map_err(ServerError::Thread)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServerError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("rpc".into()).spawn(move || {
            let service = Service::new(gateway, chain, index, options.reply_timeout, options.wait_timeout);
            let serve = async {
                let listener = TcpListener::from_std(listener).expect("registers with this executor");
                tokio::select! {
                    () = accept(listener, Rc::new(service), options) => {}
                    _ = stopped => {}
                }
            };
            // Leaving drops the local set, and with it all connections.
            LocalSet::new().block_on(&runtime, serve);
        });
        let thread = Some(thread.map_err(ServerError::Thread)?);
        Ok(Server { address, stop: Some(stop), thread })
    }

    /// Where it listens; the port is the real one where the configuration had 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A thread that has ended already no longer listens to this.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, service: Rc<Service>, options: RpcOptions) {
    let places = Arc::new(Semaphore::new(options.http.connections));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => drop(spawn_local(serve(stream, service.clone(), options, place))),
            // Out of descriptors or memory, or the client is gone already: neither is cured by haste.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(stream: TcpStream, service: Rc<Service>, options: RpcOptions, _place: OwnedSemaphorePermit) {
    let limits = options.http;
    // Both only improve matters: one latency, the other how soon a client that does not read is noticed.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(limits.body_timeout));
    let handler = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(route(request, &service, limits).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), handler);
    let mut connection = pin!(connection);
    // How a connection ends is the client's affair.
    if timeout(limits.connection_lifetime, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let longest_request = limits.body_timeout + options.wait_timeout.max(options.reply_timeout);
        let _ = timeout(longest_request, connection).await;
    }
}

type HttpResponse = Response<Full<Bytes>>;

async fn route(request: Request<Incoming>, service: &Service, limits: HttpLimits) -> HttpResponse {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/") => post(request, service, limits).await,
        (&Method::GET, "/healthz") => match service.health().await {
            Ok(()) => plain(StatusCode::OK, "ok"),
            Err(fault) => plain(StatusCode::SERVICE_UNAVAILABLE, &fault),
        },
        (&Method::GET, "/metrics") => match service.metrics().await {
            Ok(metrics) => response(StatusCode::OK, prometheus::CONTENT_TYPE, metrics.to_prometheus().into()),
            Err(error) => plain(StatusCode::SERVICE_UNAVAILABLE, &error.message),
        },
        (_, "/" | "/healthz" | "/metrics") => plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "POST / takes JSON-RPC 2.0; GET /healthz and GET /metrics take nothing",
        ),
        _ => plain(StatusCode::NOT_FOUND, "there are only /, /healthz and /metrics"),
    }
}

async fn post(request: Request<Incoming>, service: &Service, limits: HttpLimits) -> HttpResponse {
    let body = Limited::new(request.into_body(), limits.body_bytes).collect();
    let body = match timeout(limits.body_timeout, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let text = format!("the body is too large: send at most {} bytes", limits.body_bytes);
            return closing(plain(StatusCode::PAYLOAD_TOO_LARGE, &text));
        }
        Ok(Err(_)) => return closing(plain(StatusCode::BAD_REQUEST, "the body is malformed or cut short")),
        Err(_) => {
            return closing(plain(StatusCode::REQUEST_TIMEOUT, "the body took too long"));
        }
    };
    let reply = service.post(&body).await;
    let status = StatusCode::from_u16(reply.status).expect("the service knows HTTP");
    response(status, "application/json", reply.body.into())
}

fn plain(status: StatusCode, text: &str) -> HttpResponse {
    response(status, "text/plain; charset=utf-8", format!("{text}\n").into())
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> HttpResponse {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The rest of the body is not read, so the connection is of no more use.
fn closing(mut response: HttpResponse) -> HttpResponse {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
