//! A whole gateway in front of a simulator, over real sockets, and what is needed to look at both.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use dcams_gateway::{
    app::{App, Edges},
    audit::AuditTrail,
    auth::{self, mint::Grant},
    clock,
    config::Config,
    operation::Operation,
    simulator::{Login, Simulator, SimulatorHandle, SimulatorSettings},
    specimen::{self, Side},
    telemetry::{self, LogFormat, TelemetrySettings},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{
    Dispatch, Level,
    subscriber::{DefaultGuard, NoSubscriber},
};

pub const PATH: &str = "/v3/stable/api/storage";
pub const EMAIL: &str = "jane.specimen@example.com";
/// The gateway's credential at the simulator.
pub const USER: &str = "gateway-api-user@veratad.example";
pub const PASS: &str = "Gateway-\"Secret\\Pass\u{2028}phrase-0815";
/// The secret of the demo's issuer.
pub const ISSUER_KEY: &str = "an-issuer-key-of-32-bytes-or-more";
/// The user of a second account, for a second tenant.
pub const OTHER_USER: &str = "other-api-user@veratad.example";
/// That tenant, which sees all fields; the second in the configuration, as is its issuer.
pub const OTHER_TENANT: &str = r#"
[[accounts]]
id = "other"
credentials = [{ id = "other-1", user = { file = "other-user" }, pass = { file = "pass" } }]
[[issuers]]
id = "other-idp"
issuer = "https://idp.other.example/"
audiences = ["dcams-gateway"]
algorithms = ["HS256"]
secret = { file = "issuer.key" }
tenants = ["other"]
[[tenants]]
id = "other"
account = "other"
services = ["createOrUpdateCustomer", "getStatus", "getDocumentImages", "updateStatus"]
response = "full"
"#;

/// A gateway, its simulator and its folder. Ends when it is dropped.
pub struct World {
    pub simulator: SimulatorHandle,
    pub gateway: SocketAddr,
    pub admin: SocketAddr,
    /// The copy of the audit trail: behind the files by a moment, see [`World::recorded`].
    pub audit: Lines,
    trail: Arc<AuditTrail>,
    pub client: reqwest::Client,
    folder: TempDir,
    shutdown: CancellationToken,
    stop_simulator: CancellationToken,
}

/// A writer that keeps what was written, for the audit trail or a log, and fails on demand.
#[derive(Clone, Default)]
pub struct Lines {
    written: Arc<watch::Sender<Vec<u8>>>,
    broken: Arc<Mutex<Option<Broken>>>,
}

/// How a writer fails.
#[derive(Clone, Copy)]
pub enum Broken {
    Errors,
    Panics,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let broken = *self.broken.lock().unwrap();
        match broken {
            None => self
                .written
                .send_modify(|written| written.extend_from_slice(bytes)),
            Some(Broken::Errors) => return Err(io::ErrorKind::StorageFull.into()),
            Some(Broken::Panics) => panic!("the writer panics, as this test wants it to"),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Collects the log of this test's thread, on which everything of its world runs, until the
    /// guard is dropped.
    pub fn collect_log(&self) -> DefaultGuard {
        // While there is one subscriber alone, another test's thread that reaches a line first,
        // without one, silences that line for every thread. So there are never less than two.
        static SILENT: LazyLock<[Dispatch; 2]> =
            LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));
        LazyLock::force(&SILENT);
        let lines = self.clone();
        let (format, level) = (LogFormat::Json, Level::TRACE);
        let settings = TelemetrySettings { format, level };
        tracing::subscriber::set_default(telemetry::subscriber(settings, move || lines.clone()))
    }

    pub fn fail(&self, how: Option<Broken>) {
        *self.broken.lock().unwrap() = how;
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.written.borrow().clone()).unwrap()
    }

    /// The ends of requests; of a log, its lines.
    pub fn events(&self) -> Vec<Value> {
        outcomes(&self.text())
    }

    /// The gateway's own acts of one kind.
    pub fn acts(&self, kind: &str) -> Vec<Value> {
        acts(kind, &self.written.borrow())
    }

    /// All acts of one kind, once there are enough by this measure.
    pub async fn until_acts(&self, kind: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut watched = self.written.subscribe();
        let waiting = watched.wait_for(|written| enough(&acts(kind, written)));
        let came = tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .is_ok();
        assert!(came, "not enough:\n{}", self.text());
        self.acts(kind)
    }

    /// The ends of requests, or a log's lines, once there are this many.
    pub async fn until(&self, count: usize) -> Vec<Value> {
        let enough = |written: &Vec<u8>| {
            let text = std::str::from_utf8(written).unwrap_or_default();
            let others = |phase| text.matches(&format!("\"phase\":\"{phase}\"")).count();
            let others: usize = OTHER_PHASES.into_iter().map(others).sum();
            text.matches('\n').count() >= count + others
        };
        let mut watched = self.written.subscribe();
        let waiting = watched.wait_for(enough);
        let came = tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .is_ok();
        assert!(came, "fewer than {count} lines:\n{}", self.text());
        self.events()
    }
}

