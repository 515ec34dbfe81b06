//! What knowing the caller costs: a remembered token, a new one beside its bare signature check, the
//! time until a revoked token is refused, another tenant's customer beside an unknown one, and key
//! rotation under load.
//!
//! Everything is real and in one process, over loopback. `cargo bench --bench identity`, with words
//! before `--bench` for single parts: `-- revoke isolation`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::too_many_lines,
    reason = "a benchmark stops at the first surprise and prints its result"
)]

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use dcams_gateway::{
    app::{App, Edges},
    auth::{
        self, Authenticator,
        dpop::{DpopSettings, NonceKey, ProofChecker},
        revocation::RevocationList,
    },
    clock,
    config::Config,
    server,
    simulator::{Login, Simulator, SimulatorSettings},
};
use futures_util::FutureExt;
use http::{Method, Request, request::Parts};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const PATH: &str = "/v3/stable/api/storage";
const SECRET: &str = "a-secret-of-this-benchmark-of-64-bytes-or-more-0123456789-0123456";

/// Two tenants on one account, and a third issuer whose keys are published at a URL.
const CONFIG: &str = r#"
[state]
path = "state"
key = { file = "state.key" }
[audit]
key = { file = "audit.key" }
[[accounts]]
id = "main"
credentials = [{ id = "c1", user = { file = "user" }, pass = { file = "pass" } }]
[[issuers]]
id = "hs"
issuer = "https://hs.example/"
audiences = ["gateway"]
algorithms = ["HS256"]
secret = { file = "secret" }
tenants = ["a", "b"]
[[issuers]]
id = "es"
issuer = "https://es.example/"
audiences = ["gateway"]
algorithms = ["ES256"]
public_key = "es.pem"
tenants = ["a"]
[[issuers]]
id = "rs"
issuer = "https://rs.example/"
audiences = ["gateway"]
algorithms = ["RS256"]
public_key = "rs.pem"
tenants = ["a"]
[[issuers]]
id = "live"
issuer = "https://live.example/"
audiences = ["gateway"]
algorithms = ["ES256"]
jwks_url = "IDP"
tenants = ["a"]
[[tenants]]
id = "a"
account = "main"
isolation = "ledger"
services = ["createOrUpdateCustomer", "getStatus"]
[[tenants]]
id = "b"
account = "main"
isolation = "ledger"
services = ["createOrUpdateCustomer", "getStatus"]
[validation]
required = ["email"]
"#;

fn main() {
    auth::install_crypto();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| {
        let mut named = words.iter().filter(|word| *word != "--bench").peekable();
        named.peek().is_none() || named.any(|word| word == part)
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let keys = Keys::make();
    if wanted("token") {
        token(&keys);
    }
    if wanted("revoke") {
        runtime.block_on(revoke(&keys));
    }
    if wanted("isolation") {
        runtime.block_on(isolation(&keys));
    }
    if wanted("rotation") {
        runtime.block_on(rotation(&keys));
    }
    if wanted("kids") {
        runtime.block_on(kids(&keys));
    }
}

struct Keys {
    es: KeyPair,
    next: KeyPair,
    rs: KeyPair,
}

impl Keys {
    fn make() -> Self {
        Self {
            es: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            next: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            rs: KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
        }
    }

    fn signer(&self, algorithm: Algorithm) -> EncodingKey {
        match algorithm {
            Algorithm::HS256 => EncodingKey::from_secret(SECRET.as_bytes()),
            Algorithm::ES256 => ec(&self.es),
            _ => EncodingKey::from_rsa_pem(self.rs.serialize_pem().as_bytes()).unwrap(),
        }
    }
}

fn ec(pair: &KeyPair) -> EncodingKey {
    EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap()
}

fn jwk(pair: &KeyPair, kid: &str) -> Value {
    let key = DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()).unwrap();
    let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&key, None).unwrap()).unwrap();
    jwk["kid"] = kid.into();
    jwk
}

fn token_of(
    issuer: &str,
    tenant: &str,
    kid: Option<&str>,
    number: usize,
    key: &EncodingKey,
    algorithm: Algorithm,
) -> String {
    let now = clock::now().as_second();
    let claims = json!({
        "iss": format!("https://{issuer}.example/"), "aud": "gateway", "tenant": tenant,
        "sub": "subject-of-the-benchmark", "jti": format!("token-{number}"),
        "iat": now - 1, "exp": now + 3600, "scope": "dcams:status:read dcams:customers:write",
    });
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    encode(&header, &claims, key).unwrap()
}

