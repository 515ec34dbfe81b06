//! What the gateway adds: CPU time a request beside a forwarder that checks nothing.
//!
//! Both are processes of their own in front of the same stand-in for DCAMS, measured in turn, round
//! by round, by the CPU time of all their threads. Ratios of medians are what to read; the machine's
//! own speed cancels out. `cargo bench --bench overhead`

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first surprise and prints its result"
)]

use std::{
    convert::Infallible,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use dcams_gateway::specimen;
use http::{Request, Response, Uri, header::CONTENT_LENGTH};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const ROUNDS: usize = 9;
const PATH: &str = "/v3/stable/api/storage";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments[..] {
        ["upstream"] => runtime.block_on(serve(None)),
        ["forwarder", upstream] => runtime.block_on(serve(Some(upstream.parse().unwrap()))),
        // cargo adds `--bench`; a word before it picks the sizes that begin with it.
        _ => runtime.block_on(compare(arguments.first().filter(|a| **a != "--bench"))),
    }
}

async fn compare(only: Option<&&str>) {
    dcams_gateway::auth::install_crypto();
    let (_upstream, address) = spawn_role(&["upstream"]);
    let url = format!("http://{address}{PATH}");
    let (forwarder, bare) = spawn_role(&["forwarder", &url]);
    let folder = tempfile::tempdir().unwrap();
    let (gateway, full) = spawn_gateway(folder.path(), &url);
    let token = mint(folder.path());

    for (name, body, connections, requests) in [
        ("300 B, getStatus", small(), 64, 40_000_u32),
        ("8 MiB, createOrUpdateCustomer", large(8 << 20), 4, 240),
    ] {
        if only.is_some_and(|only| !name.starts_with(only)) {
            continue;
        }
        let message = request(&token, &body);
        let mut per_request: [Vec<f64>; 2] = Default::default();
        for round in 0..=ROUNDS {
            for (side, (process, target)) in [(&forwarder, bare), (&gateway, full)]
                .into_iter()
                .enumerate()
            {
                let before = cpu(process.id());
                load(target, &message, connections, requests / connections).await;
                let spent = cpu(process.id()).saturating_sub(before);
                if round > 0 {
                    // The first round warms up.
                    per_request[side].push(spent.as_secs_f64() * 1e6 / f64::from(requests));
                }
            }
        }
        let [bare, full] = per_request.map(median);
        println!(
            "{name}: forwarder {bare:.1} us, gateway {full:.1} us, ratio {:.2}",
            full / bare
        );
    }
    for mut process in [forwarder, gateway] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// CPU time of all threads of a process so far.
fn cpu(process: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("a running process");
    let nanoseconds = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanoseconds)
}

struct Process(Child);

impl Process {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn kill(&mut self) -> std::io::Result<()> {
        self.0.kill()
    }

    fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.0.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn spawn_role(arguments: &[&str]) -> (Process, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (Process(child), line.trim().parse().unwrap())
}

fn spawn_gateway(folder: &Path, upstream: &str) -> (Process, SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (name, content) in [
        ("gateway.toml", include_str!("../config/demo.toml")),
        ("user", "bench-user"),
        ("pass", "bench-password-of-some-length"),
        ("state.key", &BASE64_STANDARD.encode(KEYS[0])),
        ("audit.key", &BASE64_STANDARD.encode(KEYS[1])),
        ("issuer.key", &"k".repeat(32)),
    ] {
        fs::write(folder.join(name), content).unwrap();
    }
    let child = gateway("serve", folder)
        .env("DCAMS_GATEWAY__SERVER__LISTEN", free.to_string())
        .env("DCAMS_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0")
        .env("DCAMS_GATEWAY__UPSTREAM__URL", upstream)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while std::net::TcpStream::connect(free).is_err() {
        std::thread::yield_now();
    }
    (Process(child), free)
}

fn gateway(command: &str, folder: &Path) -> Command {
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_dcams-gateway"));
    gateway
        .args([command, "--config"])
        .arg(folder.join("gateway.toml"));
    gateway
}

fn mint(folder: &Path) -> String {
    let output = gateway("token", folder)
        .args(["--issuer", "demo-idp", "--tenant", "demo", "--ttl", "1h"])
        .args([
            "--scope",
            "dcams:customers:write",
            "--scope",
            "dcams:status:read",
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn small() -> Vec<u8> {
    let body = br#"{"service":"getStatus","target":{"email":"jane.specimen@example.com"}}"#;
    // White space is what a 300-byte lookup has to spare.
    let mut body = body.to_vec();
    body.resize(300, b' ');
    body
}

fn large(size: usize) -> Vec<u8> {
    let image = BASE64_STANDARD.encode(padded(size * 3 / 8 - 600));
    format!(
        r#"{{"service":"createOrUpdateCustomer","reference":"r-1","target":{{"email":"jane.specimen@example.com","fn":"Jane","ln":"Specimen","addr":"1 Sample Street","city":"Anytown","state":"CT","zip":"06614","dob":"19700101","phone":"2015106000","documents":{{"front":"{image}","back":"{image}"}}}}}}"#
    )
    .into_bytes()
}

/// The specimen, made `size` bytes long by comment segments after its first marker.
fn padded(size: usize) -> Vec<u8> {
    let specimen = specimen::jpeg(specimen::Side::Front);
    let mut image = specimen[..2].to_vec();
    let mut missing = size.saturating_sub(specimen.len());
    while missing > 4 {
        let length = missing.min(65_537) - 2;
        image.extend([0xFF, 0xFE]);
        image.extend(u16::try_from(length).unwrap().to_be_bytes());
        image.extend((0..length - 2).map(|at| u8::try_from(at * 7 % 251).unwrap()));
        missing -= length + 2;
    }
    image.extend(&specimen[2..]);
    image
}

fn request(token: &str, body: &[u8]) -> Bytes {
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: gateway.example\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat().into()
}

async fn load(target: SocketAddr, message: &Bytes, connections: u32, each: u32) {
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let message = message.clone();
        clients.spawn(async move {
            let mut stream = TcpStream::connect(target).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut buffer = Vec::with_capacity(4096);
            for _ in 0..each {
                stream.write_all(&message).await.unwrap();
                answer(&mut stream, &mut buffer).await;
            }
        });
    }
    clients.join_all().await;
}

async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    buffer.clear();
    loop {
        assert_ne!(
            stream.read_buf(buffer).await.unwrap(),
            0,
            "closed before an answer"
        );
        let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end])
            .unwrap()
            .to_ascii_lowercase();
        assert!(
            head.starts_with("http/1.1 200"),
            "{}",
            String::from_utf8_lossy(buffer)
        );
        let at = head.find("content-length: ").unwrap() + 16;
        let length: usize = head[at..].lines().next().unwrap().parse().unwrap();
        while buffer.len() < end + 4 + length {
            assert_ne!(stream.read_buf(buffer).await.unwrap(), 0, "cut off");
        }
        return;
    }
}

/// A server that reads a body and answers (`forward` is none), or passes it on as it comes.
async fn serve(forward: Option<Uri>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(connector);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (client, forward) = (client.clone(), forward.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let (client, forward) = (client.clone(), forward.clone());
                async move {
                    Ok::<_, Infallible>(match forward {
                        Some(uri) => pass_on(&client, uri, request).await,
                        None => stand_in(request).await,
                    })
                }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            drop(
                connection
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

type Answer = Response<http_body_util::combinators::BoxBody<Bytes, hyper::Error>>;

/// What the stand-in answers to everything.
const BODY: &str = r#"{"result":"Success","reference":"r-1","status":"PASS","type":"updateCustomer","target":{"fn":"Jane","ln":"Specimen","addr":"1 Sample Street","city":"Anytown","state":"CT","zip":"06614","dob":"19700101","email":"jane.specimen@example.com","phone":"2015106000"}}"#;

async fn stand_in(request: Request<Incoming>) -> Answer {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        drop(frame.unwrap());
    }
    let body = Full::new(Bytes::from_static(BODY.as_bytes())).map_err(|never| match never {});
    Response::builder()
        .header("content-type", "application/json")
        .body(body.boxed())
        .unwrap()
}

async fn pass_on(
    client: &Client<HttpConnector, Incoming>,
    uri: Uri,
    request: Request<Incoming>,
) -> Answer {
    let length = request.headers()[CONTENT_LENGTH].clone();
    let forwarded = Request::post(uri)
        .header("content-type", "application/json")
        .header(CONTENT_LENGTH, length)
        .body(request.into_body())
        .unwrap();
    client.request(forwarded).await.unwrap().map(BodyExt::boxed)
}

/// Two keys of 32 bytes, for `state.key` and `audit.key`.
const KEYS: [&[u8; 32]; 2] = [
    b"0123456789abcdefghijklmnopqrstuv",
    b"vutsrqponmlkjihgfedcba9876543210",
];