/// The ends of requests among the lines of an audit trail.
pub fn outcomes(trail: &str) -> Vec<Value> {
    let lines = parse(trail.as_bytes()).into_iter();
    lines.filter(|line| !is_other(line)).collect()
}

fn parse(written: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(written).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn acts(kind: &str, written: &[u8]) -> Vec<Value> {
    let lines = parse(written).into_iter();
    lines.filter(|line| line["event"] == kind).collect()
}

/// What stands in a trail besides the ends of requests.
const OTHER_PHASES: [&str; 3] = ["event", "intent", "rejected"];

fn is_other(event: &Value) -> bool {
    OTHER_PHASES.iter().any(|phase| event["phase"] == *phase)
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl World {
    /// A gateway with the demo's configuration: one tenant, `demo`, with all four services.
    pub async fn start() -> Self {
        Self::with("", &[]).await
    }

    /// The same, with more TOML on top and variables such as `SERVER__CHUNKED`.
    pub async fn with(toml: &str, variables: &[(&str, &str)]) -> Self {
        let stop_simulator = CancellationToken::new();
        let simulator = simulator(Login::new(USER, PASS), stop_simulator.clone()).await;
        let url = simulator.url();
        Self::before(simulator, stop_simulator, &url, toml, variables).await
    }

    /// The same, with what `prepare` puts into its folder first.
    pub async fn prepared(toml: &str, variables: &[(&str, &str)], prepare: impl Fn(&Path)) -> Self {
        let stop = CancellationToken::new();
        let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
        let url = simulator.url();
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        Self::in_folder(folder, (simulator, stop), &url, toml, variables).await
    }

    /// A gateway whose upstream is at `url`, whatever serves there.
    pub async fn before(
        simulator: SimulatorHandle,
        stop_simulator: CancellationToken,
        url: &str,
        toml: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::in_folder(folder, (simulator, stop_simulator), url, toml, variables).await
    }

    async fn in_folder(
        folder: TempDir,
        (simulator, stop_simulator): (SimulatorHandle, CancellationToken),
        url: &str,
        toml: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        auth::install_crypto();
        write_secrets(folder.path());
        fs::write(folder.path().join("more.toml"), toml).unwrap();
        let config = load(folder.path(), url, variables);
        let audit = Lines::default();
        let edges = Edges {
            public: listen().await,
            admin: listen().await,
            audit: Box::new(audit.clone()),
        };
        let (gateway, admin) = (
            edges.public.local_addr().unwrap(),
            edges.admin.local_addr().unwrap(),
        );
        let shutdown = CancellationToken::new();
        let app = App::build(config, edges).await.unwrap();
        let trail = app.audit();
        tokio::spawn(app.run(shutdown.clone()));
        Self {
            simulator,
            gateway,
            admin,
            audit,
            trail,
            client: client(),
            folder,
            shutdown,
            stop_simulator,
        }
    }

    /// The copy of the audit trail, once it has everything that is on disk.
    pub async fn recorded(&self) -> &Lines {
        let seq = usize::try_from(self.trail.durable().borrow().seq).unwrap();
        let mut watched = self.audit.written.subscribe();
        let lines = |written: &Vec<u8>| written.split(|byte| *byte == b'\n').count() - 1;
        let waiting = watched.wait_for(|written| lines(written) >= seq);
        let came = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(
            came.is_ok(),
            "fewer than {seq} lines:\n{}",
            self.audit.text()
        );
        &self.audit
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.gateway)
    }

    /// A token with the scopes of these services.
    pub fn token(&self, operations: &[Operation]) -> String {
        self.token_for(operations, None)
    }

    /// A token for one customer.
    pub fn token_for(&self, operations: &[Operation], customer: Option<&str>) -> String {
        mint(
            &load(self.folder(), &self.simulator.url(), &[]),
            0,
            operations,
            customer,
        )
    }

    /// A token with every scope.
    pub fn full_token(&self) -> String {
        self.token(&Operation::ALL)
    }

    /// Sends a JSON body with a token.
    pub async fn post(&self, token: &str, body: &Value) -> Answer {
        self.post_text(token, body.to_string()).await
    }

    /// Sends any body with a token.
    pub async fn post_text(&self, token: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self
            .client
            .post(self.url())
            .bearer_auth(token)
            .header("content-type", "application/json")
            .body(body);
        answer(request.send().await.unwrap()).await
    }

    /// What stands on top of the demo's configuration from now on, once it is reloaded.
    pub fn rewrite(&self, toml: &str) {
        fs::write(self.folder().join("more.toml"), toml).unwrap();
    }

    /// Ends the gateway as a signal would.
    pub fn drain(&self) {
        self.shutdown.cancel();
    }

    /// Has the configuration read again by an operator.
    pub async fn reload(&self) -> Answer {
        let url = format!("http://{}/api/reload", self.admin);
        let request = self.client.post(url).json(&json!({}));
        answer(request.send().await.unwrap()).await
    }

    /// Puts this on top of the demo's configuration, and has it in force.
    pub async fn change(&self, toml: &str) {
        self.rewrite(toml);
        let answer = self.reload().await;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({"result": "ok", "changed": true}))
        );
    }

    /// Sends a request to the admin listener.
    pub async fn operator(&self, path: &str) -> Answer {
        let url = format!("http://{}{path}", self.admin);
        answer(self.client.get(url).send().await.unwrap()).await
    }

    /// Has a rejected credential tried again now.
    pub async fn retry_credential_of(&self, account: &str, credential: &str) -> Answer {
        let url = format!("http://{}/api/credentials/retry", self.admin);
        let body = json!({"account": account, "credential": credential});
        answer(self.client.post(url).json(&body).send().await.unwrap()).await
    }

    /// Has the demo's credential tried again after a refusal, and DCAMS accept it.
    pub async fn restore_credential(&self) {
        let retried = self.retry_credential_of("demo", "demo-1").await;
        assert_eq!(retried.status, 200, "{}", retried.text);
        let body = lookup(Operation::GetStatus);
        let answer = self.post(&self.full_token(), &body).await;
        assert!([200, 404].contains(&answer.status), "{}", answer.text);
    }

    /// The one request that reached the simulator.
    pub fn only_record(&self) -> dcams_gateway::simulator::record::Record {
        let mut records = self.simulator.requests();
        assert_eq!(records.len(), 1, "requests that reached the simulator");
        records.remove(0)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.stop_simulator.cancel();
    }
}

