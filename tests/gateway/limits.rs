//! Limits of size, memory and time: what is just within them passes, what is just beyond does not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dcams_gateway::{
    operation::Operation,
    simulator::fault::{Fault, FaultKind},
};
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    slow::assert_due,
    support::{Answer, PATH, World, lookup},
    wire::{Wire, customer_of, head},
};

const MAX_BODY: usize = 10_000_000;
const MAX_LOOKUP_BODY: usize = 16 * 1024;
const HELD: &str = "dcams_gateway_body_memory_bytes";
const EXPECT: &str = "Expect: 100-continue\r\n";

/// A lookup of exactly `size` bytes.
fn lookup_of(size: usize) -> Vec<u8> {
    let mut body = lookup(Operation::GetStatus).to_string().into_bytes();
    body.resize(size, b' ');
    body
}

fn assert_too_large(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "payload_too_large")
    );
}

#[tokio::test]
async fn a_body_of_max_body_passes_and_one_byte_more_is_413_before_it_is_read() {
    let world = World::start().await;
    let token = world.full_token();
    let answer = world.post_text(&token, customer_of(MAX_BODY)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(world.only_record().body_bytes > 9_900_000);
    // Nobody asks for the body, and the answer comes without it.
    for more in ["", EXPECT] {
        let mut wire = Wire::open(world.gateway).await;
        wire.send(head(&token, MAX_BODY + 1, more)).await;
        assert_too_large(&wire.answer().await);
        assert!(wire.flood(MAX_BODY).await < 1_000_000);
    }
    assert_eq!(world.simulator.requests().len(), 1);
}

#[tokio::test]
async fn the_same_holds_for_chunks_which_are_counted_as_they_come() {
    let world = World::with("", &[("SERVER__CHUNKED", "allow")]).await;
    let token = world.full_token();
    let chunked = head(&token, 0, "Transfer-Encoding: chunked\r\n");
    let chunked = chunked.replace("Content-Length: 0\r\n", "");
    let mut body = customer_of(MAX_BODY);
    for (size, status) in [(MAX_BODY, 200), (MAX_BODY + 1, 413)] {
        body.resize(size, b' ');
        let mut wire = Wire::open(world.gateway).await;
        wire.send(&chunked).await;
        for chunk in body.chunks(100_000) {
            wire.send(format!("{:x}\r\n", chunk.len())).await;
            wire.send(chunk).await;
            wire.send("\r\n").await;
        }
        wire.send("0\r\n\r\n").await;
        assert_eq!(wire.answer().await.status, status);
    }
    assert_eq!(world.simulator.requests().len(), 1);
}

#[tokio::test]
async fn the_same_holds_on_http2_without_a_length() {
    let world = World::with("", &[("SERVER__PROTOCOL", "h2c")]).await;
    let stream = TcpStream::connect(world.gateway).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut client, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let mut body = customer_of(MAX_BODY);
    for (size, status) in [(MAX_BODY, 200), (MAX_BODY + 1, 413), (MAX_BODY, 200)] {
        body.resize(size, b' ');
        let frame = Frame::data(Bytes::from(body.clone()));
        // A stream says nothing of its length.
        let frames = StreamBody::new(stream::iter([Ok::<_, std::io::Error>(frame)]));
        let request = Request::post(format!("http://gateway.example{PATH}"))
            .header("authorization", format!("Bearer {}", world.full_token()))
            .header("content-type", "application/json")
            .body(frames);
        let response = client.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), status);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            text.windows(17).any(|w| w == b"payload_too_large"),
            status == 413
        );
    }
    assert_eq!(world.simulator.requests().len(), 2);
}

#[tokio::test]
async fn a_lookup_of_max_lookup_body_passes_and_one_byte_more_is_413() {
    let world = World::start().await;
    let lookups = [
        Operation::GetStatus,
        Operation::GetDocumentImages,
        Operation::UpdateStatus,
    ];
    for token in [world.token(&lookups), world.full_token()] {
        let answer = world.post_text(&token, lookup_of(MAX_LOOKUP_BODY)).await;
        assert_eq!(answer.code(), "customer_not_found", "{}", answer.text);
        assert_too_large(
            &world
                .post_text(&token, lookup_of(MAX_LOOKUP_BODY + 1))
                .await,
        );
    }
    assert_eq!(world.simulator.requests().len(), 2);
}

