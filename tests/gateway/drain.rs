//! Signals: what is under way is finished, nothing new is taken, and the exit code says how it went.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dcams_gateway::{
    auth,
    operation::Operation::{self, *},
    simulator::{
        Login, SimulatorHandle,
        fault::{Fault, FaultKind},
    },
};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    audit::assert_sound_trail,
    program::Served,
    support::{
        Answer, PASS, PATH, USER, answer, client, customer, load, lookup, mint, outcomes,
        simulator, write_secrets,
    },
};

/// A gateway as a process, and a simulator that is slow to answer when it is told to.
struct Scene {
    served: Served,
    simulator: SimulatorHandle,
    token: String,
    folder: TempDir,
    _stop: DropGuard,
}

impl Scene {
    async fn set(variables: &[(&str, &str)]) -> Self {
        auth::install_crypto();
        let stop = CancellationToken::new();
        let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
        let folder = TempDir::new().unwrap();
        write_secrets(folder.path());
        let served = Served::start(folder.path(), &simulator.url(), "", variables).await;
        let config = load(folder.path(), &simulator.url(), &[]);
        let token = mint(&config, 0, &Operation::ALL, None);
        Self {
            served,
            simulator,
            token,
            folder,
            _stop: stop.drop_guard(),
        }
    }

    /// Sends a request that the simulator holds, and waits until it is there.
    async fn hold(&self, fault: FaultKind, body: &Value) -> JoinHandle<reqwest::Result<Answer>> {
        let before = self
            .simulator
            .requests()
            .last()
            .map_or(0, |last| last.sequence);
        self.simulator.add_fault(Fault::once(fault)).unwrap();
        let request = client()
            .post(self.served.url())
            .bearer_auth(&self.token)
            .json(body);
        let held = tokio::spawn(async { Ok(answer(request.send().await?).await) });
        self.simulator.arrived(before + 1).await;
        held
    }

    async fn signal(&mut self, name: &str) {
        self.served.program.signal(name);
        self.served
            .program
            .err
            .says("draining: a second signal stops at once", 1)
            .await;
    }

    fn request(&self) -> Request<Full<Bytes>> {
        Request::post(format!("http://gateway{PATH}"))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(customer().to_string())))
            .unwrap()
    }

    fn head(&self, length: usize) -> String {
        format!(
            "POST {PATH} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
            self.token
        )
    }
}

const LATER: Duration = Duration::from_secs(15);