/// A simulator that accepts this pair and keeps bodies.
pub async fn simulator(login: Login, stop: CancellationToken) -> SimulatorHandle {
    let settings = SimulatorSettings {
        accepted: vec![login],
        record_bodies: true,
        ..SimulatorSettings::default()
    };
    Simulator::start(listen().await, settings, stop).unwrap()
}

/// A token of the issuer and the tenant at this place in the configuration.
pub fn mint(
    config: &Config,
    index: usize,
    operations: &[Operation],
    customer: Option<&str>,
) -> String {
    let issuer = &config.issuers[index];
    let grant = Grant {
        tenant: &config.tenants[index].id,
        operations: operations.iter().copied().collect(),
        subject: Some("subject-of-the-token"),
        customer,
        ttl: Duration::from_mins(10),
    };
    grant
        .mint(issuer, &config.signing_keys[&issuer.id], clock::now())
        .unwrap()
}

pub async fn answer(response: reqwest::Response) -> Answer {
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: response.text().await.unwrap(),
    }
}

pub fn client() -> reqwest::Client {
    // Whichever test comes first: TLS has no provider otherwise.
    auth::install_crypto();
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_mins(1))
        .build()
        .unwrap()
}

pub async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// The configuration of the demo, with our credential.
pub fn write_secrets(folder: &Path) {
    for (name, content) in [
        ("demo.toml", include_str!("../../config/demo.toml")),
        ("user", USER),
        ("pass", PASS),
        ("other-user", OTHER_USER),
        ("elsewhere-user", "elsewhere-api-user@veratad.example"),
        ("closed-user", "closed-api-user@veratad.example"),
        ("state.key", &BASE64_STANDARD.encode(KEYS[0])),
        ("audit.key", &BASE64_STANDARD.encode(KEYS[1])),
        ("issuer.key", ISSUER_KEY),
    ] {
        fs::write(folder.join(name), content).unwrap();
    }
}

