//! Peers that are silent, slow, or don't read: each is gone within its own timeout and a second.
//!
//! No test sleeps: each waits for the server's close and looks at when it came.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How late a close may be.
const LATE: Duration = Duration::from_secs(1);

/// Sends `bytes`, then waits for the server to close. Returns what came, and after how long.
pub async fn until_closed(addr: SocketAddr, bytes: &[u8]) -> (String, Duration) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
        .await
        .expect("held for ever")
        .ok();
    let text = String::from_utf8_lossy(&answer).into_owned();
    (text, begun.elapsed())
}

/// Whether a close came when it was due.
pub fn assert_due(name: &str, took: Duration, due: Duration) {
    let early = due.saturating_sub(Duration::from_millis(50));
    assert!(
        took >= early && took <= due + LATE,
        "{name}: {took:?} for {due:?}"
    );
}

/// Each way to be silent on HTTP/1: `(name, bytes, answers, due)`.
pub fn silences(
    good: &str,
    header: Duration,
    idle: Duration,
) -> Vec<(String, String, usize, Duration)> {
    let head = good.split("\r\n\r\n").next().unwrap_or_default();
    let half = &head[..head.len() / 2];
    [
        ("nothing sent", String::new(), 0, header),
        ("POST and silence", "POST".to_owned(), 0, header),
        ("half a head", half.to_owned(), 0, header),
        ("an empty line and silence", "\r\n".to_owned(), 0, header),
        ("a request, then idle", good.to_owned(), 1, idle),
        (
            "a request, then half a head",
            format!("{good}{half}"),
            1,
            idle,
        ),
    ]
    .map(|(name, bytes, answers, due)| (name.to_owned(), bytes, answers, due))
    .into()
}

/// Plays all of them at once.
pub async fn run_silences(addr: SocketAddr, good: &str, header: Duration, idle: Duration) {
    let cases = silences(good, header, idle);
    let played = cases
        .iter()
        .map(|(_, bytes, ..)| until_closed(addr, bytes.as_bytes()));
    let played = futures_util::future::join_all(played).await;
    for ((name, _, answers, due), (text, took)) in cases.iter().zip(played) {
        assert_eq!(
            text.matches("HTTP/1.1 ").count(),
            *answers,
            "{name}: {text}"
        );
        assert_due(name, took, *due);
    }
}

/// A head that comes a byte at a time, for ever: the time counts from its first byte.
pub async fn drip_head(addr: SocketAddr) -> Duration {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let begun = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let mut answer = [0; 64];
    stream.write_all(b"POST / HTTP/1.1\r\nX: ").await.unwrap();
    loop {
        tokio::select! {
            read = stream.read(&mut answer) => {
                assert!(!matches!(read, Ok(1..)), "answered");
                return begun.elapsed();
            }
            _ = pace.tick() => {
                // Fails once the server has gone; the read says so.
                stream.write_all(b"x").await.ok();
            }
        }
    }
}
