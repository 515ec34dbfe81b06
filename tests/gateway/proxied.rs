//! The PROXY protocol over real sockets: who is named, what is refused, and that nothing of the
//! request behind it is lost.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dcams_gateway::{
    address::Client,
    server::{Cut, Protocol, ProxyProtocol, ServerSettings},
};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use crate::{
    slow::{assert_due, until_closed},
    standin::{Running, StandIn, TOKEN, settings, start},
};

const PATH: &str = "/v3/stable/api/storage";
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LATER: Duration = Duration::from_secs(20);

async fn proxied(
    protocol: Protocol,
    trusted: &str,
    change: impl FnOnce(&mut ServerSettings, &mut StandIn),
) -> (Running, StandIn) {
    let (mut settings, mut handler) = (settings(protocol), StandIn::new());
    let trusted = trusted.parse().unwrap();
    settings.proxy_protocol = ProxyProtocol::Required([trusted].into_iter().collect());
    change(&mut settings, &mut handler);
    (start(settings, handler.clone()).await, handler)
}

/// No close may be the work of a timeout.
fn patient(settings: &mut ServerSettings, _: &mut StandIn) {
    settings.header_timeout = LATER;
    settings.idle_timeout = LATER;
}

fn request(body: &str, more: &str) -> Vec<u8> {
    format!(
        "POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n{more}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn last_request() -> Vec<u8> {
    request("{}", "Connection: close\r\n")
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2_START, &[command, family], &length, block].concat()
}

fn known(address: &str) -> Client {
    address.parse::<IpAddr>().unwrap().into()
}

/// Every kind of good header, and whom it names.
fn headers() -> Vec<(Vec<u8>, Client)> {
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4];
    let extended = [v4.as_slice(), &[4; 4000]].concat();
    vec![
        (V1.to_vec(), known("192.0.2.1")),
        (
            b"PROXY TCP6 2001:db8::1 ::1 1 443\r\n".to_vec(),
            known("2001:db8::1"),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), Client::Unknown),
        (v2(0x21, 0x11, &v4), known("192.0.2.1")),
        (v2(0x21, 0x11, &extended), known("192.0.2.1")),
        (v2(0x21, 0x21, &v6), known("2001:db8::")),
        (v2(0x21, 0x00, &[]), Client::Unknown),
        (v2(0x21, 0x31, &[b'/'; 216]), Client::Unknown),
        (v2(0x20, 0x00, &[]), known("127.0.0.1")),
    ]
}

/// Sends the pieces, each in a segment of its own if the system allows, and reads to the end.
async fn play<'a>(server: &Running, pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        stream.write_all(piece).await.unwrap();
        // To the server's task, which shares this thread: it reads what there is.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    timeout(LATER, reading).await.expect("held").unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_header_names_the_client_of_every_request_however_the_bytes_are_cut() {
    let (server, handler) = proxied(Protocol::Http1, "127.0.0.1", patient).await;
    for (header, client) in headers() {
        let large = request(&"x".repeat(100_000), "");
        // Requests follow at once: none is lost, doubled or taken for another.
        let all = [&header, &large[..], &request("{}", ""), &last_request()].concat();
        let (front, back) = all.split_at(header.len());
        let cut = header.len() / 2;
        for pieces in [
            vec![&all[..]],
            vec![front, back],
            vec![&all[..cut], &all[cut..]],
            vec![&all[..=header.len()], &all[header.len() + 1..]],
            front.chunks(1).chain(back.chunks(4_000)).collect(),
        ] {
            let count = pieces.len();
            let answers = play(&server, pieces).await;
            assert_eq!(
                answers.matches("HTTP/1.1 200 ").count(),
                3,
                "{client} in {count} pieces: {answers}"
            );
            let peers = std::mem::take(&mut *handler.peers.lock().unwrap());
            assert!(peers == [client; 3], "{peers:?} for {client}");
        }
    }
    assert_eq!(server.stats.unannounced(), 0);
}

