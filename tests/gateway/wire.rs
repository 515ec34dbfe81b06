//! What the tests of the path and its limits need beside [`World`]: bytes in their own hand, bodies of
//! exact sizes, a second tenant, and figures of the metrics page.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use dcams_gateway::{
    auth::mint::Grant, clock, config::Config, ident::TenantId, operation::Operation,
    simulator::Login,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::{Answer, OTHER_USER, PASS, PATH, USER, World, customer, load};

impl World {
    /// A world with a second tenant, whose user the simulator knows too.
    pub async fn with_other(toml: &str, variables: &[(&str, &str)]) -> Self {
        let world = Self::with(toml, variables).await;
        let logins = [USER, OTHER_USER].map(|user| Login::new(user, PASS));
        world.simulator.set_credentials(logins.into());
        world
    }

    /// A token of any tenant's own issuer.
    pub fn token_of(
        &self,
        tenant: &str,
        operations: &[Operation],
        customer: Option<&str>,
    ) -> String {
        let config = load(self.folder(), &self.simulator.url(), &[]);
        token_of(&config, tenant, operations, customer)
    }

    /// A value of the metrics page, without labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let page = self.operator("/metrics").await.text;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}"))
            .parse()
            .unwrap()
    }

    /// Asks for a metric until it has this value.
    pub async fn until_metric(&self, name: &str, value: u64) {
        let asking = async { while self.metric(name).await != value {} };
        let came = timeout(Duration::from_secs(20), asking).await;
        assert!(came.is_ok(), "{name} never became {value}");
    }
}

/// A token of any tenant's own issuer.
pub fn token_of(
    config: &Config,
    tenant: &str,
    operations: &[Operation],
    customer: Option<&str>,
) -> String {
    let ours = |id: &TenantId| id.as_str() == tenant;
    let issuer = config
        .issuers
        .iter()
        .find(|issuer| issuer.tenants.iter().any(ours));
    let issuer = issuer.unwrap();
    let grant = Grant {
        tenant: &tenant.try_into().unwrap(),
        operations: operations.iter().copied().collect(),
        subject: Some("subject-of-the-token"),
        customer,
        ttl: Duration::from_mins(10),
    };
    grant
        .mint(issuer, &config.signing_keys[&issuer.id], clock::now())
        .unwrap()
}

/// TOML for a second tenant, `other` or `closed`, with an issuer and an account of its own.
pub fn tenant(id: &str, settings: &str, issuer_settings: &str) -> String {
    format!(
        r#"
        [[accounts]]
        id = "{id}"
        credentials = [{{ id = "{id}-1", user = {{ file = "{id}-user" }}, pass = {{ file = "pass" }} }}]
        [[issuers]]
        id = "{id}-idp"
        issuer = "https://idp.{id}.example/"
        audiences = ["dcams-gateway"]
        algorithms = ["HS256"]
        secret = {{ file = "issuer.key" }}
        tenants = ["{id}"]
        {issuer_settings}
        [[tenants]]
        id = "{id}"
        account = "{id}"
        {settings}
        "#
    )
}

/// A connection whose bytes are in the test's hand.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub async fn open(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // So that what was written is not merely waiting in the kernel.
        socket.set_send_buffer_size(16 * 1024).unwrap();
        let stream = socket.connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let buffer = Vec::new();
        Self { stream, buffer }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sending = self.stream.write_all(bytes.as_ref());
        let sent = timeout(Duration::from_secs(30), sending).await;
        sent.expect("not taken").unwrap();
    }

    /// Sends up to `most` bytes; how many were taken before the gateway closed.
    pub async fn flood(&mut self, most: usize) -> usize {
        let mut taken = 0;
        while taken < most {
            match self.stream.write(&[b'x'; 16 * 1024]).await {
                Ok(count) => taken += count,
                Err(_) => break,
            }
        }
        taken
    }

    /// The next answer, an interim one too.
    pub async fn answer(&mut self) -> Answer {
        loop {
            if let Some((answer, length)) = self.whole() {
                self.buffer.drain(..length);
                return answer;
            }
            assert!(self.read().await > 0, "closed without an answer");
        }
    }

    /// Whether the gateway closes without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && self.read().await == 0
    }

    async fn read(&mut self) -> usize {
        let reading = self.stream.read_buf(&mut self.buffer);
        let read = timeout(Duration::from_secs(30), reading).await;
        read.expect("neither an answer nor a close").unwrap_or(0)
    }

    fn whole(&self) -> Option<(Answer, usize)> {
        let end = self.buffer.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&self.buffer[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let headers: reqwest::header::HeaderMap = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let length = headers.get("content-length");
        let length = length.map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        let body = self.buffer.get(end + 4..end + 4 + length)?;
        let text = String::from_utf8(body.to_vec()).unwrap();
        let answer = Answer {
            status,
            headers,
            text,
        };
        Some((answer, end + 4 + length))
    }
}

/// The head of a request; `more` are further lines, each with its end.
pub fn head(token: &str, length: usize, more: &str) -> String {
    let json = if more.contains("Content-Type:") {
        ""
    } else {
        "Content-Type: application/json\r\n"
    };
    format!(
        "POST {PATH} HTTP/1.1\r\nHost: gateway.example\r\nAuthorization: Bearer {token}\r\n\
         {json}Content-Length: {length}\r\n{more}\r\n"
    )
}

/// A body of createOrUpdateCustomer of exactly `size` bytes, most of them image.
pub fn customer_of(size: usize) -> Vec<u8> {
    let mut body = customer();
    body["target"]["documents"] = json!({"front": ""});
    let image = padded((size - body.to_string().len()) / 4 * 3);
    body["target"]["documents"]["front"] = BASE64_STANDARD.encode(image).into();
    let mut body = body.to_string().into_bytes();
    assert!(body.len() <= size, "{size} is too small for an image");
    body.resize(size, b' ');
    body
}

/// A small JPEG, made at most `size` bytes long by comment segments after its first marker.
pub fn padded(size: usize) -> Vec<u8> {
    let mut small = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut small, 50);
    let black = [0; 64];
    encoder
        .encode(&black, 8, 8, jpeg_encoder::ColorType::Luma)
        .unwrap();
    let mut image = small[..2].to_vec();
    let mut missing = size.saturating_sub(small.len());
    while missing > 4 {
        let length = missing.min(65_537) - 2;
        image.extend([0xFF, 0xFE]);
        image.extend(u16::try_from(length).unwrap().to_be_bytes());
        image.extend((0..length - 2).map(|at| u8::try_from(at * 7 % 251).unwrap()));
        missing -= length + 2;
    }
    image.extend(&small[2..]);
    image
}
