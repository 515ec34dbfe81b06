//! What a body costs in memory while it is read and held, however its client cuts it up: at most 1.1
//! times its bytes and 512 KiB, from first byte to answer. In its own binary, for its own allocator.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test may panic, spawn and index, and this one says what it measured"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dcams_gateway::{
    body::{self, BodySettings, ByteBudget, Size},
    payload::lift::{Lifter, SKELETON_LIMIT},
    segments::Segments,
    server::{
        ConnectionStats, Http2Settings, Protocol, ProxyProtocol, RequestBody, ServerSettings, bind,
        serve,
    },
};
use http::{Request, Response};
use peak_alloc::PeakAlloc;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

async fn hold(request: Request<RequestBody>, budget: ByteBudget) -> Response<Segments> {
    let settings = BodySettings {
        max_body: 20_000_000,
        max_lookup_body: 20_000_000,
        body_memory: 64_000_000,
        budget_wait: Duration::from_secs(1),
        body_timeout: Duration::from_mins(1),
        idle: Duration::from_secs(5),
        min_rate: 0,
    };
    let declared = request
        .headers()
        .get("content-length")
        .map(|value| value.to_str().unwrap().parse().unwrap());
    let size = Size {
        declared,
        limit: 20_000_000,
    };
    let mut lifter = Lifter::new(SKELETON_LIMIT);
    let watch = |frames: &[Bytes]| lifter.advance(frames);
    let read = body::read(request.into_body(), size, &budget, &settings, watch).await;
    let read = read.ok().unwrap();
    // Held when the answer is made, as until the upstream has answered.
    let (peak, frames) = (ALLOCATOR.peak_usage(), read.frames().len());
    Response::new(Segments::from(format!("{peak} {frames}")))
}

fn settings(protocol: Protocol) -> ServerSettings {
    ServerSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        protocol,
        proxy_protocol: ProxyProtocol::Off,
        max_connections: 10,
        header_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(5),
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

/// Sends a body of `length` bytes in writes of the given sizes in turn, waiting in between so that
/// each is read by itself, and returns peak (over what was there before) and frames.
fn upload(
    stream: &mut TcpStream,
    length: usize,
    writes: &[usize],
    wait: Duration,
) -> (usize, usize) {
    static BYTES: [u8; MIB] = [b'x'; MIB];
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let mut answer = [0; 1024];
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    stream.write_all(head.as_bytes()).unwrap();
    let mut left = length;
    for size in writes.iter().cycle() {
        if left == 0 {
            break;
        }
        let now = (*size).min(left);
        stream.write_all(&BYTES[..now]).unwrap();
        left -= now;
        let until = Instant::now() + wait;
        while Instant::now() < until {
            std::thread::yield_now();
        }
    }
    let count = stream.read(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[..count]).into_owned();
    let mut numbers = text.rsplit("\r\n").next().unwrap().split(' ');
    let mut next = || numbers.next().unwrap().parse::<usize>().unwrap();
    (next() - before, next())
}

#[test]
fn a_body_costs_little_more_than_its_bytes_however_it_is_cut() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (addr, shutdown) = runtime.block_on(async {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let addr = listener.local_addr().unwrap();
        let (budget, shutdown) = (ByteBudget::new(64_000_000), CancellationToken::new());
        let handler = move |request| hold(request, budget.clone());
        let stats = Arc::<ConnectionStats>::default();
        let settings = Arc::new(settings(Protocol::Http1));
        let settings = move || Arc::clone(&settings);
        tokio::task::spawn(serve(listener, settings, handler, shutdown.clone(), stats));
        (addr, shutdown)
    });
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    upload(&mut stream, MIB, &[MIB], Duration::ZERO);
    let paced = Duration::from_micros(60);
    for (name, length, writes, wait) in [
        ("8 MiB at once", 8 * MIB, &[MIB][..], Duration::ZERO),
        ("8 MiB again", 8 * MIB, &[MIB], Duration::ZERO),
        ("8 MiB in 64 KiB", 8 * MIB, &[65_536], paced),
        ("8 MiB in 50 KiB", 8 * MIB, &[51_200], paced),
        ("8 MiB in 33 KiB", 8 * MIB, &[33_792], paced),
        ("8 MiB in 16 KiB", 8 * MIB, &[16_384], paced),
        ("8 MiB in 1 and 64 KiB", 8 * MIB, &[1, 65_536], paced),
        ("2 MiB in 1000 B", 2 * MIB, &[1000], paced),
        ("64 KiB in 1 B", MIB / 16, &[1], Duration::from_micros(8)),
    ] {
        let (peak, frames) = upload(&mut stream, length, writes, wait);
        let most = length / 10 * 11 + 512 * 1024;
        let over = i64::try_from(peak).unwrap() - i64::try_from(length).unwrap();
        eprintln!(
            "{name}: {peak} B, {} KiB over, {frames} frames",
            over / 1024
        );
        assert!(peak <= most, "{name}: {peak} B of {length}");
    }
    shutdown.cancel();
}