#[tokio::test]
async fn a_connection_without_a_good_header_is_closed_unanswered_and_counted() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let (server, handler) = proxied(protocol, "127.0.0.1", patient).await;
        let long = format!("PROXY UNKNOWN {}", "x".repeat(93)).into_bytes();
        let bad = [
            last_request(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            b"\r\nPROXY UNKNOWN\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711\r\n".to_vec(),
            long,
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x11, &[0; 4097]),
            v2(0x23, 0x11, &[0; 12]),
            v2(0x21, 0x41, &[0; 12]),
        ];
        for bytes in &bad {
            let (text, took) = until_closed(server.addr, bytes).await;
            assert_eq!(text, "");
            assert!(took < LATER / 2, "{bytes:?}: {took:?}");
        }
        // And one that ends within its header.
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&V1[..20]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
        // A balancer that looks whether the port is open has done nothing wrong.
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
        let count = u64::try_from(bad.len()).unwrap();
        assert_eq!(server.stats.unannounced(), count + 1);
        assert_eq!(server.stats.accepted(), count + 2);
        assert!(handler.peers.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn only_trusted_proxies_may_connect() {
    let (server, handler) = proxied(Protocol::Http1, "192.0.2.0/24", patient).await;
    let bytes = [V1, &last_request()].concat();
    for count in 1..=3 {
        let (text, took) = until_closed(server.addr, &bytes).await;
        assert_eq!(text, "");
        assert!(took < LATER / 2);
        assert_eq!(server.stats.distrusted(), count);
    }
    assert_eq!(
        (server.stats.accepted(), server.stats.unannounced()),
        (0, 0)
    );
    assert!(handler.peers.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_header_is_not_looked_for_where_it_is_not_required() {
    let server = start(settings(Protocol::Http1), StandIn::new()).await;
    let (text, _) = until_closed(server.addr, &[V1, &last_request()].concat()).await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
}

#[tokio::test]
async fn silence_before_within_and_after_a_header_ends_with_the_header_timeout() {
    for (protocol, begun) in [
        (Protocol::Http1, &b"POST / HT"[..]),
        (Protocol::H2c, b"PRI * HT"),
    ] {
        let (server, _) = proxied(protocol, "127.0.0.1", |settings, _| {
            settings.idle_timeout = LATER;
        })
        .await;
        let due = settings(protocol).header_timeout;
        let v2 = v2(0x21, 0x11, &[0; 12]);
        let half = [V1, begun].concat();
        let cases = [
            ("nothing", &b""[..]),
            ("half of version 1", &V1[..20]),
            ("the start of either", b"\r\n"),
            ("half of version 2", &v2[..20]),
            ("a header", V1),
            ("a header of version 2", &v2),
            ("a header and half a head", &half),
        ];
        let played = cases.map(|(_, bytes)| until_closed(server.addr, bytes));
        let played = futures_util::future::join_all(played).await;
        for ((name, _), (text, took)) in cases.iter().zip(played) {
            assert!(!text.contains("HTTP/1"), "{name}: {text}");
            assert_due(name, took, due);
        }
        assert_eq!(server.stats.cut(Cut::Header), 7);
        let dripped = drip(&server).await;
        assert_due("a header in drips", dripped, due);
        assert_eq!(server.stats.cut(Cut::Header), 8);
        assert_eq!(server.stats.unannounced(), 0);
    }
}

/// Sends a header a byte at a time, more slowly than it may come.
async fn drip(server: &Running) -> Duration {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let begun = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(30));
    let mut bytes = V1.iter();
    let mut answer = [0; 64];
    loop {
        tokio::select! {
            read = stream.read(&mut answer) => {
                assert!(!matches!(read, Ok(1..)), "answered");
                return begun.elapsed();
            }
            _ = pace.tick() => {
                // Fails once the server has gone; the read says so.
                stream.write_all(&[*bytes.next().unwrap()]).await.ok();
            }
        }
    }
}

#[tokio::test]
async fn http2_is_spoken_behind_a_header() {
    let (server, handler) = proxied(Protocol::H2c, "127.0.0.1", patient).await;
    for (header, client) in headers() {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let (mut h2, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::task::spawn(connection);
        for _ in 0..2 {
            let request = Request::post(format!("http://gateway{PATH}"))
                .header("authorization", format!("Bearer {TOKEN}"))
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(vec![b'x'; 40_000])))
                .unwrap();
            let response = h2.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
        }
        drop(h2);
        connection.await.unwrap().unwrap();
        let peers = std::mem::take(&mut *handler.peers.lock().unwrap());
        assert!(peers == [client; 2], "{peers:?} for {client}");
    }
    // The preface in the same segment, and the server's SETTINGS in answer.
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&[V1, opening].concat()).await.unwrap();
    let mut frame = [0; 9];
    timeout(LATER, stream.read_exact(&mut frame))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(frame[3], 4, "a SETTINGS frame");
}

#[tokio::test]
async fn a_drain_answers_what_is_under_way_and_waits_for_no_header() {
    let gate = Arc::new(Semaphore::new(0));
    let (server, handler) = proxied(Protocol::Http1, "127.0.0.1", |settings, handler| {
        patient(settings, handler);
        handler.gate = Some(Arc::clone(&gate));
    })
    .await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    let mut busy = TcpStream::connect(server.addr).await.unwrap();
    busy.write_all(&[V1, &request("{}", "")].concat())
        .await
        .unwrap();
    let arrived = async {
        while handler.handled.load(Relaxed) < 1 || server.stats.now_open() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LATER, arrived).await.unwrap();
    server.shutdown.cancel();
    let begun = Instant::now();
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert!(begun.elapsed() < Duration::from_secs(2));
    gate.add_permits(1);
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(server.drained.await.unwrap().is_complete());
}