/// Its scopes say that it has nothing large to send, so it isn't let.
#[tokio::test]
async fn who_may_not_create_customers_is_refused_before_a_byte_of_a_large_body_is_read() {
    let world = World::start().await;
    let mut wire = Wire::open(world.gateway).await;
    let weak = world.token(&[Operation::GetStatus]);
    wire.send(head(&weak, MAX_LOOKUP_BODY + 1, EXPECT)).await;
    assert_too_large(&wire.answer().await);
    assert!(wire.is_closed().await);
    // Who may is asked for the body, since it may be a customer.
    let mut wire = Wire::open(world.gateway).await;
    let body = lookup_of(MAX_LOOKUP_BODY + 1);
    wire.send(head(&world.full_token(), body.len(), EXPECT))
        .await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send(&body).await;
    assert_too_large(&wire.answer().await);
    assert!(world.simulator.requests().is_empty());
}

#[tokio::test]
async fn a_smaller_lookup_limit_holds_once_the_service_is_known() {
    let world = World::with("", &[("LIMITS__MAX_LOOKUP_BODY", "1KiB")]).await;
    let token = world.full_token();
    let answer = world.post_text(&token, lookup_of(1024)).await;
    assert_eq!(answer.code(), "customer_not_found");
    assert_too_large(&world.post_text(&token, lookup_of(1025)).await);
    // A customer is no lookup.
    assert_eq!(
        world.post_text(&token, customer_of(50_000)).await.status,
        200
    );
}

/// A world with room for three bodies of 1 MB.
async fn crowded() -> World {
    let variables = [
        ("LIMITS__MAX_BODY", "1MB"),
        ("LIMITS__BODY_MEMORY", "3MB"),
        ("LIMITS__BODY_WAIT", "50ms"),
        ("SERVER__CHUNKED", "allow"),
    ];
    World::with("", &variables).await
}

/// A client in the middle of its body.
async fn midway(world: &World, body: &[u8]) -> Wire {
    let mut wire = Wire::open(world.gateway).await;
    wire.send(head(&world.full_token(), body.len(), EXPECT))
        .await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send(&body[..body.len() / 2]).await;
    wire
}

fn assert_overloaded(answer: &Answer) {
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
    let wait = answer.headers["retry-after"].to_str().unwrap();
    assert!((1..=30).contains(&wait.parse::<u64>().unwrap()), "{wait}");
}

