use std::{
    future::poll_fn,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::Poll,
    thread,
};

use http::StatusCode;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{ServerConfig, ServerConnection, pki_types::PrivateKeyDer};

use super::*;

/// Long enough for a busy machine, short enough for a test that waits for it.
const SOON: Duration = Duration::from_millis(400);
const LATER: Duration = Duration::from_secs(20);

fn settings(url: &str) -> UpstreamSettings {
    UpstreamSettings {
        url: url.parse().unwrap(),
        connect_timeout: LATER,
        timeout: LATER,
        max_response: 100_000,
        pool_max_idle: 8,
        pool_idle_timeout: LATER,
        roots: Vec::new(),
    }
}

fn client(address: SocketAddr) -> UpstreamClient {
    UpstreamClient::new(&settings(&format!("http://{address}/v3/api"))).unwrap()
}

fn body() -> Segments {
    let mut body = Segments::from(r#"{"user":"u","#);
    body.push(Bytes::from_static(br#""pass":"p"}"#));
    body
}

/// Runs `script` on each connection, on a thread of its own, with the connection's number.
fn serve(script: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let script = Arc::clone(&script);
            thread::spawn(move || script(number, stream.unwrap()));
        }
    });
    address
}

/// Reads one request; `None` at the end of the connection.
fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(br#""pass":"p"}"#) {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8(request).unwrap())
}

/// Reads a request, answers with these bytes, and hangs up.
fn answer(bytes: impl Into<Vec<u8>>) -> SocketAddr {
    let bytes = bytes.into();
    serve(move |_, mut stream| {
        if read_request(&mut stream).is_some() {
            stream.write_all(&bytes).ok();
        }
    })
}

async fn error_of(bytes: impl Into<Vec<u8>>) -> SendError {
    client(answer(bytes)).post(&body()).await.unwrap_err()
}

