//! The real binary as a process of its own, and everything that it says.

use std::{
    fs,
    io::Read,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, Thread},
    time::Duration,
};

use dcams_gateway::{
    auth::install_crypto,
    operation::Operation,
    simulator::{Login, SimulatorHandle},
};
use tempfile::TempDir;
use tokio::{sync::watch, task::spawn_blocking, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{PASS, PATH, USER, load, mint, simulator, write_secrets};

/// A running process. Killed when it is dropped.
pub struct Program {
    child: Option<Child>,
    pub id: u32,
    pub out: Stream,
    pub err: Stream,
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

/// What a process has written to one of its outputs so far; the sender is gone at its end.
pub struct Stream {
    text: watch::Receiver<Vec<u8>>,
    reader: Thread,
    unread: Arc<AtomicBool>,
}

const BINARY: &str = env!("CARGO_BIN_EXE_dcams-gateway");
/// Longer than anything here takes on a busy machine; a test that waits as long has failed.
const LATEST: Duration = Duration::from_mins(1);

/// The binary with these arguments, and no environment but these variables.
pub fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied());
    command
}

/// Runs the binary to its end.
pub async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    Program::start(&mut command(arguments, variables))
        .end()
        .await
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let piped = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let out = Stream::read(child.stdout.take().unwrap());
        let err = Stream::read(child.stderr.take().unwrap());
        Self {
            id: child.id(),
            child: Some(child),
            out,
            err,
        }
    }

    /// Sends a signal such as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.id.to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for its end.
    pub async fn end(mut self) -> Ended {
        let mut child = self.child.take().unwrap();
        let ending = spawn_blocking(move || {
            let status = child.wait();
            (child, status)
        });
        let ended = timeout(LATEST, ending).await;
        let Ok(Ok((_, Ok(status)))) = ended else {
            self.signal("KILL");
            panic!("it did not end; it said {}", self.err.text());
        };
        self.out.closed().await;
        self.err.closed().await;
        Ended {
            status,
            out: self.out.text(),
            err: self.err.text(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Stream {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let (sender, text) = watch::channel(Vec::new());
        let unread = Arc::new(AtomicBool::new(false));
        let left = Arc::clone(&unread);
        let reading = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                sender.send_modify(|text| text.extend_from_slice(&buffer[..count]));
                while left.load(Relaxed) {
                    thread::park();
                }
            }
        });
        let reader = reading.thread().clone();
        Self {
            text,
            reader,
            unread,
        }
    }

    /// Stops reading what the process writes, or begins again.
    pub fn leave_unread(&self, unread: bool) {
        self.unread.store(unread, Relaxed);
        self.reader.unpark();
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.borrow()).into_owned()
    }

    /// Everything so far, once it holds `count` whole lines with `what` in them.
    pub async fn says(&mut self, what: &str, count: usize) -> String {
        let enough = |text: &Vec<u8>| {
            let text = String::from_utf8_lossy(text);
            let whole = text.rsplit_once('\n').unwrap_or_default().0;
            whole.lines().filter(|line| line.contains(what)).count() >= count
        };
        let waited = timeout(LATEST, self.text.wait_for(enough)).await;
        let said = matches!(waited, Ok(Ok(_)));
        drop(waited);
        assert!(said, "{what:?} is not in {}", self.text());
        self.text()
    }

    async fn closed(&mut self) {
        while timeout(LATEST, self.text.changed()).await.unwrap().is_ok() {}
    }
}

/// A simulator, and a folder with the demo's configuration and its secrets, for gateways that are processes.
pub struct Site {
    pub simulator: SimulatorHandle,
    pub folder: TempDir,
    _stop: DropGuard,
}

impl Site {
    pub async fn prepare() -> Self {
        install_crypto();
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let simulator = simulator(Login::new(USER, PASS), stop).await;
        let folder = TempDir::new().unwrap();
        write_secrets(folder.path());
        Self {
            simulator,
            folder,
            _stop: guard,
        }
    }

    /// Starts a gateway there; see [`Served::start`].
    pub async fn serve(&self, toml: &str, variables: &[(&str, &str)]) -> Served {
        Served::start(self.folder.path(), &self.simulator.url(), toml, variables).await
    }

    /// A token of the demo's tenant.
    pub fn token(&self, operations: &[Operation]) -> String {
        let config = load(self.folder.path(), &self.simulator.url(), &[]);
        mint(&config, 0, operations, None)
    }
}

/// A gateway that serves as a process of its own.
pub struct Served {
    pub program: Program,
    pub gateway: SocketAddr,
    pub admin: SocketAddr,
}

impl Served {
    /// Serves with the demo's configuration, whose secrets are in `folder` already, with more TOML
    /// on top, and `url` as its upstream.
    pub async fn start(folder: &Path, url: &str, toml: &str, variables: &[(&str, &str)]) -> Self {
        Self::run(&mut Self::command(folder, url, toml, variables)).await
    }

    /// The command that does.
    pub fn command(folder: &Path, url: &str, toml: &str, variables: &[(&str, &str)]) -> Command {
        fs::write(folder.join("more.toml"), toml).unwrap();
        let paths = ["demo.toml", "more.toml"].map(|name| folder.join(name).display().to_string());
        let fixed = [
            ("DCAMS_GATEWAY__UPSTREAM__URL", url),
            ("DCAMS_GATEWAY__SERVER__LISTEN", "127.0.0.1:0"),
            ("DCAMS_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
            ("DCAMS_GATEWAY__RELOAD__WATCH", "0s"),
            // As in `support::load`.
            ("DCAMS_GATEWAY__CACHE__ENABLED", "false"),
            ("DCAMS_GATEWAY__AUDIT__STDOUT", "true"),
        ];
        let arguments = ["serve", "--config", &paths[0], &paths[1]];
        command(&arguments, &[&fixed, variables].concat())
    }

    /// Waits until it is ready.
    pub async fn run(command: &mut Command) -> Self {
        let mut program = Program::start(command);
        let text = program.err.says("ready", 1).await;
        let address = |name: &str| {
            let rest = text
                .split_once(name)
                .unwrap_or_else(|| panic!("no {name} in {text}"))
                .1;
            let digits = |c: char| c.is_ascii_digit() || c == '.' || c == ':';
            let rest = rest.trim_start_matches(['=', '"', ':']);
            rest.split(|c| !digits(c)).next().unwrap().parse().unwrap()
        };
        let (gateway, admin) = (address("server.listen"), address("admin.listen"));
        Self {
            program,
            gateway,
            admin,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.gateway)
    }
}

/// For a gateway whose disk fails in a test of something else than the audit trail.
pub const NOT_RECORDED: [(&str, &str); 1] = [("DCAMS_GATEWAY__AUDIT__DURABILITY", "best_effort")];

/// The same, told that a file became too large by an error and not by a signal.
pub fn limitable(program: &Command) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#])
        .arg(program.get_program())
        .args(program.get_args());
    let variables = program.get_envs();
    command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    command
}

/// How large a file of a process may become.
pub fn limit_files(process: u32, bytes: &str) {
    let arguments = [
        format!("--pid={process}"),
        format!("--fsize={bytes}:unlimited"),
    ];
    assert!(
        Command::new("prlimit")
            .args(arguments)
            .status()
            .unwrap()
            .success()
    );
}
