//! An issuer's key server on loopback, which answers what it is told to, good or hostile, and counts
//! and keeps what it is asked. A thread a connection, and one request on each. Other servers that the
//! gateway calls are played by it too.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde_json::{Value, json};

/// Where it keeps its set, and where it says so.
pub const KEYS: &str = "/keys";
pub const DISCOVERY: &str = "/.well-known/openid-configuration";

/// The server. Its thread ends with the process.
pub struct Idp {
    addr: SocketAddr,
    /// The authority of its certificate, when it speaks TLS.
    pub root: Option<CertificateDer<'static>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    desk: Mutex<Desk>,
    released: Condvar,
}

#[derive(Default)]
struct Desk {
    answers: HashMap<String, Answer>,
    asked: HashMap<String, usize>,
    heard: Vec<String>,
    held: bool,
}

/// What is answered at one path.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<String>,
    pub body: Vec<u8>,
    pub delivery: Delivery,
}

/// How the body comes.
#[derive(Clone, Copy)]
pub enum Delivery {
    /// Announced, and cut in the middle.
    Cut,
    /// Announced, a byte now and then.
    Drip,
    /// With this in `Content-Length`, whatever its length is.
    Lie(usize),
    /// Not announced: it ends with the connection.
    Unannounced,
    /// Announced, at once.
    Whole,
}

impl Answer {
    /// 200 with this body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
            delivery: Delivery::Whole,
        }
    }

    /// 200 with a set of these keys.
    pub fn keys(keys: &[Value]) -> Self {
        Self::ok(json!({ "keys": keys }).to_string())
    }

    /// With this status.
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With this line in its head.
    pub fn header(mut self, line: impl Into<String>) -> Self {
        self.headers.push(line.into());
        self
    }

    /// Sent in this way.
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }
}

/// A new ES256 key, as it is published under this `kid`.
pub fn published_key(kid: &str) -> Value {
    jwk(
        &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        kid,
    )
}

/// The public half of an ES256 key, as it is published.
pub fn jwk(pair: &KeyPair, kid: &str) -> Value {
    let point = pair.public_key_raw();
    let (x, y) = (&point[1..33], &point[33..65]);
    json!({
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    })
}

impl Idp {
    /// A server that answers 404 everywhere, over plain http.
    pub fn start() -> Self {
        Self::run(None, None)
    }

    /// The same over https, with a certificate of an authority of its own.
    pub fn start_tls() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        Self::run(Some(Arc::new(config)), Some(authority.der().clone()))
    }

    fn run(tls: Option<Arc<ServerConfig>>, root: Option<CertificateDer<'static>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let all = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, tls) = (Arc::clone(&all), tls.clone());
                thread::spawn(move || match tls {
                    Some(config) => {
                        let session = ServerConnection::new(config).unwrap();
                        let mut stream = StreamOwned::new(session, stream);
                        serve(&mut stream, &shared);
                        stream.conn.send_close_notify();
                        stream.flush().ok();
                    }
                    None => serve(&mut { stream }, &shared),
                });
            }
        });
        Self { addr, root, shared }
    }

    /// The URL of a path, by which it is an issuer too (with an empty one).
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.root.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.addr)
    }

    /// From now on this is answered at this path.
    pub fn answer(&self, path: &str, answer: Answer) {
        self.desk(|desk| desk.answers.insert(path.to_owned(), answer));
    }

    /// From now on discovery says that the set is at this URL.
    pub fn locate(&self, jwks_uri: &str) {
        let document = json!({ "issuer": self.url(""), "jwks_uri": jwks_uri });
        self.answer(DISCOVERY, Answer::ok(document.to_string()));
    }

    /// How many requests there were for this path.
    pub fn asked(&self, path: &str) -> usize {
        self.desk(|desk| desk.asked.get(path).copied().unwrap_or(0))
    }

    /// Every request so far, head and body.
    pub fn heard(&self) -> Vec<String> {
        self.desk(|desk| desk.heard.clone())
    }

    /// From now on requests are counted and wait.
    pub fn hold(&self) {
        self.desk(|desk| desk.held = true);
    }

    /// Those that wait, and all others, are answered.
    pub fn release(&self) {
        self.desk(|desk| desk.held = false);
        self.shared.released.notify_all();
    }

    fn desk<T>(&self, at: impl FnOnce(&mut Desk) -> T) -> T {
        at(&mut self.shared.desk.lock().unwrap())
    }
}

fn serve(stream: &mut (impl Read + Write), shared: &Shared) {
    let Some(request) = read_request(stream) else {
        return;
    };
    let Some(path) = request.split(' ').nth(1).map(str::to_owned) else {
        return;
    };
    let mut desk = shared.desk.lock().unwrap();
    *desk.asked.entry(path.clone()).or_default() += 1;
    desk.heard.push(request);
    let desk = shared.released.wait_while(desk, |desk| desk.held).unwrap();
    let answer = desk.answers.get(&path).cloned();
    drop(desk);
    let answer = answer.unwrap_or_else(|| Answer::ok("").status(404));
    // Whoever asked may have gone, and that is part of some tests.
    send(stream, &answer).ok();
}

fn send(stream: &mut impl Write, answer: &Answer) -> io::Result<()> {
    let length = match answer.delivery {
        Delivery::Lie(length) => Some(length),
        Delivery::Unannounced => None,
        Delivery::Cut | Delivery::Drip | Delivery::Whole => Some(answer.body.len()),
    };
    let mut head = Vec::new();
    write!(
        head,
        "HTTP/1.1 {} X\r\nConnection: close\r\n",
        answer.status
    )?;
    if let Some(length) = length {
        write!(head, "Content-Length: {length}\r\n")?;
    }
    for line in &answer.headers {
        write!(head, "{line}\r\n")?;
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head)?;
    match answer.delivery {
        Delivery::Cut => stream.write_all(&answer.body[..answer.body.len() / 2]),
        Delivery::Drip => answer.body.iter().try_for_each(|byte| {
            thread::sleep(Duration::from_millis(5));
            stream.write_all(&[*byte])?;
            stream.flush()
        }),
        Delivery::Lie(_) | Delivery::Unannounced | Delivery::Whole => {
            stream.write_all(&answer.body)
        }
    }?;
    stream.flush()
}

fn read_request(stream: &mut impl Read) -> Option<String> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let mut lines = head.lines();
            let length = lines.find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&buffer[..count]);
    }
}
