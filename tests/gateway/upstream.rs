//! What the gateway makes of an upstream that fails, lies, or is not there.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use dcams_gateway::{
    auth,
    operation::Operation::{self, *},
    simulator::{
        Login, SimulatorHandle,
        behaviour::{Behaviour, Echo},
        fault::{DocumentedError, Fault, FaultKind},
        record::Credentials,
    },
};
use futures_util::future::join_all;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{
    program::Served,
    support::{
        Answer, EMAIL, Lines, OTHER_TENANT, OTHER_USER, PASS, PATH, USER, World, answer, client,
        customer, load, lookup, mint, simulator, write_secrets,
    },
};

/// Fault, and how each of the services is answered: 404 and 400 with DCAMS's own message.
type Row = (FaultKind, u16, &'static str);

/// What must not be seen by a client.
const MARK: &str = "upstream-internal-7c1f";

fn table(elsewhere: &str) -> Vec<Row> {
    use FaultKind as F;
    let error = |error| F::Error { error };
    let with_200 = |error| F::ErrorWith200 { error };
    let status = |status| F::Status {
        status,
        message: MARK.to_owned(),
        retry_after: Some(7),
    };
    let redirect = |status| F::Redirect {
        status,
        location: elsewhere.to_owned(),
    };
    let (malformed, unavailable) = ("upstream_malformed", "upstream_unavailable");
    let rejected = "upstream_credentials_rejected";
    let timeout = "upstream_timeout";
    vec![
        (F::Close {}, 502, unavailable),
        (F::Reset {}, 502, unavailable),
        (F::ResetInBody { bytes: 10 }, 502, malformed),
        (F::Truncate { bytes: 10 }, 502, malformed),
        (F::Delay { ms: 600_000 }, 504, timeout),
        (F::Drip { bytes: 1, ms: 500 }, 504, timeout),
        (F::Hang {}, 504, timeout),
        (F::Stall {}, 504, timeout),
        (F::Empty {}, 502, malformed),
        (F::Malformed {}, 502, malformed),
        (F::NotHttp {}, 502, malformed),
        (F::Headers { bytes: 64 * 1024 }, 502, malformed),
        (
            F::Oversize {
                bytes: 3 << 20,
                chunked: false,
            },
            502,
            malformed,
        ),
        (
            F::Oversize {
                bytes: 3 << 20,
                chunked: true,
            },
            502,
            malformed,
        ),
        (F::Html { status: 200 }, 502, malformed),
        (F::Html { status: 502 }, 502, unavailable),
        (redirect(302), 502, malformed),
        (redirect(307), 502, malformed),
        (redirect(308), 502, malformed),
        (status(401), 502, rejected),
        (status(403), 502, malformed),
        (status(418), 502, malformed),
        (status(429), 502, unavailable),
        (status(500), 502, unavailable),
        (status(503), 502, unavailable),
        (error(DocumentedError::BadLogin), 502, rejected),
        (error(DocumentedError::NotFound), 404, "customer_not_found"),
        (error(DocumentedError::InvalidEmail), 400, "invalid_payload"),
        (error(DocumentedError::MissingInput), 400, "invalid_payload"),
        (with_200(DocumentedError::BadLogin), 502, rejected),
        (
            with_200(DocumentedError::NotFound),
            404,
            "customer_not_found",
        ),
        (
            with_200(DocumentedError::InvalidEmail),
            400,
            "invalid_payload",
        ),
        (
            with_200(DocumentedError::MissingInput),
            400,
            "invalid_payload",
        ),
    ]
}

const TIMEOUT: Duration = Duration::from_millis(1500);
/// What a busy machine may add to it.
const GRACE: Duration = Duration::from_secs(4);
const SHORT: [(&str, &str); 3] = [
    ("UPSTREAM__TIMEOUT", "1500ms"),
    ("UPSTREAM__CONNECT_TIMEOUT", "1s"),
    ("UPSTREAM__MAX_RESPONSE", "2MiB"),
];

#[tokio::test]
async fn each_fault_is_its_code_in_time_for_each_service_and_is_sent_once() {
    let world = World::with("", &SHORT).await;
    let token = world.full_token();
    assert_eq!(world.post(&token, &customer()).await.status, 200);
    let rows = table(&world.simulator.url());
    for (fault, status, code) in rows {
        world.simulator.clear_requests();
        world
            .simulator
            .add_fault(Fault::always(fault.clone()))
            .unwrap();
        let begun = Instant::now();
        let bodies = Operation::ALL.map(lookup);
        let answers = join_all(bodies.iter().map(|body| world.post(&token, body))).await;
        let took = begun.elapsed();
        world.simulator.clear_faults();
        for (operation, answer) in Operation::ALL.into_iter().zip(&answers) {
            let case = format!("{fault:?}, {operation}");
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (status, code),
                "{case}"
            );
            assert_problem(answer, &case);
        }
        assert!(took < TIMEOUT + GRACE, "{fault:?}: {took:?}");
        if code == "upstream_timeout" {
            assert!(took >= TIMEOUT, "{fault:?}: {took:?}");
        }
        // Also of a redirect to the very same place. A refused credential is not tried by those that
        // come after the refusal.
        let sent = world.simulator.requests().len();
        if code == "upstream_credentials_rejected" {
            assert!((1..=4).contains(&sent), "{fault:?}: {sent}");
            world.restore_credential().await;
        } else {
            assert_eq!(sent, 4, "{fault:?}: each is sent once");
        }
    }
    // Nothing of all that stays behind.
    assert_eq!(
        world.post(&token, &lookup(GetDocumentImages)).await.status,
        200
    );
}

