//! A stream of NATS, on a real server.

use std::process::{Child, Command, Stdio};

use async_nats::jetstream::{self, message::StreamMessage, stream};
use dcams_gateway::audit::ship::Subject;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair as RcgenKeyPair};

use super::*;

const SUBJECT: &str = "audit.gw-1";

/// A server with streams on disk. Ends when it is dropped.
pub struct Nats {
    folder: TempDir,
    port: u16,
    more: Vec<String>,
    process: Child,
}

impl Nats {
    pub async fn start(more: &[&str]) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), more).await
    }

    async fn in_folder(folder: TempDir, more: &[&str]) -> Self {
        let more: Vec<String> = more.iter().map(|&argument| argument.to_owned()).collect();
        let process = run(folder.path(), -1, &more);
        let file = format!("nats-server_{}.ports", process.id());
        let file = folder.path().join(file);
        let known = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            loop {
                ticks.tick().await;
                let text = fs::read_to_string(&file).unwrap_or_default();
                if let Ok(ports) = serde_json::from_str::<Value>(&text) {
                    let url = ports["nats"][0].as_str().unwrap().to_owned();
                    break url.rsplit_once(':').unwrap().1.parse().unwrap();
                }
            }
        };
        let port = timeout(Duration::from_secs(20), known).await.unwrap();
        Self {
            folder,
            port,
            more,
            process,
        }
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = run(self.folder.path(), self.port.into(), &self.more);
    }

    pub fn settings(&self, scheme: &str) -> ShipSettings {
        settings(Place::Nats {
            server: Endpoint::parse(&format!("{scheme}://127.0.0.1:{}", self.port)).unwrap(),
            subject: Subject::parse(SUBJECT).unwrap(),
        })
    }

    async fn context(&self) -> jetstream::Context {
        let options = async_nats::ConnectOptions::new()
            .token(TOKEN.to_owned())
            .retry_on_initial_connect();
        let url = format!("nats://127.0.0.1:{}", self.port);
        jetstream::new(options.connect(url).await.unwrap())
    }

    pub async fn stream(&self) -> stream::Stream {
        let config = stream::Config {
            name: "AUDIT".to_owned(),
            subjects: vec!["audit.>".to_owned()],
            ..stream::Config::default()
        };
        self.context()
            .await
            .get_or_create_stream(config)
            .await
            .unwrap()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn run(folder: &Path, port: i32, more: &[String]) -> Child {
    Command::new("nats-server")
        .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string()])
        .arg("-sd")
        .arg(folder.join("data"))
        .arg("--ports_file_dir")
        .arg(folder)
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server; scripts/test installs it")
}

/// What the stream has, in its order.
pub async fn messages(stream: &mut stream::Stream) -> Vec<StreamMessage> {
    let count = stream.info().await.unwrap().state.messages;
    let mut messages = Vec::new();
    for number in 1..=count {
        messages.push(stream.get_raw_message(number).await.unwrap());
    }
    messages
}

/// The lines in it.
async fn stored(stream: &mut stream::Stream) -> Vec<String> {
    let line = |message: StreamMessage| {
        let line = String::from_utf8(message.payload.to_vec()).unwrap();
        let id = message.headers.get("Nats-Msg-Id").unwrap().as_str();
        assert_eq!(id, format!("{NODE}:{}", seq(&line)));
        line
    };
    messages(stream).await.into_iter().map(line).collect()
}

#[tokio::test]
async fn a_stream_has_every_line_once_in_order_even_if_it_is_sent_twice() {
    let server = Nats::start(&["--auth", TOKEN]).await;
    let mut stream = server.stream().await;
    let chain = Written::begin(4_096);
    chain.write(100).await;
    chain.close().await;
    let settings = server.settings("http");
    let shipped = chain.ship(&settings);
    shipped.until_all().await;
    shipped.stop().await;
    assert_same(&stored(&mut stream).await, &chain.lines());
    fs::remove_file(chain.path("ship.cursor")).unwrap();
    let shipped = chain.ship(&settings);
    shipped.until_all().await;
    assert_same(&stored(&mut stream).await, &chain.lines());
}

