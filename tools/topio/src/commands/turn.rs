//! `topio turn`: the TURN server without a validator, and credentials for it.

use std::{
    fmt,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use engine::{
    metrics::CoreMetrics,
    process::Stop,
    relay::turn::{self, ServeError, TurnConfig, TurnMeters},
};
use serde::Serialize;

use crate::{
    exit::{Failure, Outcome},
    output::Format,
    signals::on_signal,
};

const SERVE: &str = "\
Examples:
  topio turn serve --config turn.toml
  topio turn serve --listen 203.0.113.7:3478 --relay 203.0.113.7 --secret \"$SECRET\"
  topio turn serve --listen 127.0.0.1:3478 --relay 127.0.0.1 --user alice:pw --allow-peers 127.0.0.0/8

engine/examples/turn.toml explains every line of the configuration. The server prints a line that begins with «ready» when its
ports are open. SIGINT and SIGTERM stop it.";

/// Subcommands of `topio turn`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a STUN and TURN server
    #[command(after_help = SERVE)]
    Serve(ServeArguments),
    /// Make time-limited credentials for a server's secret
    #[command(
        after_help = "Example:\n  topio turn credentials --secret \"$SECRET\" --name alice --valid 12h --json"
    )]
    Credentials(CredentialsArguments),
}

/// Arguments of `topio turn serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArguments {
    /// The server's configuration (TOML); instead of the options below
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "relay", "user", "secret", "ports", "allow_peers", "af_xdp"])]
    config: Option<PathBuf>,
    /// Where clients come, by UDP and TCP
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present = "config")]
    listen: Vec<SocketAddr>,
    /// This machine's address that peers see: one of IPv4, one of IPv6, or both
    #[arg(long, value_name = "ADDRESS", required_unless_present = "config")]
    relay: Vec<IpAddr>,
    /// A user and a password
    #[arg(long, value_name = "NAME:PASSWORD", value_parser = name_and_password)]
    user: Vec<(String, String)>,
    /// A secret of time-limited credentials
    #[arg(long, env = "TOPIO_TURN_SECRET", hide_env_values = true)]
    secret: Vec<String>,
    /// Ports of relayed addresses
    #[arg(long, value_name = "FIRST-LAST", default_value = "49152-65535")]
    ports: String,
    /// Networks that are reached though they are private or special
    #[arg(long, value_name = "NETWORK")]
    allow_peers: Vec<String>,
    /// Pass the kernel by on this interface (AF_XDP), where its driver and the privileges allow
    #[arg(long, value_name = "INTERFACE")]
    af_xdp: Option<String>,
    /// Threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    cores: u16,
    /// Keep each thread on its core
    #[arg(long)]
    pin: bool,
    /// Answer GET /metrics here
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
}

/// Arguments of `topio turn credentials`.
#[derive(Debug, clap::Args)]
pub struct CredentialsArguments {
    /// The server's secret
    #[arg(long, env = "TOPIO_TURN_SECRET", hide_env_values = true)]
    secret: String,
    /// Whose quota they count for
    #[arg(long)]
    name: String,
    /// How long they are good
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = humantime::parse_duration)]
    valid: Duration,
}

fn name_and_password(text: &str) -> Result<(String, String), String> {
    let (name, password) = text.split_once(':').ok_or("write NAME:PASSWORD")?;
    Ok((name.into(), password.into()))
}

/// Runs `topio turn`.
pub fn run(command: Command, format: Format) -> Outcome {
    match command {
        Command::Serve(arguments) => serve(&arguments),
        Command::Credentials(arguments) => format.print(&Credentials::make(&arguments)),
    }
}

#[derive(Serialize)]
struct Credentials {
    username: String,
    password: String,
    /// Seconds.
    ttl: u64,
}

impl Credentials {
    fn make(arguments: &CredentialsArguments) -> Credentials {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let username = format!("{}:{}", (now + arguments.valid).as_secs(), arguments.name);
        let password = turn::rest_password(&arguments.secret, &username);
        Credentials { username, password, ttl: arguments.valid.as_secs() }
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "username  {}", self.username)?;
        writeln!(f, "password  {}", self.password)?;
        write!(f, "good for  {}", humantime::format_duration(Duration::from_secs(self.ttl)))
    }
}