fn text(reply: &UpstreamReply) -> String {
    let bytes = reply.frames().iter().flatten().copied().collect();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_request_has_exactly_our_headers_and_the_sealed_body() {
    let (sender, receiver) = mpsc::channel();
    let address = serve(move |_, mut stream| {
        sender.send(read_request(&mut stream).unwrap()).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nset-cookie: a=b\r\n\r\n{}")
            .unwrap();
    });
    let reply = client(address).post(&body()).await.unwrap();
    assert_eq!((reply.status(), reply.len()), (StatusCode::OK, 2));
    assert_eq!(text(&reply), "{}");
    let expected = format!(
        "POST /v3/api HTTP/1.1\r\nhost: {address}\r\naccept: application/json\r\n\
         content-type: application/json\r\nuser-agent: dcams-gateway\r\ncontent-length: 23\r\n\r\n\
         {{\"user\":\"u\",\"pass\":\"p\"}}"
    );
    assert_eq!(receiver.recv().unwrap(), expected);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let address = serve(move |_, mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        while read_request(&mut stream).is_some() {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                .unwrap();
        }
    });
    let client = client(address);
    for _ in 0..5 {
        client.post(&body()).await.unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refused_port_and_an_unknown_name_are_not_sent() {
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap();
    let error = client(address).post(&body()).await.unwrap_err();
    assert_eq!(error, SendError::Connect(ConnectError::Refused));
    assert!(!error.sent());
    // Two dots in a row: refused by the resolver itself, no name server is asked.
    let client = UpstreamClient::new(&settings("http://a..invalid/")).unwrap();
    let error = client.post(&body()).await.unwrap_err();
    assert_eq!(error, SendError::Connect(ConnectError::Resolve));
    assert!(!error.sent());
}

#[tokio::test]
async fn a_handshake_that_gets_no_answer_ends_at_the_connect_timeout() {
    let (sender, receiver) = mpsc::channel();
    let address = serve(move |_, stream| sender.send(stream).unwrap());
    let mut settings = settings(&format!("https://{address}/"));
    settings.connect_timeout = SOON;
    let client = UpstreamClient::new(&settings).unwrap();
    let error = client.post(&body()).await.unwrap_err();
    assert_eq!(error, SendError::Connect(ConnectError::TimedOut));
    assert_eq!((error.sent(), error.failure()), (false, Failure::Timeout));
    drop(receiver);
}

#[tokio::test(flavor = "multi_thread")] // it waits on the thread of the server's script
async fn silence_ends_at_the_timeout_and_closes_the_connection() {
    let (sender, receiver) = mpsc::channel();
    let address = serve(move |_, mut stream| {
        read_request(&mut stream).unwrap();
        sender.send(stream.read(&mut [0])).unwrap();
    });
    let mut settings = settings(&format!("http://{address}/"));
    settings.timeout = SOON;
    let client = UpstreamClient::new(&settings).unwrap();
    let error = client.post(&body()).await.unwrap_err();
    assert_eq!(error, SendError::Timeout);
    assert_eq!((error.sent(), error.failure()), (true, Failure::Timeout));
    // Closed, or reset: never left open.
    assert!(matches!(
        receiver.recv_timeout(LATER).unwrap(),
        Ok(0) | Err(_)
    ));
}

#[tokio::test]
async fn a_body_without_end_ends_at_the_total_timeout() {
    let address = serve(|_, mut stream| {
        read_request(&mut stream);
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut written = stream.write_all(head);
        while written.is_ok() {
            thread::sleep(Duration::from_millis(20));
            written = stream.write_all(b"1\r\nx\r\n");
        }
    });
    let mut settings = settings(&format!("http://{address}/"));
    settings.timeout = SOON;
    let client = UpstreamClient::new(&settings).unwrap();
    let error = client.post(&body()).await.unwrap_err();
    assert_eq!(error, SendError::Timeout);
    assert!(error.sent());
}

#[tokio::test]
async fn informational_answers_without_end_end_at_the_timeout() {
    let address = serve(|_, mut stream| {
        read_request(&mut stream);
        while stream
            .write_all(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
            .is_ok()
        {}
    });
    let mut settings = settings(&format!("http://{address}/"));
    settings.timeout = SOON;
    let client = UpstreamClient::new(&settings).unwrap();
    let error = client.post(&body()).await.unwrap_err();
    assert_eq!(error, SendError::Timeout);
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_broken_and_never_sent_again() {
    for head in ["", "HTTP/1.1 20", "HTTP/1.1 200 OK\r\ncontent-le"] {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let address = serve(move |_, mut stream| {
            read_request(&mut stream);
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(head.as_bytes()).ok();
        });
        let error = client(address).post(&body()).await.unwrap_err();
        assert_eq!(error, SendError::Broken, "{head}");
        assert_eq!(
            (error.sent(), error.failure()),
            (true, Failure::Unavailable)
        );
        assert_eq!(requests.load(Ordering::SeqCst), 1);
    }
    // Hanging up on unread bytes resets the connection.
    let address = serve(|_, mut stream| {
        stream.read_exact(&mut [0]).ok();
    });
    let error = client(address).post(&body()).await.unwrap_err();
    assert_eq!(error, SendError::Broken);
    assert!(error.sent());
}

#[tokio::test]
async fn an_answer_with_wrong_framing_is_refused() {
    for (bytes, expected) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
            SendError::CutOff,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
            SendError::CutOff,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}",
            SendError::CutOff,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}xx",
            SendError::CutOff,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-2\r\n{}",
            SendError::CutOff,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}",
            SendError::NotHttp,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
            SendError::NotHttp,
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n\r\n", SendError::NotHttp),
        ("HTTP/3 200 OK\r\n\r\n", SendError::NotHttp),
        ("HTTP/1.1 200 OK\r\na: \0\r\n\r\n", SendError::NotHttp),
        ("HTTP/1.1 2000 OK\r\n\r\n", SendError::NotHttp),
        (
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n{}",
            SendError::Encoded,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-encoding: zstd\r\n\r\n{}",
            SendError::Encoded,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-encoding: br\r\n\r\n{}",
            SendError::Encoded,
        ),
    ] {
        let error = error_of(bytes).await;
        assert_eq!(error, expected, "{bytes}");
        assert_eq!((error.sent(), error.failure()), (true, Failure::Malformed));
    }
    let plain = "HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 2\r\n\r\n{}extra";
    let reply = client(answer(plain)).post(&body()).await.unwrap();
    assert_eq!(text(&reply), "{}");
}

#[tokio::test]
async fn an_answers_head_is_bounded() {
    let headers = |count: usize, size: usize| {
        let line = format!("x-h: {}\r\n", "v".repeat(size));
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{}\r\n{{}}",
            line.repeat(count)
        )
    };
    for (count, size, fine) in [
        (63, 1, true),
        (64, 1, false),
        (100_000, 1, false),
        (1, 32_000, true),
        (1, 33_000, false),
        (1, 3_000_000, false),
    ] {
        let reply = client(answer(headers(count, size))).post(&body()).await;
        assert_eq!(reply.is_ok(), fine, "{count} {size}");
        if !fine {
            assert_eq!(
                reply.unwrap_err(),
                SendError::HeadTooLarge,
                "{count} {size}"
            );
        }
    }
}