#[tokio::test]
async fn nothing_is_lost_while_a_server_is_away() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let mut server = Nats::start(&["--auth", TOKEN]).await;
    let chain = Written::begin(8_192);
    let mut settings = server.settings("http");
    settings.timeout = Duration::from_millis(500);
    // Without a stream nothing is taken, however well the server is.
    let shipped = chain.ship(&settings);
    let health = shipped.until(|health| health.reason.is_some()).await;
    assert_eq!(
        (health.reason, health.last_taken_seq),
        (Some("no_stream"), 0)
    );
    server.stream().await;
    shipped.until_all().await;
    for _ in 0..3 {
        server.stop();
        chain.write(30).await;
        let failing = |health: &ShipHealth| health.reason == Some("unreachable");
        shipped.until(failing).await;
        server.restart();
        chain.write(10).await;
        shipped.until_all().await;
    }
    chain.close().await;
    shipped.until_all().await;
    let mut stream = server.stream().await;
    assert_same(&first_times(&stored(&mut stream).await), &chain.lines());
    assert!(!log.text().contains("canary"), "{}", log.text());
}

#[tokio::test]
async fn a_wrong_token_and_a_full_stream_have_their_reasons() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let server = Nats::start(&["--auth", "canary-other"]).await;
    let chain = Written::begin(u64::MAX);
    let shipped = chain.ship(&server.settings("http"));
    let health = shipped.until(|health| health.reason.is_some()).await;
    assert_eq!(health.reason, Some("unauthorized"));
    let server = Nats::start(&["--auth", TOKEN]).await;
    let config = stream::Config {
        name: "AUDIT".to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        max_messages: 3,
        discard: stream::DiscardPolicy::New,
        ..stream::Config::default()
    };
    server.context().await.create_stream(config).await.unwrap();
    chain.write(10).await;
    let shipped = chain.ship(&server.settings("http"));
    let health = shipped.until(|health| health.reason.is_some()).await;
    assert_eq!(
        (health.reason, health.last_taken_seq),
        (Some("not_stored"), 0)
    );
    assert!(!log.text().contains("canary"), "{}", log.text());
}

#[tokio::test]
async fn an_encrypted_server_is_known_by_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, RcgenKeyPair::generate().unwrap()).unwrap();
    let key = RcgenKeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    fs::write(folder.path().join("cert"), certificate.pem()).unwrap();
    fs::write(folder.path().join("key"), key.serialize_pem()).unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("cert"), path("key"));
    let tls = [
        "--tls",
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
        "--auth",
        TOKEN,
    ];
    let server = Nats::in_folder(folder, &tls).await;
    let chain = Written::begin(u64::MAX);
    let mut settings = server.settings("https");
    let shipped = chain.ship(&settings);
    let health = shipped.until(|health| health.reason.is_some()).await;
    assert_eq!(health.reason, Some("certificate"));
    drop(shipped);
    settings.roots = vec![authority.der().clone()];
    // It is let in, and there is no stream yet.
    let shipped = chain.ship(&settings);
    let health = shipped.until(|health| health.reason.is_some()).await;
    assert_eq!(health.reason, Some("no_stream"));
    drop(shipped);
    // A server that does not encrypt gets nothing, the token neither.
    let plain = Nats::start(&["--auth", TOKEN]).await;
    plain.stream().await;
    let mut unencrypted = plain.settings("https");
    unencrypted.timeout = Duration::from_millis(500);
    let shipped = chain.ship(&unencrypted);
    let health = shipped.until(|health| health.reason.is_some()).await;
    assert_eq!(health.last_taken_seq, 0);
    assert!(
        matches!(health.reason, Some("tls" | "unreachable" | "timed_out")),
        "{health:?}"
    );
}
