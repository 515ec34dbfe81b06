//! Canaries: a random value in every place that holds a secret or a person, every flow driven, and
//! a search for them in everything that came out.

mod trail;

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use aws_lc_rs::rand;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use dcams_gateway::{
    auth::{self, Authenticator, dpop::ProofChecker, mint::Grant, revocation::RevocationList},
    clock,
    config::Config,
    credential::{
        Account, CredentialSettings,
        pool::{Offer, Pool, Slot},
    },
    operation::Operation::{self, *},
    payload::{Submission, lift::lift},
    rotator::AccountStanding,
    simulator::{
        Login, SimulatorHandle,
        behaviour::{Behaviour, Echo},
        fault::{DocumentedError, Fault, FaultKind},
    },
    specimen::{self, Side},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    program::{Served, run},
    shipping::receiver::{Receiver, TAKEN},
    support::{OTHER_TENANT, PATH, answer, client, load, simulator, write_secrets},
};

/// Who may see a value in an answer. Nothing else may show any of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nobody.
    Secret,
    /// A tenant that sees all fields, in a success.
    Person,
    /// Every tenant, in a success.
    Reference,
    /// Who asked for images, in a success.
    Image,
    /// Who sent it, in a list of violations.
    Member,
}

struct Canaries(Vec<(&'static str, Kind, Vec<u8>)>);

impl Canaries {
    fn hatch() -> Self {
        let key = || random::<32>().to_vec();
        let (state, audit) = (key(), key());
        let [admin, issuer] = [hex(&key()), hex(&key())];
        let date = format!(
            "19{:02}{:02}{:02}",
            20 + random::<1>()[0] % 60,
            1 + random::<1>()[0] % 12,
            10 + random::<1>()[0] % 19
        );
        let phone = 2_000_000_000 + u64::from(u32::from_be_bytes(random()) % 999_999_999);
        let m = marker;
        let mut all = Self(Vec::new());
        for (name, kind, value) in [
            ("user", Kind::Secret, format!("api-{}@account.example", m())),
            (
                "other user",
                Kind::Secret,
                format!("api-{}@second.example", m()),
            ),
            // Every form in which it could be escaped differs.
            (
                "pass",
                Kind::Secret,
                format!("{}\"\\/{}\u{fc} {}%", m(), m(), m()),
            ),
            // What the credential of the other account is rotated to, one after the other.
            ("wrong pass", Kind::Secret, format!("{}\"\\{}", m(), m())),
            (
                "next pass",
                Kind::Secret,
                format!("{}\u{fc}/{}'%", m(), m()),
            ),
            ("unreadable pass", Kind::Secret, m()),
            ("endless pass", Kind::Secret, m()),
            ("client user", Kind::Secret, format!("web-{}", m())),
            ("client pass", Kind::Secret, format!("{}<'&\"{}", m(), m())),
            ("subject", Kind::Secret, format!("sub-{}", m())),
            ("forged", Kind::Secret, format!("{}.{}.{}", m(), m(), m())),
            ("stray", Kind::Secret, m()),
            ("issuer key", Kind::Secret, issuer),
            ("admin token", Kind::Secret, admin),
            ("ship token", Kind::Secret, m()),
            ("state key", Kind::Secret, BASE64_STANDARD.encode(&state)),
            ("audit key", Kind::Secret, BASE64_STANDARD.encode(&audit)),
            ("email", Kind::Person, format!("{}@canary.example", m())),
            ("fn", Kind::Person, format!("Jane{}", m())),
            ("ln", Kind::Person, format!("O\"{}\u{e9}n", m())),
            ("addr", Kind::Person, format!("1 {} Street", m())),
            ("city", Kind::Person, m()),
            ("dob", Kind::Person, date),
            ("phone", Kind::Person, phone.to_string()),
            ("reference", Kind::Reference, format!("ref-{}", m())),
            ("image", Kind::Image, m()),
            (
                "member",
                Kind::Member,
                format!("{}\u{1b}[31m\n{}", m(), m()),
            ),
        ] {
            all.0.push((name, kind, value.into_bytes()));
        }
        all.0.push(("state key", Kind::Secret, state));
        all.0.push(("audit key", Kind::Secret, audit));
        for digest in trail::digests_without_a_key(&all.image()) {
            all.0.push(("image digest", Kind::Secret, digest));
        }
        all
    }

    fn text(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(other, ..)| *other == name);
        std::str::from_utf8(&found.unwrap_or_else(|| panic!("{name}")).2).unwrap()
    }

    fn kind(&self, name: &str) -> Kind {
        self.0.iter().find(|(other, ..)| *other == name).unwrap().1
    }

    fn write_secrets(&self, folder: &Path) {
        write_secrets(folder);
        for (file, name) in [
            ("user", "user"),
            ("other-user", "other user"),
            ("pass", "pass"),
            ("other-pass", "pass"),
            ("issuer.key", "issuer key"),
            ("state.key", "state key"),
            ("audit.key", "audit key"),
            ("admin-token", "admin token"),
            ("ship-token", "ship token"),
        ] {
            fs::write(folder.join(file), self.text(name)).unwrap();
        }
    }

    fn request(&self, operation: Operation) -> Value {
        let at = |name| self.text(name);
        let mut body = json!({"user": at("client user"), "pass": at("client pass"),
            "service": operation.name(), "target": {"email": at("email")}});
        if operation == UpdateStatus {
            body["target"]["status"] = "FAIL".into();
        }
        if operation == CreateOrUpdateCustomer {
            body["reference"] = at("reference").into();
            body["target"] = json!({"email": at("email"), "fn": at("fn"), "ln": at("ln"),
                "addr": at("addr"), "city": at("city"), "state": "CT", "zip": "06614",
                "dob": at("dob"), "phone": at("phone"),
                "documents": {"front": self.image(), "back": self.image()}});
        }
        body
    }

    /// A specimen with a comment segment.
    fn image(&self) -> String {
        static DRAWN: LazyLock<Vec<u8>> = LazyLock::new(|| specimen::jpeg(Side::Front));
        let mut image = DRAWN.clone();
        let text = self.text("image").as_bytes();
        let length = u16::try_from(text.len() + 2).unwrap().to_be_bytes();
        let comment = [&[0xff, 0xfe], &length[..], text].concat();
        image.splice(2..2, comment);
        BASE64_STANDARD.encode(image)
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).unwrap();
    bytes
}

/// Twenty letters, of which no two are alike by chance and none is a hex digit.
fn marker() -> String {
    random::<20>()
        .iter()
        .map(|byte| char::from(b'g' + byte % 20))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The forms in which a value could come out.
fn forms(value: &[u8]) -> Vec<Vec<u8>> {
    let hex = hex(value);
    let mut forms = vec![
        value.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
    ];
    for engine in [&BASE64_STANDARD_NO_PAD, &BASE64_URL_SAFE_NO_PAD] {
        for lead in 0..3 {
            let text = engine.encode([&vec![0; lead], value].concat());
            let end = text.len() - usize::from(!(lead + value.len()).is_multiple_of(3));
            forms.push(text[[0, 2, 3][lead]..end].into());
        }
    }
    let Ok(text) = std::str::from_utf8(value) else {
        return forms;
    };
    let json = serde_json::to_string(text).unwrap();
    let percent = |upper: bool| {
        text.bytes().fold(String::new(), |mut out, byte| {
            match byte {
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' => {
                    out.push(byte.into());
                }
                _ if upper => write!(out, "%{byte:02X}").unwrap(),
                _ => write!(out, "%{byte:02x}").unwrap(),
            }
            out
        })
    };
    let ascii = json.chars().fold(String::new(), |mut out, c| {
        if c.is_ascii() {
            out.push(c);
        } else {
            write!(out, "\\u{:04x}", u32::from(c)).unwrap();
        }
        out
    });
    let debug = format!("{text:?}");
    for form in [
        text.to_lowercase(),
        text.to_uppercase(),
        percent(true),
        percent(false),
    ]
    .into_iter()
    .chain([json, ascii, debug].map(|quoted| quoted[1..quoted.len() - 1].to_owned()))
    {
        forms.push(form.into());
    }
    forms
}

#[test]
fn the_forms_are_those_in_which_values_leak() {
    let forms = forms("Pa\"ß/wörd>%?~ÿ~of it".as_bytes());
    for form in [
        "Pa\"ß/wörd>%?~ÿ~of it",
        "pa\"ß/wörd>%?~ÿ~of it",
        "PA\"SS/WÖRD>%?~Ÿ~OF IT",
        "Pa\\\"ß/wörd>%?~ÿ~of it",
        "Pa\\\"\\u00df/w\\u00f6rd>%?~\\u00ff~of it",
        "Pa%22%C3%9F%2Fw%C3%B6rd%3E%25%3F%7E%C3%BF%7Eof%20it",
        "Pa%22%c3%9f%2fw%c3%b6rd%3e%25%3f%7e%c3%bf%7eof%20it",
        "506122c39f2f77c3b672643e253f7ec3bf7e6f66206974",
        "506122C39F2F77C3B672643E253F7EC3BF7E6F66206974",
        // What is the same behind any 0, 1 and 2 bytes, in both alphabets.
        "UGEiw58vd8O2cmQ+JT9+w79+b2YgaX",
        "BhIsOfL3fDtnJkPiU/fsO/fm9mIGl0",
        "QYSLDny93w7ZyZD4lP37Dv35vZiBpd",
        "UGEiw58vd8O2cmQ-JT9-w79-b2YgaX",
        "BhIsOfL3fDtnJkPiU_fsO_fm9mIGl0",
    ] {
        let is = |found: &Vec<u8>| found == form.as_bytes();
        let all = || -> Vec<_> { forms.iter().map(|f| String::from_utf8_lossy(f)).collect() };
        assert!(forms.iter().any(is), "{form} is not among {:#?}", all());
    }
}

/// Finds any 12 bytes in a row of any form of any canary, or a shorter one as a whole.
struct Search {
    windows: HashMap<[u8; WINDOW], &'static str>,
    short: Vec<(Vec<u8>, &'static str)>,
}

const WINDOW: usize = 12;

impl Search {
    fn new(canaries: &Canaries) -> Self {
        let mut search = Self {
            windows: HashMap::new(),
            short: Vec::new(),
        };
        for (name, _, value) in &canaries.0 {
            for form in forms(value) {
                if form.len() < WINDOW {
                    search.short.push((form, name));
                    continue;
                }
                for window in form.windows(WINDOW) {
                    search.windows.insert(window.try_into().unwrap(), name);
                }
            }
        }
        search
    }

    fn find(&self, text: &[u8]) -> BTreeSet<&'static str> {
        let windows = text.windows(WINDOW);
        let long = windows.filter_map(|window| self.windows.get(window).copied());
        let is_in = |needle: &[u8]| text.windows(needle.len()).any(|window| window == needle);
        let short = self.short.iter().filter(|(needle, _)| is_in(needle));
        long.chain(short.map(|(_, name)| *name)).collect()
    }
}

#[test]
fn the_search_finds_a_leak_of_each_canary_in_each_form() {
    let canaries = Canaries::hatch();
    let search = Search::new(&canaries);
    let around =
        |leak: &[u8]| [b"{\"level\":\"TRACE\",\"message\":\"body ", leak, b"\"}\n"].concat();
    assert!(search.find(&around(b"of 17 bytes")).is_empty());
    for (name, _, value) in &canaries.0 {
        for form in forms(value) {
            let found = search.find(&around(&form));
            assert!(
                found.contains(name),
                "{name} as {}",
                String::from_utf8_lossy(&form)
            );
        }
        // Cut off, as a log might do.
        if value.len() > WINDOW {
            assert!(
                search.find(&around(&value[..WINDOW])).contains(name),
                "{name}, cut off"
            );
        }
        let wrapped = BASE64_STANDARD.encode(around(value));
        assert!(
            search.find(wrapped.as_bytes()).contains(name),
            "{name}, within base64"
        );
    }
}

/// An answer as a client sees it, and what it was an answer to.
struct Seen {
    flow: String,
    full: bool,
    images: bool,
    status: u16,
    bytes: Vec<u8>,
}

impl Seen {
    fn may_show(&self, kind: Kind) -> bool {
        let success = self.status == 200;
        match kind {
            Kind::Secret => false,
            Kind::Person => success && self.full,
            Kind::Reference => success,
            Kind::Image => success && self.images,
            Kind::Member => self.status == 400,
        }
    }
}

/// Drives one gateway through everything.
struct Drive<'a> {
    canaries: &'a Canaries,
    folder: &'a Path,
    served: &'a Served,
    simulator: &'a SimulatorHandle,
    /// One that sees little, one that sees all, one that may do nothing, one of another customer.
    tokens: [String; 4],
    seen: Vec<Seen>,
}

