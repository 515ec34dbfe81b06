//! The thread that looks after closed files: it compresses them, and removes them when their time is over.
//!
//! Invariant: a file is removed after the chain says so, under a signed checkpoint, on disk; a file that was
//! written is removed after its compressed copy was read back whole.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    AuditSettings,
    chain::{Kept, Removed, Upkeep},
    folder::{AuditFile, Folder, Next},
    line::Line,
    queue::Queue,
    recovery::private,
};
use crate::clock;

/// Tells the thread what there is to do.
pub(super) struct Keeper {
    closed: mpsc::Sender<u64>,
    thread: JoinHandle<()>,
}

/// How often files are looked at that may have become too old.
const LOOK: Duration = Duration::from_hours(1);
/// Of zstd's levels the usual one.
const LEVEL: i32 = 3;

impl Keeper {
    pub(super) fn start(
        settings: &AuditSettings,
        folder: Folder,
        queue: &Arc<Queue>,
    ) -> io::Result<Self> {
        let (closed, receiver) = mpsc::channel();
        let rounds = Rounds {
            folder,
            keep: settings.keep,
            keep_files: settings.keep_files,
            queue: Arc::clone(queue),
            last_closed: 0,
        };
        let thread = thread::Builder::new().name("audit files".into());
        let thread = thread.spawn(move || rounds.run(&receiver))?;
        Ok(Self { closed, thread })
    }

    /// All files up to this number are closed.
    pub(super) fn closed(&self, number: u64) {
        // It is gone only when it panicked; files then stay as they are.
        self.closed.send(number).ok();
    }

    /// Ends the thread, once it has finished what it does.
    pub(super) fn end(self) {
        drop(self.closed);
        drop(self.thread.join());
    }
}

struct Rounds {
    folder: Folder,
    keep: Option<Duration>,
    keep_files: Option<u64>,
    queue: Arc<Queue>,
    last_closed: u64,
}

impl Rounds {
    fn run(mut self, closed: &mpsc::Receiver<u64>) {
        loop {
            match closed.recv_timeout(LOOK) {
                Ok(number) => self.last_closed = number,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if let Err(error) = self.round(closed) {
                tracing::warn!(
                    kind = ?error.kind(),
                    "cannot look after closed audit files; they stay as they are until the next time"
                );
            }
        }
    }

    fn round(&mut self, closed: &mpsc::Receiver<u64>) -> io::Result<()> {
        let mut compressed = Ok(());
        for file in self.folder.files()? {
            // What is left for the next start does no harm.
            match closed.try_recv() {
                Ok(number) => self.last_closed = number,
                Err(mpsc::TryRecvError::Empty) => {}
                Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
            }
            if file.number <= self.last_closed && !file.compressed {
                // One that cannot be read, or a disk without room for a copy, must not keep the others: what
                // is to be removed makes room.
                compressed = compressed.and(compress(&file));
            }
        }
        self.remove_old().and(compressed)
    }

    fn remove_old(&self) -> io::Result<()> {
        let files = self.folder.files()?;
        let Some(removal) = self.due(&files, clock::now())? else {
            return Ok(());
        };
        let through = removal.through_file;
        let kept = Kept::new(clock::now(), Upkeep::FilesRemoved(removal));
        let event = serde_json::to_vec(&kept)?;
        let recorded = self
            .queue
            .push_sealed(event)
            .map(|done| done.blocking_recv());
        if !matches!(recorded, Ok(Ok(Ok(_)))) {
            return Err(io::Error::other("the removal cannot be recorded"));
        }
        for file in files.iter().filter(|file| file.number <= through) {
            fs::remove_file(&file.path)?;
        }
        sync(&self.folder)
    }

    /// Which files have to go.
    fn due(&self, files: &[AuditFile], now: Timestamp) -> io::Result<Option<Removed>> {
        let (mut through, mut cause) = (0, "age");
        if let Some(keep) = self.keep {
            let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
            // A file ends when the next one begins. The last is being written.
            for pair in files.windows(2) {
                let [file, next] = pair else { continue };
                if now.duration_since(opened(next)?.0) <= keep {
                    break;
                }
                through = file.number;
            }
        }
        let surplus = self.keep_files.map(|most| {
            let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
            files.len().saturating_sub(most)
        });
        let surplus = surplus.and_then(|count| files.get(..count)?.last());
        if let Some(file) = surplus.filter(|file| file.number > through) {
            (through, cause) = (file.number, "count");
        }
        let through = through.min(self.last_closed);
        let Some(next) = files.iter().find(|file| file.number > through) else {
            return Ok(None);
        };
        if files.first().is_none_or(|first| first.number > through) {
            return Ok(None);
        }
        Ok(Some(Removed {
            through_file: through,
            through_seq: opened(next)?.1.saturating_sub(1),
            cause: cause.into(),
        }))
    }
}

/// When a file was begun, and the number of its first line.
fn opened(file: &AuditFile) -> io::Result<(Timestamp, u64)> {
    let mut lines = file.lines()?;
    let first = match lines.next_line()? {
        Some(Next::Line(line)) => line,
        _ => &[],
    };
    let seq = Line::parse(first).map(|line| line.seq);
    let kept: Result<Kept, _> = serde_json::from_slice(first);
    match (seq, kept) {
        (Some(seq), Ok(kept)) => Ok((kept.time, seq)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Replaces a file by its compressed copy.
fn compress(file: &AuditFile) -> io::Result<()> {
    let target = file.path.with_extension("jsonl.zst");
    let part = file.path.with_extension("jsonl.zst.part");
    let copied = (|| {
        let sink = private().create(true).truncate(true).open(&part)?;
        let mut encoder = zstd::Encoder::new(sink, LEVEL)?;
        encoder.include_checksum(true)?;
        io::copy(&mut File::open(&file.path)?, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        let whole = same(
            File::open(&file.path)?,
            zstd::Decoder::new(File::open(&part)?)?,
        )?;
        whole
            .then_some(())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    })();
    if copied.is_err() {
        drop(fs::remove_file(&part));
        return copied;
    }
    fs::rename(&part, &target)?;
    let folder = Folder::new(file.path.parent().unwrap_or(&file.path));
    sync(&folder)?;
    fs::remove_file(&file.path)?;
    sync(&folder)
}

/// Whether both have the same content.
fn same(one: impl Read, other: impl Read) -> io::Result<bool> {
    use io::BufRead;
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let count = left.len().min(right.len());
        if count == 0 {
            return Ok(left.len() == right.len());
        }
        if left.get(..count) != right.get(..count) {
            return Ok(false);
        }
        one.consume(count);
        other.consume(count);
    }
}

fn sync(folder: &Folder) -> io::Result<()> {
    File::open(folder.path())?.sync_all()
}