#[tokio::test]
async fn an_answer_is_bounded_by_its_length_and_by_count() {
    let limit = 100_000;
    for (length, fine) in [(limit, true), (limit + 1, false)] {
        let body_text = "x".repeat(length);
        let sized = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body_text}");
        let chunked = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body_text}\r\n0\r\n\r\n"
        );
        let until_close = format!("HTTP/1.1 200 OK\r\n\r\n{body_text}");
        for bytes in [sized, chunked, until_close] {
            match client(answer(bytes)).post(&body()).await {
                Ok(reply) => assert!(fine && text(&reply) == body_text),
                Err(error) => assert!(!fine && error == SendError::TooLarge),
            }
        }
    }
    // Refused before a byte of the body has come.
    let address = serve(|_, mut stream| {
        read_request(&mut stream);
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
        stream.write_all(head).ok();
        stream.read_exact(&mut [0]).ok();
    });
    let error = client(address).post(&body()).await.unwrap_err();
    assert_eq!(error, SendError::TooLarge);
}

#[tokio::test]
async fn an_answer_in_single_bytes_costs_few_frames() {
    let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..50_000 {
        bytes.extend_from_slice(b"1\r\nx\r\n");
    }
    bytes.extend_from_slice(b"0\r\ntrailer: x\r\n\r\n");
    let reply = client(answer(bytes)).post(&body()).await.unwrap();
    assert_eq!(text(&reply), "x".repeat(50_000));
    assert!(reply.frames().len() <= 4, "{}", reply.frames().len());
}

#[tokio::test]
async fn a_large_answer_pins_small_buffers_only() {
    let length = 4_000_000;
    let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    let mut settings = settings(&format!("http://{}/", answer(bytes)));
    settings.max_response = 4_000_000;
    let client = UpstreamClient::new(&settings).unwrap();
    let reply = client.post(&body()).await.unwrap();
    assert_eq!(reply.len(), settings.max_response);
    assert!(
        reply
            .frames()
            .iter()
            .all(|frame| frame.len() <= READ_BUFFER)
    );
    let small = reply
        .frames()
        .iter()
        .filter(|frame| frame.len() < SMALL_FRAME);
    // A large frame may come between small ones; at most every other frame is small then.
    assert!(2 * small.count() <= reply.frames().len() + 1);
}