/// A remembered token, and a new one beside nothing but its signature check.
fn token(keys: &Keys) {
    let folder = files(keys, "http://127.0.0.1:1/jwks");
    let parts = |token: &str| head(token);
    let authenticator = || {
        let config = load(folder.path(), "http://127.0.0.1:1");
        let proofs = DpopSettings {
            public_urls: Vec::new(),
            nonces: NonceKey::derive(&config.state.key),
        };
        let proofs = ProofChecker::new(proofs, clock::now());
        Authenticator::new(config.issuers, RevocationList::default(), proofs)
    };
    for (issuer, algorithm) in [
        ("hs", Algorithm::HS256),
        ("es", Algorithm::ES256),
        ("rs", Algorithm::RS256),
    ] {
        const TOKENS: usize = 4_000;
        let signer = keys.signer(algorithm);
        let public = match algorithm {
            Algorithm::HS256 => DecodingKey::from_secret(SECRET.as_bytes()),
            Algorithm::ES256 => {
                DecodingKey::from_ec_pem(keys.es.public_key_pem().as_bytes()).unwrap()
            }
            _ => DecodingKey::from_rsa_pem(keys.rs.public_key_pem().as_bytes()).unwrap(),
        };
        let tokens: Vec<String> = (0..TOKENS)
            .map(|number| token_of(issuer, "a", None, number, &signer, algorithm))
            .collect();
        let heads: Vec<Parts> = tokens.iter().map(|token| parts(token)).collect();
        let (mut bare, mut miss, mut hit) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..9 {
            let began = Instant::now();
            for token in &tokens {
                let (message, signature) = token.rsplit_once('.').unwrap();
                let good =
                    jsonwebtoken::crypto::verify(signature, message.as_bytes(), &public, algorithm);
                assert!(good.unwrap());
            }
            bare.push(per(began, TOKENS));
            let authenticator = authenticator();
            let now = clock::now();
            let began = Instant::now();
            for head in &heads {
                assert!(
                    authenticator
                        .authenticate(head, now)
                        .now_or_never()
                        .unwrap()
                        .is_ok()
                );
            }
            miss.push(per(began, TOKENS));
            let began = Instant::now();
            for head in &heads {
                assert!(
                    authenticator
                        .authenticate(head, now)
                        .now_or_never()
                        .unwrap()
                        .is_ok()
                );
            }
            hit.push(per(began, TOKENS));
        }
        let (bare, miss, hit) = (median(bare), median(miss), median(hit));
        println!(
            "token {algorithm:?}: remembered {hit:.2} us; new {miss:.2} us beside {bare:.2} us for the \
             signature alone, ratio {:.2}",
            miss / bare
        );
    }
}

