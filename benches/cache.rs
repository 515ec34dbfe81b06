//! What a status that is kept takes to be told, beside the gateway's own 401, the least that it answers
//! anybody; and what a million of them take of memory, beside the bound that is configured.
//!
//! The gateway is a process of its own, asked over one connection, each kind of request in turn, so that
//! the machine's own speed cancels out. The million are in this process. `cargo bench --bench cache`

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
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use dcams_gateway::{
    auth::install_crypto,
    caching::{CacheSettings, UntoldWrites},
    clock,
    credential::Credential,
    ident::{AccountId, PseudonymKey, TenantId},
    operation::Operation,
    simulator::{Login, STORAGE_PATH, Simulator, SimulatorHandle, SimulatorSettings},
    status::{Found, StatusCache},
    store::Store,
    tenant::Disclosure,
    upstream::{
        answer::Answer,
        client::{UpstreamClient, UpstreamSettings},
        seal::seal_probe,
        verdict::interpret,
    },
};
use mimalloc::MiMalloc;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

// As in the gateway.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const ROUNDS: usize = 40;
/// How often each kind is asked for in a round.
const EACH: usize = 500;
const EMAIL: &str = "jane.specimen@example.com";

fn main() {
    install_crypto();
    let runtime = Runtime::new().unwrap();
    let simulator = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = SimulatorSettings {
            accepted: vec![Login::new("bench-user", PASS)],
            ..SimulatorSettings::default()
        };
        Simulator::start(listener, settings, CancellationToken::new()).unwrap()
    });
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path(), &simulator.url());
    let token = mint(folder.path());

    let mut line = Line::open(gateway.address);
    line.ask(&request(&token, CREATION), "200", "");
    let read = format!(r#"{{"service":"getStatus","target":{{"email":"{EMAIL}"}}}}"#);
    // The same but for its last character but one, so that the signature is wrong.
    let (start, end) = token.split_at(token.len() - 2);
    let changed = if end.starts_with('A') { 'B' } else { 'A' };
    let bad = format!("{start}{changed}{}", &end[1..]);
    let bare = request(&token, &read);
    let bare = bare.split_inclusive("\r\n");
    let bare: String = bare.filter(|l| !l.starts_with("Authorization")).collect();
    let kinds = [
        ("401, no token", bare, "401", "missing_token"),
        (
            "401, bad token",
            request(&bad, &read),
            "401",
            "invalid_token",
        ),
        ("hit", request(&token, &read), "200", "; hit; "),
    ];
    line.ask(&kinds[2].1, "200", "");
    let quantiles = measure(&mut line, &kinds);
    let upstream = simulator.requests().len();
    for ((name, ..), [p50, p90]) in kinds.iter().zip(quantiles) {
        println!("{name}: p50 {p50:.1} us, p90 {p90:.1} us");
    }
    let [none, bad, hit] = quantiles;
    println!(
        "a hit beside a 401 without a token: p50 {:.2}, p90 {:.2}; beside one with a bad token: \
         p50 {:.2}, p90 {:.2}; {upstream} calls of DCAMS",
        hit[0] / none[0],
        hit[1] / none[1],
        hit[0] / bad[0],
        hit[1] / bad[1],
    );
    let answer = runtime.block_on(answer(&simulator));
    for max_bytes in [64 << 20, 640 << 20] {
        keep(&runtime, &answer, max_bytes);
    }
}

/// What DCAMS says of a customer.
async fn answer(simulator: &SimulatorHandle) -> Answer {
    let settings = UpstreamSettings {
        url: simulator.url().parse().unwrap(),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(30),
        max_response: 1 << 20,
        pool_max_idle: 1,
        pool_idle_timeout: Duration::from_secs(30),
        roots: Vec::new(),
    };
    let client = UpstreamClient::new(&settings).unwrap();
    let credential = Credential::new("bench-user".into(), PASS.into()).unwrap();
    let reply = client.send(&seal_probe(EMAIL), &credential).await.unwrap();
    let (operation, disclosure) = (Operation::GetStatus, Disclosure::Minimal);
    interpret(&reply, operation, disclosure, credential.echo()).unwrap()
}

const MANY: u64 = 1_000_000;

