//! What stands between a gateway and Redis, and cuts them off from one another.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A proxy before a server on this machine. Its connections end when it is dropped.
pub struct Proxy {
    port: u16,
    mode: Arc<watch::Sender<Mode>>,
    _stop: DropGuard,
}

#[derive(Clone, PartialEq)]
enum Mode {
    Open,
    /// What is sent goes nowhere, and no connection is closed: as where a cable was pulled.
    Cut,
    /// What the server says goes nowhere, from the command of this name on.
    Muted(&'static str),
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, stop) = (
            Arc::new(watch::Sender::new(Mode::Open)),
            CancellationToken::new(),
        );
        let modes = mode.subscribe();
        let guard = stop.clone().drop_guard();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(join(client, server, modes.clone()));
            }
        }));
        Self {
            port,
            mode,
            _stop: guard,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Lets nothing through any more.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Lets no answer through any more once a command of this name has passed.
    pub fn mute_after(&self, command: &'static str) {
        self.mode.send_replace(Mode::Muted(command));
    }

    /// Lets new connections through, and what waits in old ones.
    pub fn heal(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

async fn join(client: TcpStream, server: u16, modes: watch::Receiver<Mode>) {
    let mut opened = modes.clone();
    if opened.wait_for(|mode| *mode != Mode::Cut).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return;
    };
    // What it adds is to be a break, not a delay.
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let passed = Arc::new(watch::Sender::new(false));
    let muting = Arc::clone(&passed);
    let mut mode = modes.clone();
    let there = async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            if mode.wait_for(|mode| *mode != Mode::Cut).await.is_err() {
                return;
            }
            if let Mode::Muted(command) = &*mode.borrow() {
                let text = String::from_utf8_lossy(&buffer[..read]);
                if text.contains(command) {
                    muting.send_replace(true);
                }
            }
            if to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let mut mode = modes;
    let back = async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let may_pass = |mode: &Mode| match mode {
                Mode::Open => true,
                Mode::Cut => false,
                Mode::Muted(_) => !*passed.borrow(),
            };
            if mode.wait_for(may_pass).await.is_err() {
                return;
            }
            if to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}