/// Clients hammer with one token while it is revoked.
async fn revoke(keys: &Keys) {
    let (mut refused, mut acknowledged) = (Vec::new(), Vec::new());
    for round in 0..20 {
        let world = World::start(keys, "http://127.0.0.1:1/jwks").await;
        let signer = keys.signer(Algorithm::HS256);
        let token = token_of("hs", "a", None, round, &signer, Algorithm::HS256);
        let message = Arc::new(lookup(&token, "nobody@example.com"));
        let first = Arc::new(Mutex::new(None));
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let (message, first, stop) =
                (Arc::clone(&message), Arc::clone(&first), Arc::clone(&stop));
            let address = world.gateway;
            clients.spawn(async move {
                let mut stream = connect(address).await;
                while !stop.load(Relaxed) {
                    if exchange(&mut stream, &message).await.0 == 401 {
                        first.lock().unwrap().get_or_insert_with(Instant::now);
                        stop.store(true, Relaxed);
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let body = json!({ "issuer": "hs", "jti": format!("token-{round}") }).to_string();
        let request = format!(
            "POST /api/revocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut operator = connect(world.admin).await;
        let began = Instant::now();
        assert_eq!(exchange(&mut operator, request.as_bytes()).await.0, 201);
        acknowledged.push(began.elapsed().as_secs_f64() * 1e3);
        while clients.join_next().await.is_some() {}
        let first = first.lock().unwrap().unwrap();
        refused.push(first.duration_since(began).as_secs_f64() * 1e3);
    }
    println!(
        "revoke, 8 clients with one remembered token, 20 times: first refusal after {:.2} ms (longest \
         {:.2}), acknowledged after {:.2} ms (longest {:.2})",
        median(refused.clone()),
        longest(&refused),
        median(acknowledged.clone()),
        longest(&acknowledged),
    );
}

/// Another tenant's customer beside one that nobody has, by turns on one connection.
async fn isolation(keys: &Keys) {
    const SAMPLES: usize = 10_000;
    // As many of each, so that neither is the one that lies in a cache.
    const CUSTOMERS: usize = 100;
    let world = World::start(keys, "http://127.0.0.1:1/jwks").await;
    let signer = keys.signer(Algorithm::HS256);
    let token = |tenant: &str| token_of("hs", tenant, None, 1, &signer, Algorithm::HS256);
    let mut stream = connect(world.gateway).await;
    let create = |email: &str| {
        let body = json!({"service": "createOrUpdateCustomer", "target": {"email": email}});
        post(&token("a"), &body.to_string())
    };
    for number in 0..CUSTOMERS {
        let message = create(&format!("owned-{number:03}@example.com"));
        assert_eq!(exchange(&mut stream, &message).await.0, 200);
    }
    let sent = world.simulator.requests().len();
    let of = |kind: &str| -> Vec<Vec<u8>> {
        let token = token("b");
        (0..CUSTOMERS)
            .map(|number| lookup(&token, &format!("{kind}-{number:03}@example.com")))
            .collect()
    };
    let messages = [of("owned"), of("never")];
    let mut times: [Vec<f64>; 2] = Default::default();
    let mut bodies = Vec::new();
    for sample in 0..SAMPLES + 500 {
        // Which comes first changes too.
        for turn in 0..2 {
            let side = (sample + turn) % 2;
            let message = &messages[side][sample % CUSTOMERS];
            let began = Instant::now();
            let (status, body) = exchange(&mut stream, message).await;
            let took = began.elapsed().as_secs_f64() * 1e6;
            assert_eq!(status, 404);
            if sample >= 500 {
                times[side].push(took);
            } else {
                bodies.push(without_id(&body));
            }
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "the answers differ");
    assert_eq!(world.simulator.requests().len(), sent, "something was sent");
    let [foreign, unknown] = times.map(|mut all| {
        all.sort_by(f64::total_cmp);
        [all.len() / 2, all.len() * 9 / 10].map(|place| all[place])
    });
    println!(
        "isolation, {SAMPLES} each: another's customer {:.2} us, an unknown one {:.2} us (medians), \
         ratio {:.4}; 90th percentiles {:.2} and {:.2}; bodies equal, nothing sent",
        foreign[0],
        unknown[0],
        foreign[0] / unknown[0],
        foreign[1],
        unknown[1],
    );
}

/// 200 requests a second for 12 seconds; the issuer changes its key in the middle, from one request
/// to the next, and nobody was told.
async fn rotation(keys: &Keys) {
    let idp = Idp::start(json!({ "keys": [jwk(&keys.es, "old")] }));
    let world = World::start(keys, &idp.url).await;
    let (old, new) = (ec(&keys.es), ec(&keys.next));
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let rotated = Arc::new(AtomicBool::new(false));
    let mut requests = JoinSet::new();
    let mut slowest = Duration::ZERO;
    let (mut right, mut wrong) = (0, 0);
    for number in 0..2_400 {
        ticks.tick().await;
        if number == 1_200 {
            idp.publish(json!({ "keys": [jwk(&keys.next, "new")] }));
            rotated.store(true, Relaxed);
        }
        let (kid, key) = if rotated.load(Relaxed) {
            ("new", &new)
        } else {
            ("old", &old)
        };
        let token = token_of("live", "a", Some(kid), number, key, Algorithm::ES256);
        let address = world.gateway;
        requests.spawn(async move {
            let mut stream = connect(address).await;
            let began = Instant::now();
            let status = exchange(&mut stream, &lookup(&token, "nobody@example.com"))
                .await
                .0;
            (status, began.elapsed())
        });
        while let Some(done) = requests.try_join_next() {
            let (status, took) = done.unwrap();
            *(if status == 404 {
                &mut right
            } else {
                &mut wrong
            }) += 1;
            slowest = slowest.max(took);
        }
    }
    while let Some(done) = requests.join_next().await {
        let (status, took) = done.unwrap();
        *(if status == 404 {
            &mut right
        } else {
            &mut wrong
        }) += 1;
        slowest = slowest.max(took);
    }
    println!(
        "rotation at 200 requests a second: {right} right, {wrong} wrong answers, slowest {:.1} ms, \
         {} fetches",
        slowest.as_secs_f64() * 1e3,
        idp.fetches(),
    );
}

/// 10,000 requests, each with a `kid` of its own that nobody has published.
async fn kids(keys: &Keys) {
    let idp = Idp::start(json!({ "keys": [jwk(&keys.es, "old")] }));
    let world = World::start(keys, &idp.url).await;
    let key = ec(&keys.next);
    let good = token_of("live", "a", Some("old"), 0, &ec(&keys.es), Algorithm::ES256);
    let good = lookup(&good, "nobody@example.com");
    let mut stream = connect(world.gateway).await;
    while exchange(&mut stream, &good).await.0 != 404 {}
    let before = idp.fetches();
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let messages: Vec<Vec<u8>> = (0..1_250)
            .map(|number| {
                let kid = format!("random-{client}-{number}");
                let token = token_of("live", "a", Some(&kid), number, &key, Algorithm::ES256);
                lookup(&token, "nobody@example.com")
            })
            .collect();
        let address = world.gateway;
        clients.spawn(async move {
            let mut stream = connect(address).await;
            for message in messages {
                assert_eq!(exchange(&mut stream, &message).await.0, 401);
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    let took = began.elapsed();
    assert_eq!(exchange(&mut stream, &good).await.0, 404);
    println!(
        "10,000 requests with random kids in {:.1} s: {} fetches for their sake (cooldown 30 s)",
        took.as_secs_f64(),
        idp.fetches() - before,
    );
}

/// A gateway in front of a simulator. Ends when it is dropped.
struct World {
    gateway: SocketAddr,
    admin: SocketAddr,
    simulator: dcams_gateway::simulator::SimulatorHandle,
    _folder: TempDir,
    stop: CancellationToken,
}

impl World {
    async fn start(keys: &Keys, idp: &str) -> Self {
        let stop = CancellationToken::new();
        let settings = SimulatorSettings {
            accepted: vec![Login::new("bench-user", "bench-password-of-some-length")],
            ..SimulatorSettings::default()
        };
        let bind = || server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let simulator = Simulator::start(bind(), settings, stop.clone()).unwrap();
        let folder = files(keys, idp);
        let config = load(folder.path(), &simulator.url());
        let edges = Edges {
            public: bind(),
            admin: bind(),
            audit: Box::new(std::io::sink()),
        };
        let (gateway, admin) = (
            edges.public.local_addr().unwrap(),
            edges.admin.local_addr().unwrap(),
        );
        let app = App::build(config, edges).await.unwrap();
        tokio::spawn(app.run(stop.clone()));
        Self {
            gateway,
            admin,
            simulator,
            _folder: folder,
            stop,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn files(keys: &Keys, idp: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("gateway.toml", CONFIG.replace("IDP", idp)),
        ("user", "bench-user".to_owned()),
        ("pass", "bench-password-of-some-length".to_owned()),
        ("secret", SECRET.to_owned()),
        (
            "state.key",
            BASE64_STANDARD.encode(b"0123456789abcdefghijklmnopqrstuv"),
        ),
        (
            "audit.key",
            BASE64_STANDARD.encode(b"vutsrqponmlkjihgfedcba9876543210"),
        ),
        ("es.pem", keys.es.public_key_pem()),
        ("rs.pem", keys.rs.public_key_pem()),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn load(folder: &Path, upstream: &str) -> Config {
    let variable = (
        "DCAMS_GATEWAY__UPSTREAM__URL".to_owned(),
        upstream.to_owned(),
    );
    Config::load(&[folder.join("gateway.toml")], [variable].into_iter())
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// A key server whose set can be changed, and which counts.
struct Idp {
    url: String,
    set: Arc<Mutex<String>>,
    fetches: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Idp {
    fn start(set: Value) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let set = Arc::new(Mutex::new(set.to_string()));
        let fetches = Arc::new(AtomicUsize::new(0));
        let stop = CancellationToken::new();
        let (answer, count, until) = (Arc::clone(&set), Arc::clone(&fetches), stop.clone());
        tokio::spawn(async move {
            while let Some(Ok((mut stream, _))) = until.run_until_cancelled(listener.accept()).await
            {
                let mut request = [0; 4096];
                if stream.read(&mut request).await.unwrap_or(0) == 0 {
                    continue;
                }
                count.fetch_add(1, Relaxed);
                let body = answer.lock().unwrap().clone();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        Self {
            url,
            set,
            fetches,
            stop,
        }
    }

    fn publish(&self, set: Value) {
        *self.set.lock().unwrap() = set.to_string();
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Relaxed)
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn head(token: &str) -> Parts {
    let request = Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header("authorization", format!("Bearer {token}"));
    request.body(()).unwrap().into_parts().0
}

fn lookup(token: &str, email: &str) -> Vec<u8> {
    let body = json!({"service": "getStatus", "target": {"email": email}});
    post(token, &body.to_string())
}

fn post(token: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {PATH} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// One request and its answer on a connection that stays open.
async fn exchange(stream: &mut TcpStream, message: &[u8]) -> (u16, String) {
    stream.write_all(message).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "the connection was closed");
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        if body.len() >= length {
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            return (status, body.to_owned());
        }
    }
}

fn without_id(body: &str) -> String {
    let mut document: Value = serde_json::from_str(body).unwrap();
    document["request_id"] = Value::Null;
    document.to_string()
}

fn per(began: Instant, count: usize) -> f64 {
    began.elapsed().as_secs_f64() * 1e6 / count as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn longest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
