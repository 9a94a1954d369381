//! Two browsers with made-up cameras call each other by way of the relay and by no other.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::server::{SECRET, Server};

const PAGE: &str = include_str!("page.html");
const WITHIN: Duration = Duration::from_secs(60);
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// What the two sides have told the test.
#[derive(Default)]
struct Told {
    signals: HashMap<String, Vec<String>>,
    done: HashMap<String, serde_json::Value>,
    pictures: HashMap<String, Vec<u8>>,
    failed: Option<String>,
}

/// The page, the credentials, and the mailbox between the sides.
struct Office {
    address: SocketAddr,
    told: Arc<Mutex<Told>>,
}

impl Office {
    fn open(turn: serde_json::Value) -> Office {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::<Mutex<Told>>::default();
        let shared = Arc::clone(&told);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, turn) = (Arc::clone(&shared), turn.clone());
                thread::spawn(move || answer(stream, &shared, &turn));
            }
        });
        Office { address, told }
    }
}

/// One request of a connection; a browser that goes away is no error.
fn answer(stream: TcpStream, told: &Mutex<Told>, turn: &serde_json::Value) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut parts = line.split_whitespace();
    let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (kind, text) = respond(&method, &path, body, &mut told.lock().unwrap(), turn);
    let mut stream = stream;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(text.as_bytes()).ok()
}

fn respond(
    method: &str,
    path: &str,
    body: Vec<u8>,
    told: &mut Told,
    turn: &serde_json::Value,
) -> (&'static str, String) {
    let text = || String::from_utf8_lossy(&body).into_owned();
    let empty = ("text/plain", String::new());
    match (method, path.trim_start_matches('/').split_once('/')) {
        ("GET", None) if path == "/" => ("text/html", PAGE.into()),
        ("GET", None) if path == "/turn.json" => ("application/json", turn.to_string()),
        ("GET", Some(("signal", role))) => {
            let waiting = told.signals.remove(role).unwrap_or_default();
            ("application/json", serde_json::to_string(&waiting).unwrap())
        }
        ("POST", Some(("signal", role))) => {
            told.signals.entry(role.into()).or_default().push(text());
            empty
        }
        ("POST", Some(("picture", role))) => {
            told.pictures.insert(role.into(), body);
            empty
        }
        ("POST", Some(("done", role))) => {
            told.done.insert(role.into(), serde_json::from_slice(&body).unwrap());
            empty
        }
        ("POST", Some(("failed", role))) => {
            told.failed = Some(format!("{role}: {}", text()));
            empty
        }
        _ => empty,
    }
}

struct Browser(Child);

impl Browser {
    fn open(program: &str, profile: &Path, url: &str) -> Browser {
        let child = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--mute-audio"])
            .args(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"])
            .args(["--allow-loopback-in-peer-connection", "--autoplay-policy=no-user-gesture-required"])
            .args([
                "--disable-background-timer-throttling",
                "--disable-dev-shm-usage",
                "--disable-extensions",
            ])
            .args(["--disable-background-networking", "--disable-component-update"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Browser(child)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn browser() -> &'static str {
    let found = BROWSERS.into_iter().find(|name| {
        Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    });
    found.expect("chromium of the Debian package chromium")
}

fn credentials() -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_topio"))
        .args(["turn", "credentials", "--secret", SECRET, "--name", "caller", "--json"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Pictures of the calls stay here: `target/turn/`.
fn pictures() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("turn");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn call(server: &Server, transport: &str) {
    let credentials = credentials();
    let turn = serde_json::json!({
        "urls": format!("turn:{}?transport={transport}", server.address),
        "username": credentials["username"],
        "credential": credentials["password"],
    });
    let office = Office::open(turn);
    let profiles = tempfile::tempdir().unwrap();
    let program = browser();
    let browsers = ["b", "a"].map(|role| {
        Browser::open(program, &profiles.path().join(role), &format!("http://{}/#{role}", office.address))
    });
    let start = Instant::now();
    loop {
        thread::sleep(Duration::from_millis(200));
        let told = office.told.lock().unwrap();
        assert_eq!(told.failed, None);
        if told.done.len() == 2 {
            break;
        }
        assert!(start.elapsed() < WITHIN, "no call within {WITHIN:?}: {:?}", told.done);
    }
    drop(browsers);
    let told = office.told.lock().unwrap();
    for (role, seen) in &told.done {
        println!("{transport} {role}: {seen}");
        assert!(seen["framesDecoded"].as_u64().unwrap() >= 60);
        assert_eq!((&seen["local"], &seen["remote"]), (&"relay".into(), &"relay".into()));
        let picture = &told.pictures[role];
        assert!(picture.starts_with(b"\x89PNG"), "a picture of the other side");
        let file = pictures().join(format!("call-{transport}-{role}.png"));
        fs::write(&file, picture).unwrap();
        println!("{}", file.display());
    }
}

#[test]
fn two_browsers_see_each_other_through_the_relay() {
    let server = Server::start(false, 2);
    for transport in ["udp", "tcp"] {
        call(&server, transport);
    }
    assert!(server.metric("relay_turn_packets_total", "to clients") > 200);
    assert_eq!(server.metric("relay_turn_drops_total", "malformed"), 0);
}