/// Nothing but a problem document of ours: no header and no text of the upstream.
fn assert_problem(answer: &Answer, case: &str) {
    let mut headers: Vec<&str> = answer
        .headers
        .keys()
        .map(http::HeaderName::as_str)
        .collect();
    headers.sort_unstable();
    // Of a status it is said besides what part the cache had.
    headers.retain(|name| !["age", "cache-status"].contains(name));
    let ours = [
        "cache-control",
        "content-length",
        "content-type",
        "date",
        "x-request-id",
    ];
    assert_eq!(headers, ours, "{case}");
    assert_eq!(
        answer.headers["content-type"], "application/problem+json",
        "{case}"
    );
    let document = answer.json();
    for name in document.as_object().unwrap().keys() {
        let ours = [
            "type",
            "title",
            "status",
            "code",
            "detail",
            "request_id",
            "result",
            "message",
        ];
        assert!(ours.contains(&name.as_str()), "{case}: {name}");
    }
    let message = document["message"].as_str().unwrap();
    let relayed = match answer.code().as_str() {
        "customer_not_found" => message == "The email address was not found",
        "invalid_payload" => {
            ["The email address is invalid", "Missing a required input"].contains(&message)
        }
        _ => document["message"] == document["detail"],
    };
    assert!(relayed, "{case}: {message}");
    for leak in [
        MARK,
        "imulated",
        "<html",
        "username or password",
        "elsewhere",
        "xxxx",
        USER,
        EMAIL,
    ] {
        assert!(!answer.text.contains(leak), "{case}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_refused_credential_is_ours_alone_and_calls_for_a_person() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let world = World::start().await;
    world
        .simulator
        .set_credentials(vec![Login::new(USER, "another password")]);
    let answer = world.post(&world.full_token(), &customer()).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "upstream_credentials_rejected")
    );
    assert_problem(&answer, "a refused credential");
    assert!(!answer.headers.contains_key("www-authenticate"));
    assert_eq!(world.only_record().credentials, Credentials::Refused);
    // Made empty store, loaded, active, refused, no credential left, the request.
    let lines = log.until(6).await;
    let alerts: Vec<&Value> = lines
        .iter()
        .filter(|line| line["level"] == "ERROR")
        .collect();
    assert_eq!(alerts.len(), 2, "{lines:#?}");
    assert_eq!(alerts[0]["credential.id"], "demo-1");
    assert_eq!(alerts[0]["to"], "rejected");
    assert_eq!(alerts[1]["account.id"], "demo");
    assert!(!log.text().contains(USER) && !log.text().contains("Secret"));
}