impl Drive<'_> {
    async fn send(&mut self, flow: &str, full: bool, token: &str, body: String) {
        let images = body.contains("getDocumentImages");
        let request = client().post(self.served.url()).bearer_auth(token);
        let request = request
            .header("content-type", "application/json")
            .body(body);
        let answer = answer(request.send().await.unwrap()).await;
        let mut bytes = format!("{:?}\n", answer.headers).into_bytes();
        bytes.extend_from_slice(answer.text.as_bytes());
        let (flow, status) = (flow.to_owned(), answer.status);
        self.seen.push(Seen {
            flow,
            full,
            images,
            status,
            bytes,
        });
    }

    /// What an operator asks, whose answers are searched like any other.
    async fn operator(&mut self, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string);
        let (_, text) = self.operator_says(path, body).await;
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn operator_says(&mut self, path: &str, body: Option<String>) -> (u16, String) {
        let url = format!("http://{}{path}", self.served.admin);
        let request = match body {
            Some(body) => client()
                .post(url)
                .header("content-type", "application/json")
                .body(body),
            None => client().get(url),
        };
        let request = request.bearer_auth(self.canaries.text("admin token"));
        let answer = answer(request.send().await.unwrap()).await;
        self.show(path, answer.status, &answer.text);
        (answer.status, answer.text)
    }

    /// What an operator sees.
    fn show(&mut self, flow: &str, status: u16, text: &str) {
        self.seen.push(Seen {
            flow: flow.to_owned(),
            full: false,
            images: false,
            status,
            bytes: text.as_bytes().to_vec(),
        });
    }

    /// What an operator's command on the gateway's configuration prints, and how it ends.
    async fn command(&mut self, arguments: &[&str]) -> (Option<i32>, String) {
        let paths = ["demo.toml", "more.toml"].map(|name| self.folder.join(name));
        let paths = paths.map(|path| path.display().to_string());
        let config = ["--config", &paths[0], &paths[1]];
        let (url, admin) = (self.simulator.url(), self.served.admin.to_string());
        let variables = [
            ("DCAMS_GATEWAY__UPSTREAM__URL", &url[..]),
            ("DCAMS_GATEWAY__ADMIN__LISTEN", &admin),
            ("RUST_LOG", "trace"),
            ("RUST_BACKTRACE", "1"),
        ];
        let ended = run(&[arguments, &config].concat(), &variables).await;
        let flow = arguments.join(" ");
        for text in [&ended.out, &ended.err] {
            self.show(&flow, 0, text);
        }
        (ended.status.code(), ended.out + &ended.err)
    }

    /// Asks until the credential of the other account stands like this: value, state, and why its
    /// source cannot be read.
    async fn until_other(&mut self, generation: u64, state: &str, failure: Option<&str>) {
        let standing = |list: &Value| {
            let credentials = list["accounts"][1]["credentials"]
                .as_array()
                .unwrap()
                .iter();
            let mut standings = credentials
                .map(|c| json!([c["id"], c["generation"], c["state"], c["source_failure"]]));
            standings.any(|s| s == json!(["other-1", generation, state, failure]))
        };
        let asking = async { while !standing(&self.operator("/api/credentials", None).await) {} };
        let came = timeout(Duration::from_secs(30), asking).await.is_ok();
        assert!(came, "never {generation} {state} {failure:?}");
    }

    /// A rotation of the other account's credential, with everything that goes wrong in one.
    async fn rotate(&mut self) {
        let at = |name| self.canaries.text(name).to_owned();
        let file = self.folder.join("other-pass");
        let login = |user, pass| Login::new(at(user), at(pass));
        let (demo, old) = (login("user", "pass"), login("other user", "pass"));
        let new = login("other user", "next pass");
        // A wrong one is refused, and the requests go on with the one that works.
        fs::write(&file, at("wrong pass")).unwrap();
        self.until_other(2, "canary", None).await;
        let (code, said) = self.try_credentials(&[]).await;
        assert_eq!(code, Some(1), "{said}");
        self.each_service("a wrong value").await;
        self.until_other(2, "rejected", None).await;
        self.command(&["credentials", "list"]).await;
        self.retries().await;
        // Two that are no password at all.
        let unreadable = [at("unreadable pass").as_bytes(), b"\xff"].concat();
        let endless = at("endless pass").repeat(4_000).into_bytes();
        for (reason, content) in [("not_text", unreadable), ("file_too_large", endless)] {
            fs::write(&file, content).unwrap();
            self.until_other(2, "rejected", Some(reason)).await;
            let (_, ready) = self.operator_says("/readyz", None).await;
            assert!(ready.contains(reason), "{ready}");
            let (status, _) = self.operator_says("/api/reload", Some("{}".into())).await;
            assert_eq!(status, 422);
            self.each_service(reason).await;
            for arguments in [&["credentials", "list"][..], &["check"]] {
                self.command(arguments).await;
            }
            let (code, said) = self.try_credentials(&[]).await;
            assert_eq!(code, Some(1), "{said}");
        }
        // The right one takes over.
        self.simulator
            .set_credentials(vec![demo.clone(), old, new.clone()]);
        fs::write(&file, at("next pass")).unwrap();
        self.until_other(3, "canary", None).await;
        self.each_service("a canary").await;
        self.until_other(1, "retired", None).await;
        self.until_other(3, "active", None).await;
        self.simulator.set_credentials(vec![demo, new]);
        let (status, _) = self.operator_says("/api/reload", Some("{}".into())).await;
        assert_eq!(status, 200);
        self.each_service("a new value").await;
        for arguments in [
            &["credentials", "list"][..],
            &["credentials", "list", "--json"],
        ] {
            let (code, said) = self.command(arguments).await;
            assert_eq!(code, Some(0), "{said}");
        }
        let (code, said) = self.try_credentials(&[]).await;
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = self.try_credentials(&["--account", "other"]).await;
        assert_eq!(code, Some(0), "{said}");
    }

    async fn try_credentials(&mut self, more: &[&str]) -> (Option<i32>, String) {
        let email = self.canaries.text("email").to_owned();
        let test = [&["credentials", "test", "--email", &email], more].concat();
        self.command(&test).await
    }

    /// Retries that are meant, and what is sent by mistake.
    async fn retries(&mut self) {
        let (stray, pass) = (
            self.canaries.text("stray"),
            self.canaries.text("wrong pass"),
        );
        let good = json!({"account": "other", "credential": "other-1"});
        let bodies = [
            (
                400,
                json!({"account": "other", "credential": pass}).to_string(),
            ),
            (
                404,
                json!({"account": "other", "credential": stray}).to_string(),
            ),
            (
                404,
                json!({"account": stray, "credential": "other-1"}).to_string(),
            ),
            (
                400,
                json!({"account": "other", "credential": [stray]}).to_string(),
            ),
            (
                400,
                json!({"account": "other", "credential": "other-1", stray: pass}).to_string(),
            ),
            (
                400,
                json!({"account": "other", "credential": "other-1", "pass": pass}).to_string(),
            ),
            (400, json!({"account": stray}).to_string()),
            (400, json!([pass]).to_string()),
            (400, stray.to_owned()),
            (400, format!("{{\"account\":\"{stray}")),
            (200, good.to_string()),
        ];
        for (expected, body) in bodies {
            let (status, said) = self
                .operator_says("/api/credentials/retry", Some(body))
                .await;
            assert_eq!(status, expected, "{said}");
        }
        // It is refused again.
        self.each_service("a second try").await;
        self.until_other(2, "rejected", None).await;
        for (account, credential, code) in
            [("other", "other-1", 0), (stray, stray, 1), (pass, pass, 2)]
        {
            let named = ["--account", account, "--credential", credential];
            let (ended, said) = self
                .command(&[&["credentials", "retry"], &named[..]].concat())
                .await;
            assert_eq!(ended, Some(code), "{said}");
        }
        self.each_service("a third try").await;
        self.until_other(2, "rejected", None).await;
    }

    /// Refused credentials are tried again, and accepted.
    async fn retry_credentials(&mut self) {
        let list = self.operator("/api/credentials", None).await;
        for account in list["accounts"].as_array().unwrap() {
            for credential in account["credentials"].as_array().unwrap() {
                if credential["state"] == "rejected" {
                    let named = json!({"account": account["id"], "credential": credential["id"]});
                    self.operator("/api/credentials/retry", Some(&named)).await;
                }
            }
        }
        for (token, full) in [
            (self.tokens[0].clone(), false),
            (self.tokens[1].clone(), true),
        ] {
            let body = self.canaries.request(GetStatus).to_string();
            self.send("after a refusal", full, &token, body).await;
        }
    }

    /// Bytes of a client that nobody has at home.
    async fn raw(&mut self, flow: &str, bytes: &str) {
        let mut stream = TcpStream::connect(self.served.gateway).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        timeout(Duration::from_secs(20), read)
            .await
            .unwrap()
            .unwrap();
        let status = String::from_utf8_lossy(&bytes[9..12]).parse().unwrap();
        let (full, images) = (false, false);
        self.seen.push(Seen {
            flow: flow.to_owned(),
            full,
            images,
            status,
            bytes,
        });
    }

    async fn each_service(&mut self, flow: &str) {
        for (index, full) in [(0, false), (1, true)] {
            let token = self.tokens[index].clone();
            for operation in [
                CreateOrUpdateCustomer,
                GetStatus,
                GetDocumentImages,
                UpdateStatus,
            ] {
                let body = self.canaries.request(operation).to_string();
                self.send(&format!("{flow}: {operation}"), full, &token, body)
                    .await;
            }
        }
    }

    async fn bad_bodies(&mut self) {
        let at = |name| self.canaries.text(name);
        let mut misplaced = self.canaries.request(CreateOrUpdateCustomer);
        for (name, value) in [
            ("dob", "fn"),
            ("state", "dob"),
            ("zip", "email"),
            ("email", "addr"),
        ] {
            misplaced["target"][name] = json!(format!("{}\u{1}", at(value)));
        }
        misplaced["target"][at("member")] = json!(at("phone"));
        misplaced["target"]["documents"]["front"] = json!(at("image"));
        misplaced["user"] = json!({at("client user"): [at("client pass")]});
        let mut status = self.canaries.request(UpdateStatus);
        status["target"]["status"] = json!(at("city"));
        let member = serde_json::to_string(at("member")).unwrap();
        let email = at("email");
        let bodies = [
            misplaced.to_string(),
            status.to_string(),
            json!({"service": at("stray"), "target": {"email": email}}).to_string(),
            json!({at("member"): 1, "service": "getStatus"}).to_string(),
            format!(
                r#"{{"service":"getStatus",{member}:1,{member}:2,"target":{{"email":"{email}"}}}}"#
            ),
            format!(r#"{{"service":"getStatus","target":{{"email":"{email}"}},}}"#),
            format!(r#"{{"service":"getStatus","target":{{"email":"{email}"#),
            format!("{email}\u{0}"),
            json!({"service": "getStatus", "target": {"email": email, "fn": "x".repeat(20_000)}})
                .to_string(),
        ];
        for token in [
            self.tokens[0].clone(),
            self.tokens[2].clone(),
            self.tokens[3].clone(),
        ] {
            for body in &bodies {
                self.send("a bad body", false, &token, body.clone()).await;
            }
        }
        // Good bodies, of those who may not send them.
        for operation in Operation::ALL {
            let body = self.canaries.request(operation).to_string();
            for token in [self.tokens[2].clone(), self.tokens[3].clone()] {
                self.send("not allowed", false, &token, body.clone()).await;
            }
        }
    }

    async fn bad_heads(&mut self) {
        let (stray, forged) = (self.canaries.text("stray"), self.canaries.text("forged"));
        let token = self.tokens[0].clone();
        let body = self.canaries.request(GetStatus).to_string();
        let good = format!(
            "POST {PATH} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nCookie: {stray}\r\nUser-Agent: {stray}\r\n\
             X-Request-Id: {stray} {stray}\r\nX-{stray}: {stray}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let basic = BASE64_STANDARD.encode(format!("{stray}:{forged}"));
        for (from, to) in [
            ("", ""),
            (PATH, &format!("{PATH}/{stray}")[..]),
            (PATH, &format!("{PATH}?token={token}")),
            ("POST", &stray.to_uppercase()),
            ("Host: gateway", &format!("Host: {stray}\r\nHost: {stray}")),
            ("Content-Type: ", &format!("Content-Type: text/{stray}, ")),
            ("Cookie: ", &format!("Expect: {stray}\r\nCookie: ")),
            (
                "Cookie: ",
                &format!("Content-Encoding: {stray}\r\nCookie: "),
            ),
            (
                "Cookie: ",
                &format!("Transfer-Encoding: {stray}\r\nCookie: "),
            ),
            ("Content-Length: ", &format!("X-{stray}: ")),
            (
                "Cookie: ",
                &format!("Authorization: Bearer {token}\r\nCookie: "),
            ),
            ("Cookie: ", &format!("{stray} : {stray}\r\nCookie: ")),
            (&format!("Bearer {token}"), &format!("Bearer {forged}")),
            (&format!("Bearer {token}"), &format!("Basic {basic}")),
            (
                &format!("Bearer {token}"),
                &format!("Bearer {}", &token[..token.len() - 3]),
            ),
            (
                &format!("Bearer {token}"),
                &format!("Bearer {stray}{token}"),
            ),
            ("HTTP/1.1", &format!("HTTP/{stray}")),
            ("Content-Length: ", &format!("Content-Length: {stray}")),
            (
                "\r\n\r\n",
                &format!("\r\nX-Long: {}\r\n\r\n", stray.repeat(1000)),
            ),
        ] {
            self.raw("a bad head", &good.replacen(from, to, 1)).await;
        }
        // Half a body, and gone.
        let mut stream = TcpStream::connect(self.served.gateway).await.unwrap();
        stream
            .write_all(&good.as_bytes()[..good.len() - 9])
            .await
            .unwrap();
        stream.set_zero_linger().unwrap();
    }

    async fn bad_answers(&mut self) {
        let stray = self.canaries.text("stray");
        let (user, pass) = (self.canaries.text("user"), self.canaries.text("pass"));
        let status = |status, message: &str| FaultKind::Status {
            status,
            message: message.to_owned(),
            retry_after: None,
        };
        let error = |error| FaultKind::Error { error };
        for fault in [
            error(DocumentedError::BadLogin),
            error(DocumentedError::MissingInput),
            FaultKind::ErrorWith200 {
                error: DocumentedError::BadLogin,
            },
            status(401, stray),
            status(500, stray),
            status(418, stray),
            status(200, stray),
            status(400, &format!("{pass} is wrong")),
            FaultKind::Html { status: 200 },
            FaultKind::Malformed {},
            FaultKind::Truncate { bytes: 200 },
            FaultKind::ResetInBody { bytes: 200 },
            FaultKind::Reset {},
            FaultKind::NotHttp {},
            FaultKind::Redirect {
                status: 307,
                location: format!("/{stray}"),
            },
            FaultKind::Headers { bytes: 65_536 },
            FaultKind::Oversize {
                bytes: 3 << 20,
                chunked: true,
            },
        ] {
            let flow = fault.name();
            self.simulator.add_fault(Fault::always(fault)).unwrap();
            self.each_service(flow).await;
            self.simulator.clear_faults();
            self.retry_credentials().await;
        }
        // Its own user, to whom the other account's is just a word.
        self.simulator
            .add_fault(Fault::once(status(404, &format!("no {user}"))))
            .unwrap();
        let body = self.canaries.request(GetStatus).to_string();
        self.send("a repeated user", false, &self.tokens[0].clone(), body)
            .await;
        for echo in [Echo::Message, Echo::Reference, Echo::Target, Echo::Link] {
            let behaviour = Behaviour {
                echo,
                extra_fields: true,
                ..Behaviour::default()
            };
            self.simulator.set_behaviour(behaviour);
            self.each_service(&format!("echo {echo:?}")).await;
        }
        self.simulator.set_behaviour(Behaviour::default());
        for fault in [FaultKind::Hang {}, FaultKind::Drip { bytes: 1, ms: 500 }] {
            self.simulator.add_fault(Fault::once(fault)).unwrap();
            let body = self.canaries.request(GetStatus).to_string();
            self.send("a timeout", false, &self.tokens[0].clone(), body)
                .await;
        }
    }

    /// Sends a request, and leaves when it is upstream.
    async fn leave(&mut self) {
        let before = self
            .simulator
            .requests()
            .last()
            .map_or(0, |record| record.sequence);
        self.simulator
            .add_fault(Fault::once(FaultKind::Delay { ms: 1_000 }))
            .unwrap();
        let request = client()
            .post(self.served.url())
            .bearer_auth(&self.tokens[0]);
        let request = request.json(&self.canaries.request(CreateOrUpdateCustomer));
        tokio::select! {
            answered = request.send() => panic!("answered before its time: {}", answered.unwrap().text().await.unwrap()),
            () = self.simulator.arrived(before + 1) => {}
        }
    }
}

/// The other tenant, whose credential has a file of its own to be rotated by.
fn rotated() -> String {
    OTHER_TENANT.replace("\"pass\"", "\"other-pass\"").replace(
        "[[issuers]]",
        "[accounts.rotation]\ncanary_time = \"0s\"\n[[issuers]]",
    )
}

/// What is in a folder's files, one after the other.
fn files(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let content = if path.is_dir() {
            files(&path)
        } else {
            fs::read(&path).unwrap()
        };
        all.extend_from_slice(&content);
        all.push(b'\n');
    }
    all
}

/// The scene of a test: a folder of canaries, and who may call.
fn tokens(folder: &Path, url: &str, canaries: &Canaries) -> [String; 4] {
    let config = load(folder, url, &[]);
    let mint = |index: usize, operations: &[Operation], customer| {
        let issuer = &config.issuers[index];
        let grant = Grant {
            tenant: &config.tenants[index].id,
            operations: operations.iter().copied().collect(),
            subject: Some(canaries.text("subject")),
            customer,
            ttl: Duration::from_mins(10),
        };
        grant
            .mint(issuer, &config.signing_keys[&issuer.id], clock::now())
            .unwrap()
    };
    let all = &Operation::ALL;
    [
        mint(0, all, None),
        mint(1, all, None),
        mint(0, &[], None),
        mint(0, all, Some("a@b.example")),
    ]
}

#[tokio::test]
async fn canaries_show_up_nowhere() {
    auth::install_crypto();
    for format in ["text", "json"] {
        let mut canaries = Canaries::hatch();
        let stop = CancellationToken::new();
        let folder = TempDir::new().unwrap();
        canaries.write_secrets(folder.path());
        let pair = |user| Login::new(canaries.text(user), canaries.text("pass"));
        let simulator = simulator(pair("user"), stop.clone()).await;
        let logins = vec![pair("user"), pair("other user")];
        simulator.set_credentials(logins.clone());
        let receiver = Receiver::start(|_| TAKEN).await;
        let toml = format!(
            "[audit]\nrotate_size = \"16KiB\"\n{}[telemetry]\nlog_level = \"trace\"\nlog_format = \"{format}\"\n\
             [upstream]\ntimeout = \"4s\"\nconnect_timeout = \"4s\"\n\
             max_response = \"2MiB\"\n[admin]\ntoken = {{ file = \"admin-token\" }}\n{}",
            trail::second_place(&receiver),
            rotated()
        );
        let variables = [
            ("RUST_LOG", "trace"),
            ("RUST_BACKTRACE", "1"),
            ("DCAMS_GATEWAY__RELOAD__WATCH", "100ms"),
            ("DCAMS_GATEWAY__CACHE__ENABLED", "true"),
        ];
        let mut served = Served::start(folder.path(), &simulator.url(), &toml, &variables).await;
        let tokens = tokens(folder.path(), &simulator.url(), &canaries);
        for (name, token) in ["token", "other token", "poor token", "bound token"]
            .iter()
            .zip(&tokens)
        {
            canaries
                .0
                .push((name, Kind::Secret, token.clone().into_bytes()));
        }
        let seen = Vec::new();
        let mut drive = Drive {
            canaries: &canaries,
            folder: folder.path(),
            served: &served,
            simulator: &simulator,
            tokens,
            seen,
        };
        drive.each_service("success").await;
        drive.bad_bodies().await;
        drive.bad_heads().await;
        drive.bad_answers().await;
        simulator.set_credentials(Vec::new());
        drive.each_service("a refused credential").await;
        simulator.set_credentials(logins);
        drive.retry_credentials().await;
        drive.rotate().await;
        drive.leave().await;
        let seen = drive.seen;
        let open_state = files(&folder.path().join("state"));

        let process = fs::read(format!("/proc/{}/cmdline", served.program.id)).unwrap();
        let page = metrics(&served, &canaries).await;
        served.program.signal("TERM");
        served.program.err.says("draining", 1).await;
        let ended = served.program.end().await;
        assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
        stop.cancel();

        let search = Search::new(&canaries);
        let closed_state = files(&folder.path().join("state"));
        for (sink, text, enough) in [
            ("state, in use", &open_state[..], 1),
            ("state, at the end", &closed_state, 1),
            ("standard output", ended.out.as_bytes(), 150),
            ("standard error", ended.err.as_bytes(), 180),
            ("metrics", page.as_bytes(), 100),
            ("command line", &process, 0),
        ] {
            assert_eq!(search.find(text), BTreeSet::new(), "{format}: {sink}");
            // Where nothing is written nothing is found.
            let lines = text.split(|byte| *byte == b'\n').count();
            assert!(lines > enough, "{format}: {sink} has but {lines} lines");
        }
        trail::assert_clean(folder.path(), &canaries, &receiver, &search).await;
        let mut shown = BTreeSet::new();
        for answer in &seen {
            for name in search.find(&answer.bytes) {
                let allowed = answer.may_show(canaries.kind(name));
                let Seen { flow, status, .. } = answer;
                assert!(
                    allowed,
                    "{format}: {name} in the answer to {flow}, {status}"
                );
                shown.insert(name);
            }
        }
        // What may be seen was seen: the search looks at what was sent.
        for name in [
            "email",
            "fn",
            "ln",
            "addr",
            "city",
            "dob",
            "phone",
            "reference",
            "image",
        ] {
            assert!(shown.contains(name), "{name} was never answered");
        }
        let statuses: BTreeSet<u16> = seen.iter().map(|answer| answer.status).collect();
        let expected = [
            200, 400, 401, 403, 404, 405, 411, 413, 415, 417, 431, 502, 504,
        ];
        assert!(
            statuses.is_superset(&BTreeSet::from(expected)),
            "{statuses:?}"
        );
    }
}

async fn metrics(served: &Served, canaries: &Canaries) -> String {
    let url = format!("http://{}/metrics", served.admin);
    let refused = client()
        .get(&url)
        .bearer_auth(canaries.text("stray"))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 401);
    let page = client().get(&url).bearer_auth(canaries.text("admin token"));
    let page = answer(page.send().await.unwrap()).await;
    assert_eq!(page.status, 200);
    page.text
}

