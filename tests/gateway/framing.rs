//! What the listener answers to heads and bodies that two readers could read differently, byte by byte
//! over a raw socket: status, number of answers, and whether the connection lives on.

use std::{net::SocketAddr, time::Duration};

use dcams_gateway::operation::Operation;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    slow::run_silences,
    support::{World, customer, lookup},
};

/// Where to send the cases, and what a good request is there.
#[derive(Debug, Clone)]
pub struct Target {
    /// The listener.
    pub addr: SocketAddr,
    /// A valid token.
    pub token: String,
    /// A body that is answered with `handled`.
    pub body: String,
    /// The status of a good request.
    pub handled: u16,
}

/// One input.
pub struct Case {
    /// What it is.
    pub name: String,
    /// What is sent, all of it, whether or not an answer comes before its end.
    pub bytes: Vec<u8>,
    /// What must come back.
    pub expect: Expect,
}

/// What must come back.
pub struct Expect {
    /// For each answer in order, the statuses that will do.
    pub statuses: Vec<Vec<u16>>,
    /// Whether the connection can be used for another request afterwards, or is closed.
    pub usable: bool,
}

const PATH: &str = "/v3/stable/api/storage";

/// Runs every case, each on its own connection. Returns how many requests were handled in all, so that
/// the caller can compare that with what the upstream saw.
pub async fn run(target: &Target) -> usize {
    let mut handled = 0;
    let mut wrong = Vec::new();
    for case in cases(target) {
        match play(target, &case).await {
            Ok(count) => handled += count,
            Err(error) => wrong.push(format!("{}: {error}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    handled
}

/// Plays one case; how many of its requests (and of the one sent after it) were handled.
async fn play(target: &Target, case: &Case) -> Result<usize, String> {
    let stream = TcpStream::connect(target.addr)
        .await
        .map_err(|error| error.to_string())?;
    let (mut reader, mut writer) = stream.into_split();
    let bytes = case.bytes.clone();
    let sending = tokio::task::spawn(async move {
        // An early answer may close the connection under a long body.
        let whole = writer.write_all(&bytes).await.is_ok();
        (writer, whole)
    });
    let mut answers = Answers::default();
    let mut seen = Vec::new();
    for allowed in &case.expect.statuses {
        let status = answers.next(&mut reader).await?;
        let status = status.ok_or_else(|| format!("closed after {seen:?}"))?;
        seen.push(status);
        if !allowed.contains(&status) {
            return Err(format!("answered {seen:?}"));
        }
    }
    let (mut writer, whole) = sending.await.map_err(|error| error.to_string())?;
    if case.expect.usable {
        if !whole {
            return Err("not all was taken".to_owned());
        }
        let next = good(target).into_bytes();
        writer
            .write_all(&next)
            .await
            .map_err(|error| error.to_string())?;
        let status = answers.next(&mut reader).await?;
        if status != Some(target.handled) {
            return Err(format!("the next request was answered {status:?}"));
        }
        seen.push(target.handled);
    } else if let Some(status) = answers.next(&mut reader).await? {
        return Err(format!("a further answer, {status}"));
    }
    Ok(seen
        .iter()
        .filter(|status| **status == target.handled)
        .count())
}

/// Reads answers off a connection.
#[derive(Default)]
struct Answers {
    buffer: Vec<u8>,
}

impl Answers {
    /// The status of the next whole answer; `None` when the connection was closed or reset instead.
    async fn next(
        &mut self,
        reader: &mut (impl AsyncReadExt + Unpin),
    ) -> Result<Option<u16>, String> {
        loop {
            if let Some((status, length)) = self.whole() {
                self.buffer.drain(..length);
                return Ok(Some(status));
            }
            let mut chunk = vec![0; 16 * 1024];
            let read = timeout(Duration::from_secs(4), reader.read(&mut chunk)).await;
            match read {
                Err(_) => return Err("neither an answer nor a close".to_owned()),
                Ok(Ok(count)) if count > 0 => self.buffer.extend_from_slice(&chunk[..count]),
                Ok(_) if self.buffer.is_empty() => return Ok(None),
                Ok(_) => return Err("closed within an answer".to_owned()),
            }
        }
    }

    /// Status and full length of the first answer, if all of it is here.
    fn whole(&self) -> Option<(u16, usize)> {
        let head = self.buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let status: u16 = text.split(' ').nth(1)?.parse().ok()?;
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(Some(0), |value| value.trim().parse().ok())?;
        (self.buffer.len() >= head + length).then_some((status, head + length))
    }
}

/// A request that is handled.
fn good(target: &Target) -> String {
    Builder::new(target).text()
}

/// Every input, in the order of the table it comes from.
pub fn cases(target: &Target) -> Vec<Case> {
    let mut list = List {
        target,
        cases: Vec::new(),
    };
    hosts(&mut list);
    transfer_encodings(&mut list);
    chunks(&mut list);
    lengths(&mut list);
    header_syntax(&mut list);
    doubled(&mut list);
    targets(&mut list);
    methods(&mut list);
    expectations(&mut list);
    sizes(&mut list);
    media_types(&mut list);
    pipelines(&mut list);
    early_answers(&mut list);
    list.cases
}

fn hosts(list: &mut List<'_>) {
    let b = || list.builder();
    let cases = [
        ("no Host", b().without("Host")),
        ("two Hosts", b().add("Host: gateway.example")),
        ("two different Hosts", b().add("Host: other.example")),
        ("Host with a space", b().set("Host", "a b")),
        ("empty Host", b().set("Host", "")),
        ("Host with a user", b().set("Host", "u@gateway.example")),
        ("Host with a path", b().set("Host", "gateway.example/x")),
    ];
    for (name, request) in cases {
        list.refused(name, 400, &request);
    }
    let request = list.builder().set("Host", "[::1]:8080");
    list.handled("Host with an address", &request);
}

fn transfer_encodings(list: &mut List<'_>) {
    let chunked = |b: Builder| b.without("Content-Length").body("2\r\n{}\r\n0\r\n\r\n");
    let with = |b: Builder, value: &str| chunked(b).add(&format!("Transfer-Encoding: {value}"));
    for (name, value) in [
        ("TE chunked", "chunked"),
        ("TE gzip, chunked", "gzip, chunked"),
        ("TE chunked, chunked", "chunked, chunked"),
        ("TE with a tab", "\tchunked"),
    ] {
        let request = with(list.builder(), value);
        list.refused(name, 411, &request);
    }
    let te = "Transfer-Encoding: chunked";
    let cl = "Content-Length: 5";
    let twice = chunked(list.builder()).add(te).add(te);
    list.refused("TE twice", 411, &twice);
    let after = chunked(list.builder()).add(cl).add(te);
    list.refused("CL, then TE", 411, &after);
    let before = chunked(list.builder()).add(te).add(cl);
    list.refused("TE, then CL", 411, &before);
    for (name, value) in [
        ("TE xchunked", "xchunked"),
        ("TE identity", "identity"),
        ("TE quoted", "\"chunked\""),
        ("TE with VT", "\u{b}chunked"),
        ("TE with NUL", "chunked\0"),
        ("TE empty", ""),
        ("TE chunked, identity", "chunked, identity"),
    ] {
        let request = with(list.builder(), value);
        list.refused(name, 400, &request);
    }
    let spaced = chunked(list.builder()).add("Transfer-Encoding : chunked");
    list.refused("TE with a space before the colon", 400, &spaced);
    let old = with(list.builder(), "chunked").version("HTTP/1.0");
    list.refused("TE on HTTP/1.0", 400, &old);
}

fn chunks(list: &mut List<'_>) {
    let extension = format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(20 * 1024));
    for (name, body) in [
        ("chunk size with a trailing space", "2 \r\n{}\r\n0\r\n\r\n"),
        ("chunk size g", "g\r\n{}\r\n0\r\n\r\n"),
        ("chunk size empty", "\r\n{}\r\n0\r\n\r\n"),
        ("chunk size -2", "-2\r\n{}\r\n0\r\n\r\n"),
        ("chunk size 0x2", "0x2\r\n{}\r\n0\r\n\r\n"),
        (
            "chunk size overflows",
            "11111111111111112\r\n{}\r\n0\r\n\r\n",
        ),
        ("chunk spills", "1\r\n{}\r\n0\r\n\r\n"),
        ("chunk without CRLF", "2\r\n{}0\r\n\r\n"),
        ("chunk extension of 20 KiB", &extension),
        (
            "trailer Content-Length",
            "2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n",
        ),
        (
            "trailer Authorization",
            "2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
        ),
    ] {
        let request = list
            .builder()
            .without("Content-Length")
            .add("Transfer-Encoding: chunked")
            .body(body);
        list.refused(name, 411, &request);
    }
}

fn lengths(list: &mut List<'_>) {
    let length = list.target.body.len();
    let cl = |value: &str| format!("Content-Length: {value}");
    let equal = list.builder().add(&cl(&length.to_string()));
    list.handled("two equal CLs", &equal);
    let zeros = list
        .builder()
        .set("Content-Length", &format!("000{length}"));
    list.handled("CL with leading zeros", &zeros);
    let different = list.builder().add(&cl(&(length + 1).to_string()));
    list.refused("two different CLs", 400, &different);
    for (name, value) in [
        ("CL 2, 2", "2, 2"),
        ("CL +2", "+2"),
        ("CL -2", "-2"),
        ("CL 0x2", "0x2"),
        ("CL empty", ""),
        ("CL overflows", "18446744073709551616"),
        ("CL with a space inside", "1 2"),
    ] {
        let request = list.builder().set("Content-Length", value);
        list.refused(name, 400, &request);
    }
    // hyper takes a length that it keeps for itself for a head that is too large.
    let most = list.builder().set("Content-Length", "18446744073709551615");
    list.one_of("CL of u64's maximum", most.text(), &[400, 431]);
    let none = list.builder().without("Content-Length").body("");
    list.usable("no CL", 411, &none);
    let old = none_on_http10(list);
    list.refused("no CL on HTTP/1.0", 411, &old);
}

fn none_on_http10(list: &List<'_>) -> Builder {
    list.builder()
        .without("Content-Length")
        .body("")
        .version("HTTP/1.0")
}

fn header_syntax(list: &mut List<'_>) {
    for (name, line) in [
        ("obs-fold", "X-A: b\r\n c"),
        ("NUL in a value", "X-A: b\0c"),
        ("bare CR in a value", "X-A: b\rc"),
        ("bare CR at the end of a value", "X-A: b\r"),
        ("space before the colon", "X-A : b"),
        ("no colon", "X-A"),
        ("empty name", ": b"),
        ("name with a control character", "X\u{1}A: b"),
    ] {
        let request = list.builder().add(line);
        list.refused(name, 400, &request);
    }
    let text = list.builder().text();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let bare = format!("{}\n\n{body}", head.replace("\r\n", "\n"));
    list.push("bare-LF lines", bare, &[list.target.handled], true);
    let empty_lines = format!("\r\n\r\n{text}");
    list.push(
        "empty lines first",
        empty_lines,
        &[list.target.handled],
        true,
    );
    for (name, from, to) in [
        ("HTTP/1.2", "HTTP/1.1", "HTTP/1.2"),
        ("http/1.1", "HTTP/1.1", "http/1.1"),
        ("no version", " HTTP/1.1", ""),
        ("two spaces in the request line", " HTTP/1.1", "  HTTP/1.1"),
    ] {
        list.push(name, text.replacen(from, to, 1), &[400], false);
    }
    // Its preface reads as an HTTP/1 request of a version that is not spoken.
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned();
    list.push("HTTP/2 preface", preface, &[], false);
}

fn doubled(list: &mut List<'_>) {
    let again = format!("Authorization: Bearer {}", list.target.token);
    let request = list.builder().add(&again);
    list.refused("two equal Authorizations", 400, &request);
    let request = list.builder().add("Authorization: Basic eDp5");
    list.refused("two different Authorizations", 400, &request);
    let request = list.builder().add("Content-Type: application/json");
    list.refused("two Content-Types", 400, &request);
    let request = list
        .builder()
        .add("Upgrade: h2c")
        .add("Connection: Upgrade, HTTP2-Settings");
    list.handled("Upgrade: h2c", &request);
}

fn targets(list: &mut List<'_>) {
    for (name, target) in [
        ("dot segments", "/x/../v3/stable/api/storage"),
        ("percent-encoded letter", "/v3/stable/api/%73torage"),
        ("two slashes first", "//v3/stable/api/storage"),
        ("slash last", "/v3/stable/api/storage/"),
        ("asterisk", "*"),
        ("longer than 2 KiB", &format!("/{}", "x".repeat(3000))),
    ] {
        let request = list.builder().target(target);
        list.usable(name, 404, &request);
    }
    for (name, target) in [
        ("fragment", format!("{PATH}#x")),
        ("query", format!("{PATH}?user=x")),
        ("empty query", format!("{PATH}?")),
        (
            "absolute form, other host",
            format!("http://other.example{PATH}"),
        ),
        (
            "absolute form, user",
            format!("http://u@gateway.example{PATH}"),
        ),
        ("not ASCII", format!("{PATH}\u{7f}")),
    ] {
        let request = list.builder().target(&target);
        list.refused(name, 400, &request);
    }
    let request = list
        .builder()
        .target(&format!("http://gateway.example{PATH}"));
    list.handled("absolute form, same host", &request);
}

fn methods(list: &mut List<'_>) {
    for (name, method, target) in [
        ("CONNECT", "CONNECT", "gateway.example:443"),
        ("TRACE", "TRACE", PATH),
        ("post", "post", PATH),
        ("GET", "GET", PATH),
        ("QUERY", "QUERY", PATH),
    ] {
        let request = list
            .builder()
            .method(method)
            .target(target)
            .without("Content-Length")
            .body("");
        list.usable(name, 405, &request);
    }
}

fn expectations(list: &mut List<'_>) {
    let request = list.builder().add("Expect: 200-ok");
    // Nobody knows whether the body comes.
    list.refused("Expect: 200-ok", 417, &request);
    // The body is sent at once, so that there may be a 100 or none.
    let handled = list.target.handled;
    let request = list.builder().add("Expect: 100-continue");
    list.push(
        "Expect: 100-continue",
        request.text(),
        &[100, handled],
        true,
    );
    let request = list
        .builder()
        .set("Authorization", "Bearer x")
        .add("Expect: 100-continue");
    list.refused("Expect: 100-continue without a valid token", 401, &request);
}

fn sizes(list: &mut List<'_>) {
    let many = |b: Builder, count: usize| (0..count).fold(b, |b, i| b.add(&format!("X-{i}: a")));
    // The builder has four of its own.
    let most = many(list.builder(), 60);
    list.handled("64 headers", &most);
    let more = many(list.builder(), 61);
    list.refused("65 headers", 431, &more);
    let request = many(list.builder(), 97);
    list.refused("101 headers", 431, &request);
    for (name, size) in [
        ("a header of 64 KiB", 64 * 1024),
        ("a header of 1 MiB", 1024 * 1024),
    ] {
        let request = list.builder().add(&format!("X-A: {}", "a".repeat(size)));
        list.refused(name, 431, &request);
    }
    let room = 16 * 1024 - list.builder().add("X-A: ").head().len();
    let at = list.builder().add(&format!("X-A: {}", "a".repeat(room)));
    list.handled("a head of 16 KiB", &at);
    let over = list
        .builder()
        .add(&format!("X-A: {}", "a".repeat(room + 1)));
    list.refused("a head of 16 KiB and 1", 431, &over);
    let long = format!("/{}", "x".repeat(70 * 1024));
    let request = list.builder().target(&long).text();
    list.one_of("a target of 70 KiB", request, &[414, 431]);
}

fn media_types(list: &mut List<'_>) {
    let request = list.builder().without("Content-Type");
    list.usable("no Content-Type", 415, &request);
    for (name, value) in [
        ("form", "application/x-www-form-urlencoded"),
        ("latin-1", "application/json; charset=iso-8859-1"),
    ] {
        let request = list.builder().set("Content-Type", value);
        list.usable(name, 415, &request);
    }
    let request = list.builder().add("Content-Encoding: gzip");
    list.usable("gzip", 415, &request);
}

fn pipelines(list: &mut List<'_>) {
    let good = list.builder().text();
    let handled = list.target.handled;
    list.push(
        "two requests at once",
        good.repeat(2),
        &[handled, handled],
        true,
    );
    let get = list.builder().method("GET").text();
    list.push(
        "GET with a body, then a request",
        format!("{get}{good}"),
        &[405],
        false,
    );
    // The body is itself a request, and must never be answered as one.
    let hidden = list
        .builder()
        .set("Authorization", "Bearer x")
        .body_of(&good);
    list.push(
        "401, the body a request",
        format!("{hidden}{good}"),
        &[401, handled],
        true,
    );
    let last = list.builder().add("Connection: close");
    list.refused("Connection: close", handled, &last);
}

fn early_answers(list: &mut List<'_>) {
    for (name, size, usable) in [
        ("401 before a body of 0", 0, true),
        ("401 before a body of 1", 1, true),
        ("401 before a body of 64 KiB", 64 * 1024, true),
        ("401 before a body of 64 KiB and 1", 64 * 1024 + 1, false),
        ("401 before a body of 10 MB", 10_000_000, false),
    ] {
        let request = list
            .builder()
            .set("Authorization", "Bearer x")
            .body_of(&"x".repeat(size));
        list.push(name, request, &[401], usable);
        let request = list
            .builder()
            .set("Authorization", "Bearer x")
            .add("Expect: 100-continue")
            .body_of(&"x".repeat(size));
        // Without a body there is nothing to wait for, and nothing that could be left.
        let name = format!("{name}, Expect");
        list.push(&name, request, &[401], size == 0);
    }
    let request = list.builder().body_of(&"x".repeat(11_000_000));
    list.push("413 by Content-Length", request, &[413], false);
}

struct List<'a> {
    target: &'a Target,
    cases: Vec<Case>,
}

impl List<'_> {
    fn builder(&self) -> Builder {
        Builder::new(self.target)
    }

    fn handled(&mut self, name: &str, request: &Builder) {
        self.push(name, request.text(), &[self.target.handled], true);
    }

    /// One answer, after which the connection is closed.
    fn refused(&mut self, name: &str, status: u16, request: &Builder) {
        self.push(name, request.text(), &[status], false);
    }

    /// One answer, after which the connection serves another request.
    fn usable(&mut self, name: &str, status: u16, request: &Builder) {
        self.push(name, request.text(), &[status], true);
    }

    fn one_of(&mut self, name: &str, request: String, statuses: &[u16]) {
        self.cases.push(Case {
            name: name.to_owned(),
            bytes: request.into_bytes(),
            expect: Expect {
                statuses: vec![statuses.to_vec()],
                usable: false,
            },
        });
    }

    fn push(&mut self, name: &str, request: String, statuses: &[u16], usable: bool) {
        self.cases.push(Case {
            name: name.to_owned(),
            bytes: request.into_bytes(),
            expect: Expect {
                statuses: statuses.iter().map(|status| vec![*status]).collect(),
                usable,
            },
        });
    }
}

/// A good request, to be spoiled.
#[derive(Clone)]
struct Builder {
    method: String,
    target: String,
    version: String,
    lines: Vec<String>,
    body: String,
}

impl Builder {
    fn new(target: &Target) -> Self {
        Self {
            method: "POST".to_owned(),
            target: PATH.to_owned(),
            version: "HTTP/1.1".to_owned(),
            lines: vec![
                "Host: gateway.example".to_owned(),
                format!("Authorization: Bearer {}", target.token),
                "Content-Type: application/json".to_owned(),
                format!("Content-Length: {}", target.body.len()),
            ],
            body: target.body.clone(),
        }
    }

    fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    fn target(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.lines
            .retain(|line| !line.starts_with(&format!("{name}:")));
        self
    }

    fn add(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    fn set(self, name: &str, value: &str) -> Self {
        self.without(name).add(&format!("{name}: {value}"))
    }

    fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    /// The request with this body and its length.
    fn body_of(self, body: &str) -> String {
        self.set("Content-Length", &body.len().to_string())
            .body(body)
            .text()
    }

    fn head(&self) -> String {
        let Self {
            method,
            target,
            version,
            ..
        } = self;
        format!(
            "{method} {target} {version}\r\n{}\r\n\r\n",
            self.lines.join("\r\n")
        )
    }

    fn text(&self) -> String {
        format!("{}{}", self.head(), self.body)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_gateway_answers_every_framing_input_and_sends_no_request_twice() {
    let world = World::start().await;
    let token = world.full_token();
    assert_eq!(world.post(&token, &customer()).await.status, 200);
    let before = world.simulator.requests().len();
    let target = Target {
        addr: world.gateway,
        token,
        body: lookup(Operation::GetStatus).to_string(),
        handled: 200,
    };
    let handled = run(&target).await;
    assert_eq!(world.simulator.requests().len() - before, handled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_gateway_closes_every_silent_connection_in_time() {
    let (header, idle) = (Duration::from_millis(700), Duration::from_millis(1500));
    let timeouts = [
        ("SERVER__HEADER_TIMEOUT", "700ms"),
        ("SERVER__IDLE_TIMEOUT", "1500ms"),
    ];
    let world = World::with("", &timeouts).await;
    let body = lookup(Operation::GetStatus).to_string();
    let good = format!(
        "POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        world.full_token(),
        body.len()
    );
    run_silences(world.gateway, &good, header, idle).await;
}
