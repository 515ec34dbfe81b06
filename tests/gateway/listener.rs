//! The listener with the smallest handler: what the gateway's own tests don't reach.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dcams_gateway::server::{Cut, Protocol, ServerSettings};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    framing,
    slow::{assert_due, drip_head, run_silences, until_closed},
    standin::{Running, StandIn, TOKEN, settings, start},
};

const PATH: &str = "/v3/stable/api/storage";

fn request(body_length: usize, more: &str) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {body_length}\r\n{more}\r\n"
    )
}

fn good() -> String {
    format!("{}{{}}", request(2, ""))
}

async fn http1(change: impl FnOnce(&mut ServerSettings, &mut StandIn)) -> (Running, StandIn) {
    let (mut settings, mut handler) = (settings(Protocol::Http1), StandIn::new());
    change(&mut settings, &mut handler);
    let running = start(settings, handler.clone()).await;
    (running, handler)
}

async fn h2c(change: impl FnOnce(&mut ServerSettings, &mut StandIn)) -> (Running, StandIn) {
    http1(|settings, handler| {
        settings.protocol = Protocol::H2c;
        change(settings, handler);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_framing_input_is_answered_as_the_table_says() {
    // Long timeouts: where a close is expected, none of them may bring it about.
    let (server, handler) = http1(|settings, _| {
        settings.header_timeout = Duration::from_secs(20);
        settings.idle_timeout = Duration::from_secs(20);
    })
    .await;
    let target = framing::Target {
        addr: server.addr,
        token: TOKEN.to_owned(),
        body: "{}".to_owned(),
        handled: 200,
    };
    let count = framing::cases(&target).len();
    let handled = framing::run(&target).await;
    assert!(count >= 68, "{count}");
    assert_eq!(handler.handled.load(Relaxed), handled);
}

#[tokio::test]
async fn an_unparsable_head_gets_the_handlers_answer_not_hypers() {
    let (server, _) = http1(|_, _| {}).await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\nA : b\r\n\r\n".to_owned(), 400),
        (
            format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(20_000)),
            431,
        ),
    ] {
        let (text, _) = until_closed(server.addr, head.as_bytes()).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert!(
            text.ends_with(&format!("\r\n\r\nproblem {status}")),
            "{text}"
        );
        assert!(text.contains("connection: close\r\n"), "{text}");
    }
}

#[tokio::test]
async fn silent_connections_are_closed_each_within_its_own_timeout() {
    let (server, _) = http1(|_, _| {}).await;
    let limits = settings(Protocol::Http1);
    run_silences(
        server.addr,
        &good(),
        limits.header_timeout,
        limits.idle_timeout,
    )
    .await;
    assert_due(
        "dripped head",
        drip_head(server.addr).await,
        limits.header_timeout,
    );
    assert_eq!(server.stats.cut(Cut::Header), 5);
    assert_eq!(server.stats.cut(Cut::Idle), 2);
    let open = server.stats.now_open();
    assert!(open <= 1, "{open}");
}

#[tokio::test]
async fn the_same_with_timeouts_the_other_way_round() {
    // Idle shorter than header: neither stands in for the other.
    let (header, idle) = (Duration::from_millis(1500), Duration::from_millis(300));
    let (server, _) = http1(|settings, _| {
        settings.header_timeout = header;
        settings.idle_timeout = idle;
    })
    .await;
    run_silences(server.addr, &good(), header, idle).await;
}

#[tokio::test]
async fn a_slow_body_is_408_and_the_connection_closes() {
    let (server, handler) = http1(|_, _| {}).await;
    let (text, took) = until_closed(server.addr, request(100, "").as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(text.contains("connection: close\r\n"), "{text}");
    assert_due("slow body", took, handler.body.idle);
    assert_eq!(handler.budget.in_use(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_one_that_reads_slowly_is_not() {
    let (server, _) = http1(|_, handler| handler.answer = 30_000_000).await;
    let limit = settings(Protocol::Http1).write_timeout;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut stream = socket.connect(server.addr).await.unwrap();
    stream.write_all(good().as_bytes()).await.unwrap();
    // Slowly, but on: longer in all than the timeout.
    let begun = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let mut piece = vec![0; 64 * 1024];
    while begun.elapsed() < 2 * limit {
        pace.tick().await;
        assert!(stream.read(&mut piece).await.unwrap() > 0);
    }
    assert_eq!(server.stats.cut(Cut::Write), 0);
    let stopped = Instant::now();
    let gone = async {
        while server.stats.now_open() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), gone).await.unwrap();
    // What the kernel still held was taken before the last of it was written.
    let took = stopped.elapsed();
    assert!(
        took > limit / 2 && took < limit + Duration::from_secs(1),
        "{took:?}"
    );
    assert_eq!(server.stats.cut(Cut::Write), 1);
}

#[tokio::test]
async fn a_client_that_closed_its_sending_side_gets_its_answer() {
    let gate = Arc::new(Semaphore::new(0));
    let (server, handler) = http1(|_, handler| handler.gate = Some(Arc::clone(&gate))).await;
    let mut stream = in_flight(&server, &handler, 1).await.remove(0);
    stream.shutdown().await.unwrap();
    // Nothing comes until the gate opens: neither the answer nor a close.
    let mut first = [0];
    let early = timeout(Duration::from_millis(200), stream.read_exact(&mut first)).await;
    assert!(early.is_err(), "{early:?}");
    gate.add_permits(1);
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_at_once_and_counted() {
    let (server, _) = http1(|settings, _| {
        settings.max_connections = 2;
        settings.header_timeout = Duration::from_secs(20);
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(server.addr).await.unwrap());
    }
    let (text, took) = until_closed(server.addr, b"").await;
    assert!(
        text.is_empty() && took < Duration::from_secs(1),
        "{text} {took:?}"
    );
    assert_eq!((server.stats.refused(), server.stats.now_open()), (1, 2));
    // A place that becomes free is taken.
    drop(held.pop());
    let next = async {
        while server.stats.now_open() > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), next).await.unwrap();
    let (text, _) = until_closed(
        server.addr,
        format!("{}{{}}", request(2, "Connection: close\r\n")).as_bytes(),
    )
    .await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[tokio::test]
async fn an_early_answer_is_not_overtaken_by_a_reset_and_a_client_that_stays_is_not_waited_for() {
    let (server, _) = http1(|settings, _| settings.idle_timeout = Duration::from_secs(20)).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let length = 64 * 1024 + 1;
    let head = request(length, "").replace(TOKEN, "bad");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; length]).await.unwrap();
    let mut text = String::new();
    let begun = Instant::now();
    // An unread byte at the server's close would make this a reset.
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 401 "), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    let gone = async {
        while server.stats.now_open() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), gone).await.unwrap();
    assert_due("lingering", begun.elapsed(), Duration::from_secs(2));
}

/// `count` requests whose answers wait for the gate, and that gate.
async fn in_flight(server: &Running, handler: &StandIn, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(good().as_bytes()).await.unwrap();
        streams.push(stream);
    }
    let arrived = async {
        while handler.handled.load(Relaxed) < count {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), arrived).await.unwrap();
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_all_in_flight_and_waits_for_no_silent_connection() {
    const COUNT: usize = 400;
    let gate = Arc::new(Semaphore::new(0));
    let (server, handler) = http1(|settings, handler| {
        settings.header_timeout = Duration::from_secs(20);
        settings.idle_timeout = Duration::from_secs(20);
        handler.gate = Some(Arc::clone(&gate));
    })
    .await;
    let streams = in_flight(&server, &handler, COUNT).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    let mut half = TcpStream::connect(server.addr).await.unwrap();
    half.write_all(b"POST / HT").await.unwrap();
    let begun = Instant::now();
    server.shutdown.cancel();
    let mut nothing = Vec::new();
    silent.read_to_end(&mut nothing).await.unwrap();
    half.read_to_end(&mut nothing).await.ok();
    assert!(nothing.is_empty() && begun.elapsed() < Duration::from_secs(2));
    TcpStream::connect(server.addr)
        .await
        .expect_err("still listening");
    gate.add_permits(COUNT);
    for mut stream in streams {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.contains("connection: close\r\n"),
            "{text}"
        );
    }
    assert!(server.drained.await.unwrap().is_complete());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_drain_cuts_what_is_not_answered_in_time_and_says_so() {
    let gate = Arc::new(Semaphore::new(0));
    let (server, handler) = http1(|settings, handler| {
        settings.drain_timeout = Duration::from_millis(300);
        handler.gate = Some(Arc::clone(&gate));
    })
    .await;
    let mut streams = in_flight(&server, &handler, 2).await;
    let begun = Instant::now();
    server.shutdown.cancel();
    let drained = server.drained.await.unwrap();
    assert_eq!((drained.cut, drained.is_complete()), (2, false));
    assert_due("drain", begun.elapsed(), Duration::from_millis(300));
    let mut nothing = Vec::new();
    streams[0].read_to_end(&mut nothing).await.ok();
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn an_idle_server_drains_at_once() {
    let (server, _) = http1(|settings, _| settings.idle_timeout = Duration::from_secs(20)).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(good().as_bytes()).await.unwrap();
    let mut piece = [0; 4096];
    assert!(stream.read(&mut piece).await.unwrap() > 0);
    let begun = Instant::now();
    server.shutdown.cancel();
    assert!(server.drained.await.unwrap().is_complete());
    assert!(
        begun.elapsed() < Duration::from_millis(400),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_chunked_body_is_read_where_that_is_allowed() {
    let (server, handler) = http1(|_, handler| {
        handler.chunked = true;
        handler.body.max_body = 100;
    })
    .await;
    let head = request(0, "Transfer-Encoding: chunked\r\nConnection: close\r\n")
        .replace("Content-Length: 0\r\n", "");
    for (size, status) in [(100, 200), (101, 413)] {
        let body = format!(
            "{size:x}\r\n{}\r\n0\r\nAuthorization: Bearer y\r\n\r\n",
            "x".repeat(size)
        );
        let (text, _) = until_closed(server.addr, format!("{head}{body}").as_bytes()).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
    }
    assert_eq!(handler.handled.load(Relaxed), 1);
}

type Client<B> = http2::SendRequest<B>;

async fn connect<B>(server: &Running) -> Client<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::task::spawn(connection);
    client
}

fn h2_request<B>(body: B) -> Request<B> {
    Request::post(format!("http://a{PATH}"))
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

async fn status_of<B>(client: &mut Client<B>, request: Request<B>) -> u16
where
    B: http_body::Body<Data = Bytes> + 'static,
{
    let response: Response<Incoming> = client.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.ok();
    status
}

#[tokio::test]
async fn http2_answers_and_counts_a_body_without_a_length() {
    let (server, _) = h2c(|_, handler| handler.body.max_body = 100_000).await;
    let mut client = connect(&server).await;
    for (size, status) in [(100_000, 200), (100_001, 413)] {
        // A stream has no exact length, so hyper sends no Content-Length.
        let frames = vec![vec![b'x'; size]];
        let frames = frames
            .into_iter()
            .map(|f| Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(f))));
        let body = StreamBody::new(futures_util::stream::iter(frames));
        assert_eq!(status_of(&mut client, h2_request(body)).await, status);
    }
    let mut client = connect(&server).await;
    let body = Full::new(Bytes::from(vec![b'x'; 100_001]));
    assert_eq!(status_of(&mut client, h2_request(body)).await, 413);
    // The connection serves on.
    let mut request = h2_request(Full::new(Bytes::from_static(b"{}")));
    assert_eq!(status_of(&mut client, request.clone()).await, 200);
    request.headers_mut().insert("host", "b".parse().unwrap());
    assert_eq!(status_of(&mut client, request).await, 400);
}

#[tokio::test]
async fn http2_does_not_answer_http1_and_closes_a_silent_connection() {
    let (server, _) = h2c(|_, _| {}).await;
    let limits = settings(Protocol::H2c);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut whole = preface.to_vec();
    whole.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let (text, took) = until_closed(server.addr, good().as_bytes()).await;
    assert!(!text.contains("HTTP/1"), "{text}");
    assert!(took < Duration::from_secs(1));
    for (name, bytes, due) in [
        ("nothing", &b""[..], limits.header_timeout),
        ("half a preface", &preface[..10], limits.header_timeout),
        ("preface without SETTINGS", preface, limits.header_timeout),
        // Two GOAWAYs with a ping between them, which this peer doesn't answer.
        (
            "preface, then silence",
            &whole,
            limits.idle_timeout + Duration::from_millis(500),
        ),
    ] {
        let (_, took) = until_closed(server.addr, bytes).await;
        assert_due(name, took, due);
    }
}

#[tokio::test]
async fn http2_pings_a_peer_that_went_silent() {
    let (server, _) = h2c(|settings, _| {
        settings.idle_timeout = Duration::from_secs(20);
        settings.http2.keep_alive_interval = Duration::from_millis(300);
        settings.http2.keep_alive_timeout = Duration::from_millis(300);
    })
    .await;
    let mut whole = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    whole.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let (_, took) = until_closed(server.addr, &whole).await;
    assert_due("silent peer", took, Duration::from_millis(600));
}

#[tokio::test]
async fn http2_resets_an_answer_that_is_not_taken_while_the_connection_lives() {
    let (server, _) = h2c(|settings, handler| {
        handler.answer = 1_000_000;
        settings.idle_timeout = Duration::from_secs(20);
    })
    .await;
    let limit = settings(Protocol::H2c).write_timeout;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut client, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::task::spawn(connection);
    let stalled = client
        .send_request(h2_request(Full::new(Bytes::from_static(b"{}"))))
        .await
        .unwrap();
    let begun = Instant::now();
    // Nothing is read, so the window of 64 KiB fills; other requests go on meanwhile.
    while begun.elapsed() < limit + Duration::from_millis(300) {
        let request = h2_request(Full::new(Bytes::from_static(b"{}")));
        assert_eq!(status_of(&mut client, request).await, 200);
    }
    stalled.into_body().collect().await.expect_err("not reset");
    assert_eq!(server.stats.accepted(), 1);
}

#[tokio::test]
async fn http2_drains_with_goaway_and_answers_what_is_in_flight() {
    let gate = Arc::new(Semaphore::new(0));
    let (server, handler) = h2c(|settings, handler| {
        handler.gate = Some(Arc::clone(&gate));
        settings.idle_timeout = Duration::from_secs(20);
    })
    .await;
    let mut client = connect(&server).await;
    let pending: Vec<_> = (0..50)
        .map(|_| client.send_request(h2_request(Full::new(Bytes::from_static(b"{}")))))
        .collect();
    let answers = tokio::task::spawn(futures_util::future::join_all(pending));
    let arrived = async {
        while handler.handled.load(Relaxed) < 50 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), arrived).await.unwrap();
    server.shutdown.cancel();
    gate.add_permits(50);
    for answer in answers.await.unwrap() {
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert!(server.drained.await.unwrap().is_complete());
}

#[tokio::test]
async fn http2_says_goaway_when_it_drains() {
    let (server, _) = h2c(|settings, _| settings.idle_timeout = Duration::from_secs(20)).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut kinds = Vec::new();
    let begun = Instant::now();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            break;
        }
        kinds.push(head[3]);
        let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
        stream.read_exact(&mut payload).await.unwrap();
        // Its SETTINGS have come, so it serves: now drain.
        server.shutdown.cancel();
    }
    assert!(kinds.contains(&7), "{kinds:?}");
    // It never answers the ping that stands between the two GOAWAYs.
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(server.drained.await.unwrap().is_complete());
}