#[tokio::test]
async fn check_and_serve_never_repeat_a_secret() {
    let canaries = Canaries::hatch();
    let search = Search::new(&canaries);
    let (secret, key) = (canaries.text("stray"), canaries.text("issuer key"));
    let quoted = serde_json::to_string(canaries.text("client pass")).unwrap();
    let at = "pass = { file = \"pass\" }";
    let file = |name: &str, content: &str| (name.to_owned(), content.to_owned());
    for (from, to, (name, content)) in [
        (at, format!("pass = \"{secret}\""), file("x", "")),
        (at, format!("pass = {quoted}"), file("x", "")),
        (at, format!("pass = [\"{secret}\"]"), file("x", "")),
        (
            at,
            format!("pass = {{ file = \"{secret}\" }}"),
            file("x", ""),
        ),
        (
            at,
            format!("pass = {{ file = \"/run/secrets/{secret}\" }}"),
            file("x", ""),
        ),
        (
            at,
            format!("pass = {{ env = \"{secret}\" }}"),
            file("x", ""),
        ),
        (
            at,
            format!("pass = {{ value = \"{secret}\" }}"),
            file("x", ""),
        ),
        // Not TOML from here on, and a parser that shows the line would show it.
        (at, format!("pass = {secret}"), file("x", "")),
        (at, format!("pass = \"{secret}"), file("x", "")),
        (
            at,
            format!("pass = {{ file = \"{secret}\" \"{key}\""),
            file("x", ""),
        ),
        (
            "http://127.0.0.1:1",
            format!("https://{secret}:{key}@dcams.app"),
            file("x", ""),
        ),
        (
            "http://127.0.0.1:1",
            format!("https://dcams.app/{secret}?{key}#"),
            file("x", ""),
        ),
        (
            "http://127.0.0.1:1",
            format!("ftp://{secret}"),
            file("x", ""),
        ),
        (
            "secret = { file = \"issuer.key\" }",
            format!("secret = \"{key}\""),
            file("x", ""),
        ),
        (
            "HS256\"]\nsecret",
            "ES256\"]\npublic_key".into(),
            file("issuer.key", key),
        ),
        (
            "secret = { file",
            "jwks_file = \"issuer.key\"\nsecret = { file".into(),
            file("issuer.key", key),
        ),
        ("", String::new(), file("issuer.key", &secret[..19])),
        ("", String::new(), file("state.key", secret)),
        (
            "",
            String::new(),
            file("state.key", &canaries.text("state key")[..40]),
        ),
        (
            "",
            String::new(),
            file("audit.key", &format!("{key}\n{key}\n")),
        ),
        (
            "[state]",
            format!("[admin]\ntoken = \"{key}\"\n[state]"),
            file("x", ""),
        ),
        (
            "[state]",
            "[admin]\ntoken = { file = \"t\" }\n[state]".into(),
            file("t", &format!("{key} x")),
        ),
    ] {
        let folder = TempDir::new().unwrap();
        canaries.write_secrets(folder.path());
        let text = fs::read_to_string(folder.path().join("demo.toml")).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(folder.path().join("demo.toml"), text.replacen(from, &to, 1)).unwrap();
        fs::write(folder.path().join(name), &content).unwrap();
        let config = folder.path().join("demo.toml").display().to_string();
        for command in ["check", "serve"] {
            let ended = run(&[command, "--config", &config], &[("RUST_LOG", "trace")]).await;
            assert_eq!(
                ended.status.code(),
                Some(1),
                "{command} {to} {content:?}: {}",
                ended.out
            );
            for text in [&ended.out, &ended.err] {
                assert_eq!(
                    search.find(text.as_bytes()),
                    BTreeSet::new(),
                    "{to}: {text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn debug_shows_no_secret_and_no_person() {
    auth::install_crypto();
    let canaries = Canaries::hatch();
    let folder = TempDir::new().unwrap();
    canaries.write_secrets(folder.path());
    let probe = format!(
        "[accounts.probe]\nemail = \"{}\"\n[[issuers]]",
        canaries.text("email")
    );
    let toml = format!(
        "[admin]\ntoken = {{ file = \"admin-token\" }}\n{}",
        rotated().replace("[[issuers]]", &probe)
    );
    fs::write(folder.path().join("more.toml"), toml).unwrap();
    let url = "http://127.0.0.1:1/";
    let [token, ..] = tokens(folder.path(), url, &canaries);
    let config: Config = load(folder.path(), url, &[]);
    let body = Bytes::from(canaries.request(CreateOrUpdateCustomer).to_string());
    let lifted = lift(&[body], 16 * 1024).unwrap();
    let today = jiff::civil::date(2026, 1, 1);
    let submission = Submission::parse(&lifted, &config.rules, today).unwrap();
    let login = Login::new(canaries.text("user"), canaries.text("pass"));
    let mut shown = format!(
        "{config:#?} {:#?} {:#?} {:#?} {:#?} {:#?} {:#?} {:#?} {:#?} {:#?} {lifted:#?} \
         {submission:#?} {login:#?}",
        config.admin,
        config.accounts,
        config.issuers,
        config.signing_keys,
        config.tenants,
        config.upstream,
        config.pseudonyms,
        config.server,
        config.telemetry,
    );
    for account in config.accounts.clone() {
        write!(shown, "{}", debug_of(account)).unwrap();
    }
    let request = http::Request::post(PATH).header("authorization", format!("Bearer {token}"));
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let proofs = ProofChecker::new(config.dpop, clock::now());
    let authenticator = Authenticator::new(config.issuers, RevocationList::default(), proofs);
    let caller = authenticator
        .authenticate(&parts, clock::now())
        .await
        .unwrap();
    write!(shown, "{authenticator:#?} {caller:#?}").unwrap();
    assert_eq!(
        Search::new(&canaries).find(shown.as_bytes()),
        BTreeSet::new(),
        "{shown}"
    );
    assert!(shown.len() > 2_000);
}

/// All that is made of an account, printed both ways.
fn debug_of(account: Account) -> String {
    let mut shown = format!("{account:?} {account:#?}");
    let work = Arc::new(Notify::new());
    let pool = Pool::new(account.id.clone(), work);
    let mut slots = Vec::new();
    for settings in &account.credentials {
        let CredentialSettings { source, value, .. } = settings;
        let value = value.clone().unwrap();
        let read = source.read_local().unwrap();
        let guard = value.echo();
        write!(
            shown,
            "{settings:?} {source:?} {value:?} {read:#?} {guard:?}"
        )
        .unwrap();
        slots.push(Slot {
            id: settings.id.clone(),
            validity: settings.validity,
            offer: Some(Offer {
                credential: value,
                facts: None,
            }),
        });
    }
    pool.configure(account.pace, slots, clock::now());
    let standings = AccountStanding {
        id: account.id,
        usable: pool.is_usable(),
        credentials: pool.standings(),
        troubles: vec![(account.credentials[0].id.clone(), "not_text")],
    };
    assert_eq!(standings.credentials.len(), account.credentials.len());
    let changes = pool.take_changes();
    assert!(!changes.is_empty());
    let known: Vec<_> = pool.facts().iter().map(|k| (k.name(), k.facts)).collect();
    write!(
        shown,
        "{pool:?} {pool:#?} {standings:?} {changes:?} {known:?}"
    )
    .unwrap();
    shown
}