#[tokio::test]
async fn a_status_that_says_it_all_is_kept_however_its_body_ends() {
    for status in [401, 429, 500, 503] {
        for rest in [
            "content-length: 9\r\n\r\n{}",
            "content-encoding: gzip\r\n\r\n{}",
            "content-length: 99999999\r\n\r\n",
        ] {
            let bytes = format!("HTTP/1.1 {status} X\r\n{rest}");
            let reply = client(answer(bytes)).post(&body()).await.unwrap();
            assert_eq!(reply.status().as_u16(), status);
            assert!(reply.is_empty());
        }
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let address = serve(move |_, mut stream| {
        while read_request(&mut stream).is_some() {
            count.fetch_add(1, Ordering::SeqCst);
            let head = b"HTTP/1.1 307 X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(head).ok();
        }
    });
    let reply = client(address).post(&body()).await.unwrap();
    assert_eq!(reply.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

/// The connection's task has to be told of the closed connection and of the queued request in one
/// go. On this runtime it is: after each task that ran, the runtime looks for what happened on
/// sockets, and a task that does nothing stands before the connection's in the queue.
#[test]
fn a_request_that_was_not_begun_is_repeated_once() {
    let (close, closing) = mpsc::channel::<()>();
    let (closed, is_closed) = mpsc::channel();
    let closing = std::sync::Mutex::new(closing);
    let address = serve(move |number, mut stream| {
        read_request(&mut stream).unwrap();
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(whole).unwrap();
        if number == 0 {
            closing.lock().unwrap().recv().unwrap();
            drop(stream);
            closed.send(()).unwrap();
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = client(address);
        let body = body();
        client.post(&body).await.unwrap();
        for _ in 0..50 {
            tokio::task::yield_now().await; // until the connection is back in the pool
        }
        drop(tokio_util::task::TaskTracker::new().spawn(async {}));
        let mut second = pin!(client.post(&body));
        let begun = poll_fn(|context| Poll::Ready(second.as_mut().poll(context))).await;
        assert!(begun.is_pending());
        close.send(()).unwrap();
        is_closed.recv_timeout(LATER).unwrap();
        second.await.unwrap();
    });
}

#[tokio::test]
async fn a_request_is_never_seen_twice_however_connections_end() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    // Keep-alive is promised and broken at once, so that requests meet dying connections.
    let address = serve(move |_, mut stream| {
        if read_request(&mut stream).is_some() {
            count.fetch_add(1, Ordering::SeqCst);
            let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(whole).ok();
        }
    });
    let client = client(address);
    let (mut answered, mut unsent) = (0, 0);
    for _ in 0..300 {
        match client.post(&body()).await {
            Ok(_) => answered += 1,
            Err(error) if !error.sent() => unsent += 1,
            Err(error) => assert_eq!(error, SendError::Broken),
        }
    }
    let seen = seen.load(Ordering::SeqCst);
    assert!(
        seen >= answered && seen <= 300 - unsent,
        "{seen} {answered} {unsent}"
    );
}

/// A TLS server with a certificate of `params`, and the root that issued it.
fn serve_tls(params: &CertificateParams) -> (SocketAddr, CertificateDer<'static>) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let address = serve(move |_, mut stream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::Stream::new(&mut session, &mut stream);
        if read_request(&mut stream).is_some() {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                .ok();
        }
    });
    (address, ca.der().clone())
}

async fn post_tls(
    address: SocketAddr,
    host: &str,
    roots: Vec<CertificateDer<'static>>,
) -> Result<UpstreamReply, SendError> {
    let mut settings = settings(&format!("https://{host}:{}/", address.port()));
    settings.roots = roots;
    UpstreamClient::new(&settings).unwrap().post(&body()).await
}

fn localhost() -> CertificateParams {
    CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap()
}

#[tokio::test]
async fn a_certificate_is_accepted_from_a_known_root_and_for_its_name_only() {
    let (address, root) = serve_tls(&localhost());
    for host in ["localhost", "127.0.0.1"] {
        let reply = post_tls(address, host, vec![root.clone()]).await.unwrap();
        assert_eq!(text(&reply), "{}");
    }
    let refused = SendError::Connect(ConnectError::Certificate);
    let unknown = post_tls(address, "localhost", Vec::new()).await;
    assert_eq!(unknown.unwrap_err(), refused);

    let elsewhere = CertificateParams::new(vec!["dcams.example".into()]).unwrap();
    let (address, root) = serve_tls(&elsewhere);
    let other_name = post_tls(address, "localhost", vec![root]).await;
    assert_eq!(other_name.unwrap_err(), refused);

    let mut expired = localhost();
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let (address, root) = serve_tls(&expired);
    let expired = post_tls(address, "localhost", vec![root]).await;
    assert_eq!(expired.unwrap_err(), refused);
    assert_eq!(
        (refused.sent(), refused.failure()),
        (false, Failure::Unavailable)
    );
}

#[tokio::test(flavor = "multi_thread")] // it waits on the thread of the server's script
async fn a_peer_that_does_not_speak_tls_gets_no_request() {
    let (sender, receiver) = mpsc::channel();
    let address = serve(move |_, mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).ok();
        sender.send(got).unwrap();
    });
    let error = post_tls(address, "localhost", Vec::new())
        .await
        .unwrap_err();
    assert_eq!(error, SendError::Connect(ConnectError::Tls));
    let got = receiver.recv_timeout(LATER).unwrap();
    assert!(!got.windows(4).any(|window| window == b"pass"));

    let address = serve(|_, stream| drop(stream));
    let error = post_tls(address, "localhost", Vec::new())
        .await
        .unwrap_err();
    assert_eq!(error, SendError::Connect(ConnectError::Failed));
}

#[test]
fn a_url_names_a_scheme_and_a_host_and_no_user() {
    for url in [
        "/path",
        "ftp://host/",
        "host:80",
        "https://user:secret@host/",
    ] {
        let error = UpstreamClient::new(&settings(url)).err();
        assert_eq!(error, Some(UpstreamError::Url), "{url}");
    }
    let mut settings = settings("https://host/");
    settings.roots = vec![CertificateDer::from(vec![1, 2, 3])];
    let error = UpstreamClient::new(&settings).err();
    assert_eq!(error, Some(UpstreamError::Root(UnusableRoot)));
}

#[test]
fn every_reason_is_one_word_of_its_own() {
    let connect = [
        ConnectError::Certificate,
        ConnectError::Failed,
        ConnectError::Refused,
        ConnectError::Resolve,
        ConnectError::TimedOut,
        ConnectError::Tls,
    ];
    let mut reasons: Vec<_> = [
        SendError::Broken,
        SendError::CutOff,
        SendError::Encoded,
        SendError::HeadTooLarge,
        SendError::NotHttp,
        SendError::Timeout,
        SendError::TooLarge,
        SendError::Unsent,
    ]
    .into_iter()
    .chain(connect.map(SendError::Connect))
    .map(SendError::reason)
    .collect();
    let count = reasons.len();
    assert!(reasons.iter().all(|reason| {
        reason
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    }));
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), count);
}
