//! What a request costs in memory on its whole way through the gateway: at most 1.1 times its body
//! and 512 KiB, from its first byte to its answer. In its own binary, for its own allocator.
//!
//! Only the gateway allocates while it is measured: client and stand-in are threads with buffers of
//! their own. A body that drips is shorter than one that comes at once, because each of its bytes is
//! a write; the bound is the same, with its own length.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test may panic, spawn and index, and this one says what it measured"
)]

#[path = "gateway/support.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod support;
#[path = "gateway/wire.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod wire;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use dcams_gateway::simulator::{Simulator, SimulatorSettings};
use peak_alloc::PeakAlloc;
use support::{PATH, World, listen};
use tokio_util::sync::CancellationToken;
use wire::{customer_of, head};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// Answers every request that it has read, and keeps nothing of it.
fn stand_in() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || while drain(stream.as_ref().unwrap()).is_some() {});
        }
    });
    address
}

/// Reads one request and answers it; `None` when there is none.
fn drain(mut stream: &TcpStream) -> Option<()> {
    let mut buffer = [0; 16 * 1024];
    let mut count = 0;
    let end = loop {
        let read = stream
            .read(&mut buffer[count..])
            .ok()
            .filter(|read| *read > 0)?;
        count += read;
        if let Some(end) = buffer[..count].windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = std::str::from_utf8(&buffer[..end]).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut left = length.parse::<usize>().unwrap() + end - count;
    while left > 0 {
        left -= stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
    }
    stream.write_all(ANSWER).ok()
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    content-length: 80\r\n\r\n\
    {\"result\":\"Success\",\"reference\":\"r\",\"status\":\"PASS\",\"type\":\"createCustomer\"}    ";

/// Sends a request in writes of `size` bytes, and returns the peak over what was there before.
fn upload(stream: &mut TcpStream, head: &[u8], body: &[u8], size: usize, wait: Duration) -> usize {
    let mut answer = [0; 1024];
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    stream.write_all(head).unwrap();
    for piece in body.chunks(size) {
        stream.write_all(piece).unwrap();
        let until = Instant::now() + wait;
        while Instant::now() < until {
            thread::yield_now();
        }
    }
    let count = stream.read(&mut answer).unwrap();
    let peak = ALLOCATOR.peak_usage();
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    peak - before
}

#[test]
fn a_request_costs_little_more_than_its_body_on_its_whole_way() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let world = runtime.block_on(async {
        // Never asked: the stand-in is in its place.
        let (settings, stop) = (SimulatorSettings::default(), CancellationToken::new());
        let simulator = Simulator::start(listen().await, settings, stop.clone()).unwrap();
        let url = format!("http://{}{PATH}", stand_in());
        World::before(simulator, stop, &url, "", &[]).await
    });
    let token = world.full_token();
    let paced = Duration::from_micros(60);
    let mut stream = TcpStream::connect(world.gateway).unwrap();
    stream.set_nodelay(true).unwrap();
    for (name, length, size, wait) in [
        (
            "8 MiB, the first request of all",
            8 * MIB,
            8 * MIB,
            Duration::ZERO,
        ),
        ("8 MiB at once", 8 * MIB, 8 * MIB, Duration::ZERO),
        ("8 MiB in 50 KiB", 8 * MIB, 50 * 1024, paced),
        ("8 MiB in 1000 B", 8 * MIB, 1000, Duration::from_micros(20)),
        ("256 KiB in 1 B", MIB / 4, 1, Duration::from_micros(8)),
    ] {
        let body = customer_of(length);
        let head = head(&token, length, "").into_bytes();
        let peak = upload(&mut stream, &head, &body, size, wait);
        let most = length / 10 * 11 + 512 * 1024;
        let percent = peak * 100 / length;
        eprintln!("{name}: {peak} B, {percent} % of the body, {most} B allowed");
        assert!(peak <= most, "{name}: {peak} B of {length}");
    }
    runtime.block_on(async { drop(world) });
}
