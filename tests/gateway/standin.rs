//! The smallest handler that decides in the gateway's order: route, token, declared, body.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dcams_gateway::{
    address::Client,
    body::{self, BodyError, BodySettings, ByteBudget, Size},
    route::{RouteError, RouteSettings, route},
    segments::Segments,
    server::{
        ConnectionStats, Drained, Handle, Http2Settings, Protocol, ProxyProtocol, RequestBody,
        ServerSettings, bind, serve,
    },
};
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use tokio_util::sync::CancellationToken;

/// Accepts this token, and answers every body that it could read with 200.
#[derive(Clone)]
pub struct StandIn {
    pub body: BodySettings,
    pub budget: ByteBudget,
    pub chunked: bool,
    /// How large its answer is.
    pub answer: usize,
    pub handled: Arc<AtomicUsize>,
    /// Where each request came from.
    pub peers: Arc<Mutex<Vec<Client>>>,
    /// When given, an answer waits for a permit.
    pub gate: Option<Arc<tokio::sync::Semaphore>>,
}

pub const TOKEN: &str = "good";

impl StandIn {
    pub fn new() -> Self {
        let body = BodySettings {
            max_body: 10_000_000,
            max_lookup_body: 16 * 1024,
            body_memory: 256 << 20,
            budget_wait: Duration::from_millis(100),
            body_timeout: Duration::from_secs(3),
            idle: Duration::from_millis(500),
            min_rate: 1024,
        };
        Self {
            budget: ByteBudget::new(body.body_memory),
            body,
            chunked: false,
            answer: 2,
            handled: Arc::default(),
            peers: Arc::default(),
            gate: None,
        }
    }

    async fn decide(&self, request: Request<RequestBody>) -> Result<u64, StatusCode> {
        let (parts, body) = request.into_parts();
        let routed = route(
            &parts,
            RouteSettings {
                chunked: self.chunked,
            },
        )
        .map_err(status)?;
        let token = parts
            .headers
            .get(AUTHORIZATION)
            .map(http::HeaderValue::as_bytes);
        if token != Some(format!("Bearer {TOKEN}").as_bytes()) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let declared = routed.declare().map_err(status)?;
        let limit = self.body.max_body;
        let body = body::read(
            body,
            Size {
                declared: declared.content_length,
                limit,
            },
            &self.budget,
            &self.body,
            |_frames| {},
        )
        .await
        .map_err(|error| match error {
            BodyError::Broken => StatusCode::BAD_REQUEST,
            BodyError::Overloaded { .. } => StatusCode::SERVICE_UNAVAILABLE,
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow | BodyError::Timeout => StatusCode::REQUEST_TIMEOUT,
        })?;
        self.handled.fetch_add(1, Relaxed);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        Ok(body.len())
    }
}

fn status(error: RouteError) -> StatusCode {
    match error {
        RouteError::BadRequest { .. } | RouteError::Query => StatusCode::BAD_REQUEST,
        RouteError::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
        RouteError::LengthRequired => StatusCode::LENGTH_REQUIRED,
        RouteError::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
        RouteError::NotFound => StatusCode::NOT_FOUND,
        RouteError::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
    }
}

impl Handle for StandIn {
    async fn handle(&self, request: Request<RequestBody>, peer: Client) -> Response<Segments> {
        self.peers.lock().unwrap().push(peer);
        let mut response = match self.decide(request).await {
            Ok(_) => Response::new(Segments::from(vec![b'x'; self.answer])),
            Err(status) => problem(status),
        };
        response
            .headers_mut()
            .insert("content-type", http::HeaderValue::from_static("text/plain"));
        response
    }

    fn refuse(&self, status: StatusCode) -> Response<Segments> {
        problem(status)
    }
}

fn problem(status: StatusCode) -> Response<Segments> {
    let mut response = Response::new(Segments::from(format!("problem {}", status.as_u16())));
    *response.status_mut() = status;
    response
}

/// A running server.
pub struct Running {
    pub addr: SocketAddr,
    pub stats: Arc<ConnectionStats>,
    pub shutdown: CancellationToken,
    pub drained: tokio::task::JoinHandle<Drained>,
}

pub fn settings(protocol: Protocol) -> ServerSettings {
    ServerSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        protocol,
        proxy_protocol: ProxyProtocol::Off,
        max_connections: 2000,
        header_timeout: Duration::from_millis(400),
        idle_timeout: Duration::from_millis(900),
        write_timeout: Duration::from_millis(700),
        drain_timeout: Duration::from_secs(5),
        max_headers: 64,
        max_header_bytes: 16 * 1024,
        http2: Http2Settings {
            max_concurrent_streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            max_header_list: 16 * 1024,
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
        },
    }
}

pub async fn start(settings: ServerSettings, handler: StandIn) -> Running {
    let listener = bind(settings.listen).unwrap();
    let addr = listener.local_addr().unwrap();
    let (stats, shutdown) = (Arc::<ConnectionStats>::default(), CancellationToken::new());
    let settings = Arc::new(settings);
    let serving = serve(
        listener,
        move || Arc::clone(&settings),
        handler,
        shutdown.clone(),
        Arc::clone(&stats),
    );
    Running {
        addr,
        stats,
        shutdown,
        drained: tokio::task::spawn(serving),
    }
}
