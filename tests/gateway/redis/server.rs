//! A real `redis-server` on a port and in a folder of its own, for one test alone.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    thread,
    time::Duration,
};

use tempfile::TempDir;

/// The server. Killed when it is dropped.
pub struct RedisServer {
    pub port: u16,
    home: TempDir,
    options: Vec<String>,
    sentinel: bool,
    child: Option<Child>,
}

impl RedisServer {
    /// One that writes each change to its disk before it answers.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with more options, such as `["--requirepass", "secret"]`.
    pub fn with(options: &[&str]) -> Self {
        Self::on(free_port(), options)
    }

    /// The same on a port that was chosen before.
    pub fn on(port: u16, options: &[&str]) -> Self {
        let mut server = Self {
            port,
            home: tempfile::tempdir().unwrap(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            sentinel: false,
            child: None,
        };
        server.run();
        server
    }

    /// A sentinel that decides alone, and soon, about the master `main` on this port.
    pub fn sentinel(master: u16) -> Self {
        let mut server = Self {
            port: free_port(),
            home: tempfile::tempdir().unwrap(),
            options: Vec::new(),
            sentinel: true,
            child: None,
        };
        let said = format!(
            "port {}\nbind 127.0.0.1\ndir {home}\nlogfile {home}/log\n\
             sentinel monitor main 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 2000\n",
            server.port,
            home = server.home.path().display(),
        );
        fs::write(server.home.path().join("own.conf"), said).unwrap();
        server.run();
        server
    }

    /// Starts it with what is on its disk.
    pub fn run(&mut self) {
        fs::remove_file(self.log()).ok();
        let mut command = Command::new("redis-server");
        // What the options write down (sentinels and clusters do) outlives a restart.
        let file = self.home.path().join("own.conf");
        if !file.exists() {
            fs::write(&file, "").unwrap();
        }
        command.arg(&file);
        if self.sentinel {
            self.launch(command.arg("--sentinel"), "+monitor master");
            return;
        }
        command.args([
            "--port",
            &self.port.to_string(),
            "--bind",
            "127.0.0.1",
            "--dir",
            &self.home.path().display().to_string(),
            "--logfile",
            &self.log().display().to_string(),
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
            // A kill by a test is no reason to wait for the disk.
            "--shutdown-timeout",
            "0",
        ]);
        self.launch(command.args(&self.options), "Ready to accept connections");
    }

    fn launch(&mut self, command: &mut Command, sign: &str) {
        let silent = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(
            silent
                .spawn()
                .expect("there is no `redis-server`: run scripts/test, which installs it"),
        );
        for _ in 0..1_000 {
            if fs::read_to_string(self.log()).is_ok_and(|log| log.contains(sign)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{}", fs::read_to_string(self.log()).unwrap_or_default());
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Takes everything that it has on its disk away, while it does not run.
    pub fn forget(&self) {
        fs::remove_dir_all(self.home.path().join("appendonlydir")).unwrap();
    }

    /// Sends a signal such as `STOP`.
    pub fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    /// What `redis-cli` says, as the default user.
    pub fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port, arguments)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What `redis-cli` says to a server on this port.
pub fn cli(port: u16, arguments: &[&str]) -> String {
    let port = port.to_string();
    let said = Command::new("redis-cli")
        .args(["-p", &port])
        .args(arguments)
        .output();
    String::from_utf8_lossy(&said.unwrap().stdout)
        .trim()
        .to_owned()
}

/// A port that is free together with the next one, below those that the system hands out and those
/// that the tests of Vault take.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(process::id() % 3_500).unwrap() * 2;
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(2, Relaxed)) % 7_000;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 1) {
            return port;
        }
    }
}
