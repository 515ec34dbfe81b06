//! From where a tenant may be called, and what is kept of where it was called from.

use std::fmt::Write as _;

use dcams_gateway::{operation::Operation, simulator::Login};
use serde_json::json;

use crate::{
    support::{EMAIL, Lines, OTHER_USER, PASS, World, lookup},
    wire::{Wire, head, tenant},
};

const GET: Operation = Operation::GetStatus;

/// A gateway whose tenant `other` has lists; `demo` has none.
async fn listed(server: &str) -> World {
    let lists = "services = [\"getStatus\"]\n\
                 allow = [\"198.51.100.0/24\", \"2001:db8::/32\"]\n\
                 deny = [\"198.51.100.66\", \"2001:db8:bad::/48\"]";
    let toml = format!("[server]\n{server}\n{}", tenant("other", lists, ""));
    World::with_other(&toml, &[]).await
}

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";

/// Asks for a status on a connection of its own, behind `before`; the status and the code.
async fn ask(world: &World, token: &str, before: &str, lines: &str) -> (u16, String) {
    let body = lookup(GET).to_string();
    let mut wire = Wire::open(world.gateway).await;
    let head = head(token, body.len(), lines);
    wire.send(format!("{before}{head}{body}")).await;
    let answer = wire.answer().await;
    (answer.status, answer.code())
}

fn refused() -> (u16, String) {
    (403, "address_not_allowed".to_owned())
}

/// Nobody created the customer, so this is DCAMS's own word.
fn admitted() -> (u16, String) {
    (404, "customer_not_found".to_owned())
}

#[tokio::test]
async fn a_tenants_lists_judge_whom_the_trusted_proxy_names() {
    let world = listed(TRUSTED).await;
    let (token, free) = (world.token_of("other", &[GET], None), world.token(&[GET]));
    for (header, expected) in [
        ("X-Forwarded-For: 198.51.100.7\r\n", admitted()),
        ("X-Forwarded-For: 6.6.6.6, 198.51.100.7:80\r\n", admitted()),
        ("X-Forwarded-For: 2001:db8::7, 10.1.1.1\r\n", admitted()),
        (
            "x-forwarded-for: 6.6.6.6\r\nx-forwarded-for: 198.51.100.7\r\n",
            admitted(),
        ),
        ("X-Forwarded-For: 198.51.100.66\r\n", refused()),
        ("X-Forwarded-For: ::ffff:198.51.100.66\r\n", refused()),
        ("X-Forwarded-For: 2001:db8:bad::1\r\n", refused()),
        ("X-Forwarded-For: 203.0.113.1\r\n", refused()),
        ("X-Forwarded-For: 198.51.100.7, 203.0.113.1\r\n", refused()),
        ("X-Forwarded-For: 198.51.100.7, unknown\r\n", refused()),
        ("X-Forwarded-For:\r\n", refused()),
        ("Forwarded: for=198.51.100.7\r\n", refused()),
        ("", refused()),
    ] {
        assert_eq!(ask(&world, &token, "", header).await, expected, "{header}");
        assert_eq!(ask(&world, &free, "", header).await, admitted(), "{header}");
    }
}

#[tokio::test]
async fn the_header_is_the_configured_one() {
    let world = listed(&format!("{TRUSTED}\nforwarded_header = \"forwarded\"")).await;
    let token = world.token_of("other", &[GET], None);
    for (header, expected) in [
        ("Forwarded: for=198.51.100.7;proto=https\r\n", admitted()),
        ("Forwarded: for=\"[2001:db8::7]:80\"\r\n", admitted()),
        ("Forwarded: for=_hidden\r\n", refused()),
        ("X-Forwarded-For: 198.51.100.7\r\n", refused()),
    ] {
        assert_eq!(ask(&world, &token, "", header).await, expected, "{header}");
    }
}

#[tokio::test]
async fn a_header_from_whom_nobody_trusts_changes_nothing() {
    let world = listed("trusted_proxies = [\"10.0.0.0/8\"]").await;
    let token = world.token_of("other", &[GET], None);
    let header = "X-Forwarded-For: 198.51.100.7\r\n";
    assert_eq!(ask(&world, &token, "", header).await, refused());
    let events = world.audit.until(1).await;
    assert_eq!(events[0]["client"], "127.0.0.0/24");
}