fn configuration(arguments: &ServeArguments) -> Result<TurnConfig, Failure> {
    if let Some(file) = &arguments.config {
        return TurnConfig::load(file).map_err(Failure::usage);
    }
    // The options are the file's keys, so that both are read, and refused, alike.
    let texts = |values: &mut dyn Iterator<Item = String>| {
        toml::Value::Array(values.map(toml::Value::String).collect())
    };
    let users =
        arguments.user.iter().map(|(name, password)| (name.clone(), toml::Value::String(password.clone())));
    let mut table = toml::Table::from_iter([
        ("listen".to_owned(), texts(&mut arguments.listen.iter().map(ToString::to_string))),
        ("relay".to_owned(), texts(&mut arguments.relay.iter().map(ToString::to_string))),
        ("users".to_owned(), toml::Value::Table(users.collect())),
        ("secrets".to_owned(), texts(&mut arguments.secret.iter().cloned())),
        ("ports".to_owned(), toml::Value::String(arguments.ports.clone())),
        ("allow_peers".to_owned(), texts(&mut arguments.allow_peers.iter().cloned())),
    ]);
    if let Some(interface) = &arguments.af_xdp {
        table.insert("io".to_owned(), "af_xdp".into());
        table.insert("interface".to_owned(), interface.clone().into());
    }
    TurnConfig::parse("options", &table.to_string()).map_err(Failure::usage)
}

fn serve(arguments: &ServeArguments) -> Outcome {
    let config = configuration(arguments)?;
    let stop = Stop::new();
    let signalled = stop.clone();
    on_signal(move || signalled.request())?;
    let meters = Arc::new(Mutex::new(TurnMeters::default()));
    if let Some(address) = arguments.metrics {
        serve_metrics(address, Arc::clone(&meters))?;
    }
    let listen = config.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let ready = move || eprintln!("ready: STUN and TURN on {listen}");
    let report = |all: &TurnMeters| meters.lock().unwrap_or_else(PoisonError::into_inner).clone_from(all);
    turn::serve(&config, arguments.cores, arguments.pin, &stop, ready, report).map_err(
        |error| match error {
            ServeError::Config(_) | ServeError::Listen(_) => Failure::usage(error),
            _ => Failure::failed(error),
        },
    )?;
    let meters = meters.lock().unwrap_or_else(PoisonError::into_inner);
    let (server, times) = (meters.server(), meters.in_node());
    eprintln!(
        "relayed {} datagrams to peers and {} to clients; in the node p50 {} µs, p99 {} µs",
        server.to_peers,
        server.to_clients,
        times.value_at_quantile(0.5) / 1000,
        times.value_at_quantile(0.99) / 1000
    );
    Ok(())
}

/// Most bytes of a request for the numbers that are read.
const MAX_REQUEST: u64 = 4096;
/// A client that is slower is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers GET /metrics, one request at a time, on a thread of its own.
fn serve_metrics(address: SocketAddr, meters: Arc<Mutex<TurnMeters>>) -> Outcome {
    let listener = TcpListener::bind(address)
        .map_err(|error| Failure::Usage(format!("can't listen on {address} for metrics: {error}")))?;
    let answer = move || {
        for stream in listener.incoming() {
            // Whoever goes away or is too slow gets nothing.
            let _ = stream.and_then(|stream| answer_one(stream, &meters));
        }
    };
    let started = std::thread::Builder::new().name("metrics".into()).spawn(answer);
    started.map(drop).map_err(|error| Failure::Failed(format!("no thread for metrics: {error}")))
}

fn answer_one(mut stream: std::net::TcpStream, meters: &Mutex<TurnMeters>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut chunk = [0; 512];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && (head.len() as u64) < MAX_REQUEST {
        match stream.read(&mut chunk)? {
            0 => break,
            read => head.extend_from_slice(&chunk[..read]),
        }
    }
    let (status, body) = if head.starts_with(b"GET /metrics ") {
        let mut metrics = CoreMetrics::default();
        meters.lock().unwrap_or_else(PoisonError::into_inner).report(&mut metrics);
        ("200 OK", metrics.to_prometheus())
    } else {
        ("404 Not Found", "GET /metrics\n".to_owned())
    };
    let content = engine::metrics::prometheus::CONTENT_TYPE;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {content}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