pub fn load(folder: &Path, url: &str, variables: &[(&str, &str)]) -> Config {
    // Files are looked at, and statuses kept, where a test is about that, and nowhere else.
    let usual = [
        ("UPSTREAM__URL", url),
        ("RELOAD__WATCH", "0s"),
        ("CACHE__ENABLED", "false"),
        // What tests read of the trail; the files are beside the configuration.
        ("AUDIT__STDOUT", "true"),
    ];
    let variables = [&usual, variables]
        .concat()
        .into_iter()
        .map(|(name, value)| (format!("DCAMS_GATEWAY__{name}"), value.to_owned()));
    Config::load(
        &[folder.join("demo.toml"), folder.join("more.toml")],
        variables,
    )
    .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

pub fn lookup(operation: Operation) -> Value {
    match operation {
        Operation::CreateOrUpdateCustomer => customer(),
        Operation::GetDocumentImages | Operation::GetStatus => {
            json!({"service": operation.name(), "target": {"email": EMAIL}})
        }
        Operation::UpdateStatus => {
            json!({"service": operation.name(), "target": {"email": EMAIL, "status": "FAIL"}})
        }
    }
}

/// A customer with both images.
pub fn customer() -> Value {
    CUSTOMER.clone()
}

/// Drawn once: that takes longer than everything else in a test.
static CUSTOMER: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "service": "createOrUpdateCustomer",
        "reference": "reference-0001",
        "target": {
            "email": EMAIL, "fn": "Jane", "ln": "Specimen", "addr": "1 Sample Street",
            "city": "Anytown", "state": "CT", "zip": "06614", "dob": "19700101",
            "phone": "2015550100",
            "documents": {
                "front": BASE64_STANDARD.encode(specimen::jpeg(Side::Front)),
                "back": BASE64_STANDARD.encode(specimen::jpeg(Side::Back)),
            },
        },
    })
});

/// Two keys of 32 bytes, for `state.key` and `audit.key`.
const KEYS: [&[u8; 32]; 2] = [
    b"0123456789abcdefghijklmnopqrstuv",
    b"vutsrqponmlkjihgfedcba9876543210",
];