#[tokio::test]
async fn a_credential_that_comes_back_is_refused_wherever_it_would_be_relayed() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let escaped = serde_json::to_string(PASS).unwrap();
    let mut alerts = 0;
    let world = World::with(OTHER_TENANT, &[]).await;
    world
        .simulator
        .set_credentials([USER, OTHER_USER].map(|user| Login::new(user, PASS)).into());
    let config = load(world.folder(), &world.simulator.url(), &[]);
    for (index, response) in ["minimal", "full"].into_iter().enumerate() {
        let token = mint(&config, index, &Operation::ALL, None);
        world.simulator.set_behaviour(Behaviour::default());
        world.post(&token, &customer()).await;
        for echo in [Echo::Message, Echo::Reference, Echo::Target, Echo::Link] {
            world.simulator.set_behaviour(Behaviour {
                echo,
                ..Behaviour::default()
            });
            for operation in Operation::ALL {
                let answer = world.post(&token, &lookup(operation)).await;
                // `minimal` relays neither of these, and the link is createOrUpdateCustomer's.
                let relayed = match echo {
                    Echo::Link => response == "full" && operation == CreateOrUpdateCustomer,
                    Echo::Target => response == "full",
                    Echo::Message | Echo::None | Echo::Reference => true,
                };
                let case = format!("{response} {echo:?} {operation}: {}", answer.text);
                for secret in [USER, OTHER_USER, PASS, &escaped[1..escaped.len() - 1]] {
                    assert!(!answer.text.contains(secret), "{case}");
                }
                if relayed {
                    alerts += 1;
                    let code = answer.code();
                    assert_eq!(
                        (answer.status, code.as_str()),
                        (502, "upstream_malformed"),
                        "{case}"
                    );
                } else {
                    assert_eq!(answer.status, 200, "{case}");
                }
            }
        }
        // An error's message is relayed too.
        world.simulator.set_behaviour(Behaviour {
            echo: Echo::Message,
            ..Behaviour::default()
        });
        world.simulator.clear_customers();
        let answer = world.post(&token, &lookup(GetStatus)).await;
        alerts += 1;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (502, "upstream_malformed")
        );
    }
    let repeated = "DCAMS repeated the credential";
    assert_eq!(log.text().matches(repeated).count(), alerts);
    for secret in [USER, OTHER_USER, "phrase-0815"] {
        assert!(!log.text().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_in_time() {
    // A port that refuses: it was free a moment ago.
    let refused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    // A black hole: the kernel completes the handshake, and nobody ever takes the connection.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for (address, scheme, status, code) in [
        (refused, "http", 502, "upstream_unavailable"),
        (
            silent.local_addr().unwrap(),
            "http",
            504,
            "upstream_timeout",
        ),
        (
            silent.local_addr().unwrap(),
            "https",
            504,
            "upstream_timeout",
        ),
    ] {
        let world = world_before(&format!("{scheme}://{address}{PATH}"), "").await;
        let begun = Instant::now();
        let answer = world.post(&world.full_token(), &lookup(GetStatus)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{scheme} {address}"
        );
        assert!(begun.elapsed() < TIMEOUT + GRACE, "{:?}", begun.elapsed());
        assert_problem(&answer, code);
    }
}

/// A world whose gateway asks `url`, not its simulator.
async fn world_before(url: &str, toml: &str) -> World {
    let stop = CancellationToken::new();
    let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
    World::before(simulator, stop, url, toml, &SHORT).await
}

#[tokio::test]
async fn proxies_of_the_environment_are_ignored() {
    auth::install_crypto();
    let stop = CancellationToken::new();
    let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    // Whoever goes through it is heard by it.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let names = [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ];
    let variables = names.map(|name| (name, address.as_str()));
    let served = Served::start(folder.path(), &simulator.url(), "", &variables).await;
    let answer = post(&served, folder.path(), &simulator, &customer()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(simulator.requests().len(), 1);
    assert!(proxy.accept().is_err(), "the proxy was asked");
    stop.cancel();
}

async fn post(served: &Served, folder: &Path, simulator: &SimulatorHandle, body: &Value) -> Answer {
    let token = mint(
        &load(folder, &simulator.url(), &[]),
        0,
        &Operation::ALL,
        None,
    );
    let request = client().post(served.url()).bearer_auth(token).json(body);
    answer(request.send().await.unwrap()).await
}

#[tokio::test]
async fn a_certificate_is_taken_from_a_configured_authority_and_from_no_other() {
    let stop = CancellationToken::new();
    let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
    let authority = authority();
    let (known, own) = (Some(&authority), None);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("root.pem");
    fs::write(&file, authority.pem()).unwrap();
    let trusting = format!("[upstream]\nca = {:?}\n", file.display().to_string());
    for (signer, host, toml, status) in [
        (known, "127.0.0.1", trusting.as_str(), 200),
        (known, "localhost", &trusting, 200),
        (known, "127.0.0.1", "", 502),
        (own, "127.0.0.1", &trusting, 502),
    ] {
        simulator.clear_requests();
        let address = terminate_tls(simulator.address(), signer);
        let url = format!("https://{host}:{}{PATH}", address.port());
        let other = CancellationToken::new();
        let world = World::before(simulator.clone(), other, &url, toml, &SHORT).await;
        let answer = world.post(&world.full_token(), &customer()).await;
        let case = format!("{host}, {toml:?}: {}", answer.text);
        assert_eq!(answer.status, status, "{case}");
        let arrived = usize::from(status == 200);
        assert_eq!(simulator.requests().len(), arrived, "{case}");
        let event = world.audit.until(1).await.remove(0);
        if status == 502 {
            assert_eq!(answer.code(), "upstream_unavailable");
            assert_eq!(event["reason"], "certificate_refused");
        }
    }
    stop.cancel();
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Speaks TLS with a certificate of this authority, or a self-signed one, and hands what it hears
/// to the simulator, a request a connection.
fn terminate_tls(simulator: SocketAddr, signer: Option<&Authority>) -> SocketAddr {
    let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = match signer {
        Some(authority) => params.signed_by(&key, authority).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
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
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut inside = StreamOwned::new(session, stream.unwrap());
            let Some(request) = read_message(&mut inside) else {
                continue;
            };
            let mut outside = TcpStream::connect(simulator).unwrap();
            outside.write_all(&request).unwrap();
            let answer = read_message(&mut outside).unwrap();
            inside.write_all(&answer).unwrap();
            inside.conn.send_close_notify();
            inside.flush().unwrap();
        }
    });
    address
}

/// A head and as many bytes as it announces.
fn read_message(from: &mut impl Read) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let mut whole = usize::MAX;
    let mut buffer = [0; 16 * 1024];
    while message.len() < whole {
        let count = from.read(&mut buffer).ok().filter(|count| *count > 0)?;
        message.extend_from_slice(&buffer[..count]);
        let end = message.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&message[..end]).to_lowercase();
            let length = head
                .split("content-length: ")
                .nth(1)?
                .lines()
                .next()?
                .parse();
            whole = end + 4 + length.unwrap_or(0);
        }
    }
    Some(message)
}