/// Reads until the peer closes; not by a reset.
async fn read_to_the_end(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    tokio::time::timeout(LATER, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn a_signal_lets_requests_finish_takes_no_new_ones_and_exits_0() {
    for signal in ["TERM", "INT"] {
        let mut scene = Scene::set(&[]).await;
        let (gateway, admin) = (scene.served.gateway, scene.served.admin);
        let readiness = format!("http://{admin}/readyz");
        assert_eq!(client().get(&readiness).send().await.unwrap().status(), 200);
        // One connection is idle, one has sent half a body, and two wait for the upstream.
        let created = scene.hold(FaultKind::Delay { ms: 0 }, &customer()).await;
        assert_eq!(created.await.unwrap().unwrap().status, 200);
        let body = lookup(GetStatus).to_string();
        let whole = format!("{}{body}", scene.head(body.len()));
        let mut idle = TcpStream::connect(gateway).await.unwrap();
        idle.write_all(whole.as_bytes()).await.unwrap();
        let mut start = [0; 15];
        idle.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        let mut reading = TcpStream::connect(gateway).await.unwrap();
        let (first, second) = whole.split_at(whole.len() - 5);
        reading.write_all(first.as_bytes()).await.unwrap();
        while !page(&scene)
            .await
            .contains(&format!("body_memory_bytes {}\n", body.len()))
        {}
        let write = scene
            .hold(FaultKind::Delay { ms: 3_000 }, &lookup(UpdateStatus))
            .await;
        let read = scene
            .hold(FaultKind::Delay { ms: 3_000 }, &lookup(GetStatus))
            .await;

        scene.signal(signal).await;
        let probe = client().get(&readiness).send().await.unwrap();
        assert_eq!(probe.status(), 503, "{signal}");
        while let Ok(stream) = TcpStream::connect(gateway).await {
            drop(stream);
        }
        let refused = TcpStream::connect(gateway).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(
            !read_to_the_end(&mut idle).await.contains("HTTP/1.1"),
            "{signal}"
        );
        assert!(
            !write.is_finished() && !read.is_finished(),
            "it closed the idle one first"
        );
        reading.write_all(second.as_bytes()).await.unwrap();
        assert!(
            read_to_the_end(&mut reading)
                .await
                .starts_with("HTTP/1.1 200 OK"),
            "{signal}"
        );
        for held in [write, read] {
            assert_eq!(held.await.unwrap().unwrap().status, 200, "{signal}");
        }
        let ended = scene.served.program.end().await;
        assert_eq!(ended.status.code(), Some(0), "{signal}: {}", ended.err);
        assert_eq!(
            outcomes(&ended.out).len(),
            5,
            "every outcome is on record: {}",
            ended.out
        );
        assert_sound_trail(scene.folder.path(), &ended.out);
    }
}

async fn page(scene: &Scene) -> String {
    let url = format!("http://{}/metrics", scene.served.admin);
    client()
        .get(url)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_cut_off_and_exits_1() {
    let mut scene = Scene::set(&[("DCAMS_GATEWAY__SERVER__DRAIN_TIMEOUT", "1s")]).await;
    let held = scene.hold(FaultKind::Hang {}, &customer()).await;
    let begun = Instant::now();
    scene.signal("TERM").await;
    assert!(held.await.unwrap().is_err(), "no answer was made up");
    let ended = scene.served.program.end().await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < LATER, "{took:?}");
    assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
    let said = "stopped with requests unfinished: raise server.drain_timeout";
    assert!(ended.err.contains(said), "{}", ended.err);
    let [event] = &outcomes(&ended.out)[..] else {
        panic!("{}", ended.out)
    };
    assert_eq!(
        (&event["decision"], &event["code"]),
        (&"forward".into(), &"shutting_down".into())
    );
    assert_sound_trail(scene.folder.path(), &ended.out);
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM")] {
        let mut scene = Scene::set(&[]).await;
        let held = scene.hold(FaultKind::Hang {}, &customer()).await;
        scene.signal(first).await;
        let begun = Instant::now();
        scene.served.program.signal(second);
        let ended = scene.served.program.end().await;
        assert!(
            begun.elapsed() < LATER,
            "{:?}, and a drain may take 30 s",
            begun.elapsed()
        );
        assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
        assert!(
            ended.err.ends_with("stopped at once by a second signal\n"),
            "{}",
            ended.err
        );
        assert!(held.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_drain_waits_for_what_was_sent_for_a_client_that_has_left() {
    let mut scene = Scene::set(&[("DCAMS_GATEWAY__SERVER__PROTOCOL", "h2c")]).await;
    scene
        .simulator
        .add_fault(Fault::once(FaultKind::Delay { ms: 3_000 }))
        .unwrap();
    let mut client = connect(&scene).await;
    tokio::select! {
        _ = client.send_request(scene.request()) => panic!("answered before its time"),
        () = scene.simulator.arrived(1) => {}
    }
    drop(client);
    // No connection is left for the drain to wait for.
    while !page(&scene).await.contains("gateway_connections 0\n") {}
    scene.signal("TERM").await;
    let ended = scene.served.program.end().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
    let [event] = &outcomes(&ended.out)[..] else {
        panic!("{}", ended.out)
    };
    assert_eq!(
        (&event["decision"], &event["code"]),
        (&"forward".into(), &"ok".into())
    );
    assert_sound_trail(scene.folder.path(), &ended.out);
    assert_eq!(scene.simulator.requests()[0].status, Some(200));
}

async fn connect(scene: &Scene) -> http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(scene.served.gateway).await.unwrap();
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn http2_says_goaway_and_finishes_its_streams() {
    let mut scene = Scene::set(&[("DCAMS_GATEWAY__SERVER__PROTOCOL", "h2c")]).await;
    scene
        .simulator
        .add_fault(Fault::once(FaultKind::Delay { ms: 3_000 }))
        .unwrap();
    let mut client = connect(&scene).await;
    let held = tokio::spawn(client.send_request(scene.request()));
    scene.simulator.arrived(1).await;
    scene.signal("TERM").await;
    // The client learns of it while the stream is still open.
    let mut other = scene.request();
    other.headers_mut().remove("authorization");
    let until_refused = async {
        while let Ok(response) = client.send_request(other.clone()).await {
            assert_eq!(response.status(), 401);
        }
    };
    tokio::time::timeout(LATER, until_refused).await.unwrap();
    assert!(!held.is_finished());
    let response = held.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .starts_with(b"{\"result\"")
    );
    let ended = scene.served.program.end().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
    assert_eq!(scene.simulator.requests().len(), 1);
    assert_sound_trail(scene.folder.path(), &ended.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_that_nobody_reads_hold_up_neither_requests_nor_the_end() {
    let scene = Scene::set(&[]).await;
    scene.served.program.out.leave_unread(true);
    scene.served.program.err.leave_unread(true);
    let client = client();
    // More lines than a pipe holds (64 KiB), of both kinds.
    for _ in 0..600 {
        let request = client.post(scene.served.url()).bearer_auth(&scene.token);
        let response = request.json(&lookup(GetStatus)).send().await.unwrap();
        assert_eq!(answer(response).await.code(), "customer_not_found");
    }
    scene.served.program.signal("TERM");
    scene.served.program.out.leave_unread(false);
    scene.served.program.err.leave_unread(false);
    let ended = scene.served.program.end().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
    assert_eq!(outcomes(&ended.out).len(), 600, "audit events");
    assert_sound_trail(scene.folder.path(), &ended.out);
}