#[tokio::test]
async fn a_proxy_header_names_the_client_or_the_proxy_behind_which_it_is() {
    let world = listed(&format!("{TRUSTED}\nproxy_protocol = \"required\"")).await;
    let token = world.token_of("other", &[GET], None);
    let named = |address: &str| format!("PROXY TCP4 {address} 10.0.0.1 4711 443\r\n");
    let local = "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_owned();
    let theirs = "X-Forwarded-For: 198.51.100.7\r\n";
    for (before, lines, expected) in [
        (named("198.51.100.7"), "", admitted()),
        (named("198.51.100.66"), "", refused()),
        // A client of the balancer's own is believed nothing, an HTTP proxy behind it is.
        (named("203.0.113.1"), theirs, refused()),
        (named("10.2.2.2"), theirs, admitted()),
        (named("10.2.2.2"), "", refused()),
        ("PROXY UNKNOWN\r\n".to_owned(), theirs, refused()),
        (local.clone(), "", refused()),
    ] {
        let told = ask(&world, &token, &before, lines).await;
        assert_eq!(told, expected, "{before:?} {lines}");
    }
    let events = world.audit.until(7).await;
    let clients: Vec<_> = events.iter().map(|event| &event["client"]).collect();
    assert_eq!(
        json!(clients),
        json!([
            "198.51.100.0/24",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "198.51.100.0/24",
            "10.2.2.0/24",
            "unknown",
            "127.0.0.0/24"
        ])
    );
    // Without one the connection is closed; operators need none.
    let mut wire = Wire::open(world.gateway).await;
    wire.send(head(&token, 0, "")).await;
    assert!(wire.is_closed().await);
    let unannounced = "dcams_gateway_connections_unannounced_total";
    assert_eq!(world.metric(unannounced).await, 1);
}

#[tokio::test]
async fn the_body_of_a_refused_address_is_not_read_and_nothing_goes_upstream() {
    let world = listed(TRUSTED).await;
    let token = world.token_of("other", &[GET], None);
    let denied = "X-Forwarded-For: 198.51.100.66\r\n";
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut wire = Wire::open(world.gateway).await;
        wire.send(head(&token, 10_000, &format!("{denied}{expect}")))
            .await;
        // No byte of the body was sent.
        assert_eq!(wire.answer().await.code(), "address_not_allowed");
    }
    // Before anything else about the request is judged, and after the token is.
    let mut wire = Wire::open(world.gateway).await;
    let lines = format!("{denied}Content-Type: text/plain\r\n");
    wire.send(head(&token, 99_000_000, &lines)).await;
    assert_eq!(wire.answer().await.code(), "address_not_allowed");
    let mut wire = Wire::open(world.gateway).await;
    wire.send(head("not-a-token", 2, denied)).await;
    assert_eq!(wire.answer().await.code(), "invalid_token");
    assert!(world.simulator.requests().is_empty());
    let events = world.audit.until(3).await;
    let said = ["decision", "code", "http_status", "bytes_in", "client"];
    for event in &events {
        assert_eq!(
            json!(said.map(|name| &event[name])),
            json!(["refuse", "address_not_allowed", 403, 0, "198.51.100.0/24"])
        );
    }
}

#[tokio::test]
async fn a_clients_address_is_kept_truncated_and_shown_nowhere() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let world = listed(TRUSTED).await;
    world
        .simulator
        .set_credentials(vec![Login::new(OTHER_USER, PASS)]);
    let (listed, free) = (world.token_of("other", &[GET], None), world.full_token());
    let mut seen = String::new();
    for (token, address) in [
        (&listed, "198.51.100.231"),
        (&listed, "2001:db8:77aa:9fb9::cde1"),
        (&listed, "203.0.113.231"),
        // Upstream errors are logged too: this one's credential is refused.
        (&free, "198.51.100.231"),
        (&free, "2001:db8:77aa:9fb9::cde1"),
        (&free, "garbage.198.51.100.231"),
    ] {
        let request = world
            .client
            .post(world.url())
            .bearer_auth(token)
            .header("x-forwarded-for", format!("6.7.8.231, {address}"))
            .json(&json!({"service": "getStatus", "target": {"email": EMAIL}}));
        seen += &request.send().await.unwrap().text().await.unwrap();
    }
    let events = world.audit.until(6).await;
    let clients: Vec<_> = events.iter().map(|event| &event["client"]).collect();
    let (v4, v6) = ("198.51.100.0/24", "2001:db8:77aa::/48");
    assert_eq!(
        json!(clients),
        json!([v4, v6, "203.0.113.0/24", v4, v6, "unknown"])
    );
    seen += &world.audit.text();
    seen += &log.text();
    seen += &world.operator("/metrics").await.text;
    for record in world.simulator.requests() {
        write!(seen, "{:?} {:?}", record.headers, record.body).unwrap();
    }
    assert!(seen.contains("address_not_allowed") && seen.contains("credential"));
    let seen = seen.to_lowercase();
    // Dotted, mapped, as a number, in hexadecimal; and the half of it that is the person's.
    for trace in [
        // Not ".231" alone, which a time may end with.
        "100.231",
        "113.231",
        "3325256935",
        "c63364e7",
        "3405803239",
        "9fb9",
        "cde1",
        "6.7.8",
    ] {
        assert!(!seen.contains(trace), "{trace} in {seen}");
    }
}