#[tokio::test]
async fn the_byte_budget_bounds_what_is_held() {
    let world = crowded().await;
    let (token, small) = (world.full_token(), lookup(Operation::GetStatus));
    let body = customer_of(1_000_000);
    let first = midway(&world, &body).await;
    let mut second = midway(&world, &body).await;
    let mut third = midway(&world, &body).await;
    assert_eq!(world.metric(HELD).await, 3_000_000);
    assert_overloaded(&world.post(&token, &small).await);
    assert_overloaded(&world.post_text(&token, body.clone()).await);
    assert_eq!(world.metric(HELD).await, 3_000_000);
    // Who goes away gives its share back, and the next is served.
    drop(first);
    world.until_metric(HELD, 2_000_000).await;
    assert_eq!(
        world.post(&token, &small).await.code(),
        "customer_not_found"
    );
    assert_eq!(world.post_text(&token, body.clone()).await.status, 200);
    for wire in [&mut second, &mut third] {
        wire.send(&body[body.len() / 2..]).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    assert_eq!(world.metric(HELD).await, 0);
    assert_eq!(
        world.metric("dcams_gateway_body_memory_limit_bytes").await,
        3_000_000
    );
}

#[tokio::test]
async fn a_body_is_charged_until_dcams_has_answered() {
    let world = crowded().await;
    world
        .simulator
        .add_fault(Fault::once(FaultKind::Hang {}))
        .unwrap();
    let body = customer_of(500_000);
    let token = world.full_token();
    let sent = world.post_text(&token, body.clone());
    let looked = async {
        let arrived = world.simulator.arrived(1);
        timeout(Duration::from_secs(30), arrived).await.unwrap();
        let held = world.metric(HELD).await;
        world.simulator.clear_faults();
        held
    };
    let (answer, held) = tokio::join!(sent, looked);
    assert_eq!((answer.status, held), (502, 500_000));
    assert_eq!(world.metric(HELD).await, 0);
}

/// Without a length a body is charged as it comes, ahead of its bytes.
#[tokio::test]
async fn a_body_of_unknown_length_is_bounded_by_the_budget_too() {
    let world = crowded().await;
    let body = customer_of(1_000_000);
    let holding = [midway(&world, &body).await, midway(&world, &body).await];
    let chunked = head(&world.full_token(), 0, "Transfer-Encoding: chunked\r\n");
    let mut wire = Wire::open(world.gateway).await;
    wire.send(chunked.replace("Content-Length: 0\r\n", ""))
        .await;
    wire.send(format!("{:x}\r\n", body.len())).await;
    wire.send(&body[..600_000]).await;
    // Three steps of 256 KiB.
    world.until_metric(HELD, 2_000_000 + 3 * 256 * 1024).await;
    assert_overloaded(&world.post_text(&world.full_token(), body.clone()).await);
    drop(holding);
    world.until_metric(HELD, 3 * 256 * 1024).await;
    wire.send(&body[600_000..]).await;
    wire.send("\r\n0\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(world.metric(HELD).await, 0);
}

/// Sends a body one byte at a time, if at all, until there is an answer.
async fn drip(variable: (&str, &str), pace: Option<Duration>, due: Duration) {
    let world = World::with("", &[variable]).await;
    let mut wire = Wire::open(world.gateway).await;
    let body = customer_of(20_000);
    wire.send(head(&world.full_token(), body.len(), EXPECT))
        .await;
    assert_eq!(wire.answer().await.status, 100);
    let begun = Instant::now();
    wire.send(&body[..1000]).await;
    assert_eq!(world.metric(HELD).await, 20_000);
    let mut pace = tokio::time::interval(pace.unwrap_or(Duration::from_hours(1)));
    pace.tick().await;
    let mut sent = 1000;
    let answer = loop {
        tokio::select! {
            answer = wire.answer() => break answer,
            _ = pace.tick() => {}
        }
        wire.send(&body[sent..=sent]).await;
        sent += 1;
    };
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "request_timeout")
    );
    assert_due(variable.0, begun.elapsed(), due);
    assert_eq!(world.metric(HELD).await, 0);
    assert!(world.simulator.requests().is_empty());
}

#[tokio::test]
async fn a_body_that_stands_still_comes_too_late_or_too_slowly_is_408_and_gives_its_share_back() {
    let often = Some(Duration::from_millis(50));
    tokio::join!(
        drip(
            ("SERVER__BODY_IDLE_TIMEOUT", "600ms"),
            None,
            Duration::from_millis(600)
        ),
        drip(
            ("SERVER__BODY_TIMEOUT", "1500ms"),
            often,
            Duration::from_millis(1500)
        ),
        // 1 KiB a second over each ten seconds.
        drip(
            ("SERVER__MIN_BODY_RATE", "1KiB"),
            often,
            Duration::from_secs(10)
        ),
    );
}

#[tokio::test]
async fn chunks_are_411_unless_they_are_allowed_and_an_encoding_is_always_415() {
    let (refuse, allow) = (World::start().await, crowded().await);
    let body = lookup(Operation::GetStatus).to_string();
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for (world, code) in [(&refuse, "length_required"), (&allow, "customer_not_found")] {
        let chunked = head(&world.full_token(), 0, "Transfer-Encoding: chunked\r\n");
        let mut wire = Wire::open(world.gateway).await;
        wire.send(chunked.replace("Content-Length: 0\r\n", "") + &chunks)
            .await;
        assert_eq!(wire.answer().await.code(), code);
        for (encoding, code) in [
            ("gzip", "unsupported_media_type"),
            ("br", "unsupported_media_type"),
            ("identity, deflate", "unsupported_media_type"),
            ("identity", "customer_not_found"),
        ] {
            let more = format!("Content-Encoding: {encoding}\r\n");
            let mut wire = Wire::open(world.gateway).await;
            wire.send(head(&world.full_token(), body.len(), &more) + &body)
                .await;
            assert_eq!(wire.answer().await.code(), code, "{encoding}");
        }
    }
}