/// Keeps the statuses of a million customers, in as many bytes as these at most.
fn keep(runtime: &Runtime, answer: &Answer, max_bytes: u64) {
    let day = Duration::from_hours(24);
    let settings = CacheSettings {
        enabled: true,
        pass_ttl: day,
        fail_ttl: day,
        pending_ttl: day,
        not_found_ttl: day,
        jitter: 10,
        max_entries: MANY,
        max_bytes,
        full: false,
        stale_if_error: Duration::ZERO,
        stale_while_revalidate: Duration::ZERO,
        refresh_pending: false,
        shared: false,
        node_lag: Duration::from_secs(1),
        untold_writes: UntoldWrites::Forward,
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::embedded(folder.path(), KEYS[0]).unwrap();
    let pseudonyms = PseudonymKey::derive(KEYS[0]);
    let before = resident();
    let timeout = Duration::from_secs(30);
    let cache = StatusCache::new(&settings, &store, KEYS[0], pseudonyms, timeout);
    let tenant = TenantId::try_from("acme").unwrap();
    let statuses = cache.of(&tenant, &AccountId::try_from("main").unwrap());
    let begun = Instant::now();
    for number in 0..MANY {
        let customer = statuses.customer(&format!("customer.{number}@example.com"));
        let reading = cache.read(&customer);
        let (seen, now) = (Disclosure::Minimal, clock::instant());
        let entry = cache.entry_of(&customer, answer, seen, now, &settings);
        assert!(runtime.block_on(reading.end(Some(&Found { entry, keep: true }), None)));
    }
    let took = begun.elapsed();
    // The first thing that it does.
    let tidying = cache.clone().keep_tidy();
    let tidied = async { tokio::time::timeout(Duration::from_secs(3), tidying).await };
    assert!(runtime.block_on(tidied).is_err());
    let (count, weight) = cache.size();
    let grown = resident().saturating_sub(before);
    println!(
        "{MANY} statuses, max_bytes {} MiB: {count} kept, {} MiB by its own count, resident memory \
         grew by {} MiB ({} bytes each); {} ns to keep one",
        max_bytes >> 20,
        weight >> 20,
        grown >> 20,
        grown / count.max(1),
        took.as_nanos() / u128::from(MANY),
    );
}

/// The memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A kind of request: its name, its bytes, the answer's status and words in it.
type Kind = (&'static str, String, &'static str, &'static str);

/// The median and the ninth decile of each kind, in microseconds.
fn measure(line: &mut Line, kinds: &[Kind; 3]) -> [[f64; 2]; 3] {
    let mut took: [Vec<Duration>; 3] = Default::default();
    for round in 0..=ROUNDS {
        for (kind, (_, request, status, sign)) in kinds.iter().enumerate() {
            for _ in 0..EACH {
                let begun = Instant::now();
                line.ask(request, status, sign);
                // The first round warms up.
                if round > 0 {
                    took[kind].push(begun.elapsed());
                }
            }
        }
    }
    took.map(|mut took| {
        took.sort_unstable();
        [50, 90].map(|share| took[took.len() * share / 100].as_secs_f64() * 1e6)
    })
}

const PASS: &str = "bench-password-of-some-length";
const CREATION: &str = r#"{"service":"createOrUpdateCustomer","reference":"r-1","target":{"email":"jane.specimen@example.com","fn":"Jane","ln":"Specimen","addr":"1 Sample Street","city":"Anytown","state":"CT","zip":"06614","dob":"19700101","phone":"2015550100"}}"#;

/// The gateway. Killed when it is dropped.
struct Gateway {
    process: Child,
    address: SocketAddr,
}

impl Gateway {
    fn start(folder: &Path, upstream: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        for (name, content) in [
            ("gateway.toml", include_str!("../config/demo.toml")),
            (
                "cache.toml",
                "[cache]\nenabled = true\npass_ttl = \"24h\"\n",
            ),
            ("user", "bench-user"),
            ("pass", PASS),
            ("state.key", &BASE64_STANDARD.encode(KEYS[0])),
            ("audit.key", &BASE64_STANDARD.encode(KEYS[1])),
            ("issuer.key", &"k".repeat(32)),
        ] {
            fs::write(folder.join(name), content).unwrap();
        }
        let process = command("serve", folder)
            .env("DCAMS_GATEWAY__SERVER__LISTEN", address.to_string())
            .env("DCAMS_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0")
            .env("DCAMS_GATEWAY__UPSTREAM__URL", upstream)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(address).is_err() {
            std::thread::yield_now();
        }
        Self { process, address }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn command(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dcams-gateway"));
    command.args([name, "--config"]);
    command.args(["gateway.toml", "cache.toml"].map(|name| folder.join(name)));
    command
}

fn mint(folder: &Path) -> String {
    let output = command("token", folder)
        .args(["--issuer", "demo-idp", "--tenant", "demo", "--ttl", "1h"])
        .args(["--scope", "dcams:customers:write"])
        .args(["--scope", "dcams:status:read"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn request(token: &str, body: &str) -> String {
    format!(
        "POST {STORAGE_PATH} HTTP/1.1\r\nHost: gateway.example\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A connection.
struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let buffer = vec![0; 64 * 1024];
        Self { stream, buffer }
    }

    /// Asks, and reads the whole answer, which has this status and these words in it.
    fn ask(&mut self, request: &str, status: &str, sign: &str) {
        self.stream.write_all(request.as_bytes()).unwrap();
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert_ne!(read, 0, "closed before an answer");
            filled += read;
            let text = std::str::from_utf8(&self.buffer[..filled]).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            let length: usize = length.expect("a length").parse().unwrap();
            if body.len() < length {
                continue;
            }
            assert!(
                text[9..].starts_with(status) && text.contains(sign),
                "{text}"
            );
            return;
        }
    }
}

/// Two keys of 32 bytes, for `state.key` and `audit.key`.
const KEYS: [&[u8; 32]; 2] = [
    b"0123456789abcdefghijklmnopqrstuv",
    b"vutsrqponmlkjihgfedcba9876543210",
];
