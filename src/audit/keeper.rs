//! The thread that looks after closed files: it compresses them, and removes them when their time is over.
//!
//! Invariant: a file is removed after the chain says so, under a signed checkpoint, on disk; a file that was
//! written is removed after its compressed copy was read back whole.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufReader, Read},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    AuditSettings,
    chain::{First, Kept, Removed, Upkeep},
    folder::{AuditFile, Folder},
    key::AuditKeys,
    queue::Queue,
    recovery::private,
};
use crate::{clock, ident::NodeId};

/// Tells the thread what there is to do.
pub(super) struct Keeper {
    closed: mpsc::Sender<u64>,
    thread: JoinHandle<()>,
}

/// How often files are looked at that may have become too old.
const LOOK: Duration = Duration::from_hours(1);
/// How long time has to go on steadily before it is believed that a file is old.
const STEADY: SignedDuration = SignedDuration::from_hours(72);
/// Of zstd's levels the usual one.
const LEVEL: i32 = 3;

impl Keeper {
    pub(super) fn start(
        settings: &AuditSettings,
        node: &NodeId,
        queue: &Arc<Queue>,
    ) -> io::Result<Self> {
        let (closed, receiver) = mpsc::channel();
        let rounds = Rounds {
            folder: Folder::new(&settings.folder),
            keep: settings.keep,
            keep_files: settings.keep_files,
            rotate_every: settings.rotate_every,
            queue: Arc::clone(queue),
            last_closed: 0,
            waits: false,
            unreadable: BTreeSet::new(),
            node: node.clone(),
            keys: settings.keys.clone(),
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
    rotate_every: Duration,
    queue: Arc<Queue>,
    last_closed: u64,
    /// Whether the clock is waited for, which was logged.
    waits: bool,
    /// Whose first line was found unreadable, which was logged; no more than there are files.
    unreadable: BTreeSet<u64>,
    /// Whose the files are, and who may have written them.
    node: NodeId,
    keys: AuditKeys,
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

    fn remove_old(&mut self) -> io::Result<()> {
        let files = self.folder.files()?;
        let Some(removal) = self.due(&files, clock::now()) else {
            return Ok(());
        };
        let (through, through_seq, cause) = (
            removal.through_file,
            removal.through_seq,
            removal.cause.clone(),
        );
        let kept = Kept::new(clock::now(), Upkeep::FilesRemoved(removal));
        let event = serde_json::to_vec(&kept)?;
        let recorded = self
            .queue
            .push_sealed(event)
            .map(|done| done.blocking_recv());
        if !matches!(recorded, Ok(Ok(Ok(_)))) {
            return Err(io::Error::other("the removal cannot be recorded"));
        }
        tracing::info!(
            audit.file = through,
            audit.seq = through_seq,
            cause,
            "audit files are removed up to this one, as audit.keep and audit.keep_files say"
        );
        for file in files.iter().filter(|file| file.number <= through) {
            fs::remove_file(&file.path)?;
        }
        // What is left of them may hold whole lines, of the same people.
        for path in self.folder.set_aside(through)? {
            fs::remove_file(path)?;
        }
        sync(&self.folder)
    }

    /// Which files have to go.
    fn due(&mut self, files: &[AuditFile], now: Timestamp) -> Option<Removed> {
        let old = self.keep.map_or(0, |keep| self.too_old(files, keep, now));
        let surplus = self.keep_files.map_or(0, |most| self.too_many(files, most));
        let through = old.max(surplus).min(self.last_closed);
        let cause = if surplus > old { "count" } else { "age" };
        // Who reads what is left has to know from which line on: of a file whose first line is damaged nobody
        // does, and the one before it stays, too.
        let removed = |pair: &[AuditFile]| {
            let [file, next] = pair else { return None };
            let first = (file.number <= through).then(|| self.opened(next))??.1;
            Some(Removed {
                through_file: file.number,
                through_seq: first.saturating_sub(1),
                cause: cause.into(),
            })
        };
        files.windows(2).rev().find_map(removed)
    }

    /// The number of the last file that is one too many; 0 where none is. What is no file of the chain does
    /// not count.
    fn too_many(&mut self, files: &[AuditFile], most: u64) -> u64 {
        let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
        let own = files.iter().filter(|file| self.opened(file).is_some());
        let own: Vec<u64> = own.map(|file| file.number).collect();
        let surplus = own.get(..own.len().saturating_sub(most));
        surplus.and_then(<[_]>::last).copied().unwrap_or(0)
    }

    /// The number of the last file that has to go for its age; 0 where none has.
    fn too_old(&mut self, files: &[AuditFile], keep: Duration, now: Timestamp) -> u64 {
        let old = self.older_than(files, keep, now);
        let waits = old > 0 && !self.is_steady(files, keep, now);
        if waits && !self.waits {
            tracing::warn!(
                "time went forward by more than audit files are apart: the clock was set, or the gateway was off for \
                 long; no file is removed for its age until three days have passed since"
            );
        }
        self.waits = waits;
        if waits { 0 } else { old }
    }

    /// The number of the last file that ended longer ago than that.
    fn older_than(&mut self, files: &[AuditFile], keep: Duration, now: Timestamp) -> u64 {
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        let (mut old, mut before) = (0, 0);
        for file in files {
            // A file ends when the next one begins; the last is being written. What was written while the clock
            // was ahead is as old as what follows it.
            if let Some((begun, _)) = self.opened(file).filter(|(begun, _)| *begun <= now) {
                if now.duration_since(begun) <= keep {
                    break;
                }
                old = before;
            }
            before = file.number;
        }
        old
    }

    /// Whether time has gone on for three days as it does where files are begun each `audit.rotate_every`.
    /// One wrong digit in a date would have everything removed otherwise.
    fn is_steady(&mut self, files: &[AuditFile], keep: Duration, now: Timestamp) -> bool {
        let step = self.rotate_every.saturating_add(keep / 10);
        let step = SignedDuration::try_from(step).unwrap_or(SignedDuration::MAX);
        let mut later = now;
        for file in files.iter().rev() {
            let Some((begun, _)) = self.opened(file).filter(|(begun, _)| *begun <= now) else {
                continue;
            };
            if later.duration_since(begun) > step {
                return false;
            }
            if now.duration_since(begun) >= STEADY {
                break;
            }
            later = begun;
        }
        true
    }

    /// When a file was begun, and the number of its first line; nothing where that cannot be read, or is
    /// not as it was written, which is logged once.
    fn opened(&mut self, file: &AuditFile) -> Option<(Timestamp, u64)> {
        let first = First::by(file, &self.node, &self.keys);
        if let Err(error) = &first
            && self.unreadable.insert(file.number)
        {
            tracing::warn!(
                audit.file = file.number, kind = ?error.kind(),
                "the first line of an audit file is not as it was written: it goes when files behind it go"
            );
        }
        first.ok().map(|first| (first.time, first.seq))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;
    use crate::audit::{
        chain::{Chain, State},
        rejections::Rejections,
        tests::settings,
    };

    const NOW: &str = "2026-11-23T12:00:00Z";
    const YEAR: i64 = 365;

    fn days(days: i64) -> SignedDuration {
        SignedDuration::from_hours(24 * days)
    }

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    /// Files of one line each, begun so many days after now.
    fn files(folder: &Path, begun: &[i64]) -> Vec<AuditFile> {
        let settings = settings(folder);
        let (node, key) = (settings.node.unwrap(), settings.keys.current);
        let state = State::first(&node, &key);
        let mut chain = Chain::new(node, key, state, [].into());
        let folder = Folder::new(folder);
        for (number, begun) in (1..).zip(begun) {
            let mut line = Vec::new();
            chain.open_file(number, now() + days(*begun), &mut line);
            fs::write(folder.plain(number), line).unwrap();
        }
        folder.files().unwrap()
    }

    fn queue() -> Arc<Queue> {
        let rejections = Rejections::new(None, Duration::ZERO, clock::instant());
        Arc::new(Queue::new(Duration::ZERO, rejections))
    }

    fn rounds(folder: &Path, keep: i64, keep_files: Option<u64>) -> Rounds {
        Rounds {
            folder: Folder::new(folder),
            keep: Some(days(keep).unsigned_abs()),
            keep_files,
            rotate_every: days(1).unsigned_abs(),
            queue: queue(),
            last_closed: u64::MAX,
            waits: false,
            unreadable: BTreeSet::new(),
            node: settings(folder).node.unwrap(),
            keys: settings(folder).keys,
        }
    }

    /// Through which file, and which line, files of these days are removed so many days after now.
    fn removed(begun: &[i64], at: i64, keep: i64) -> Option<(u64, u64)> {
        let folder = TempDir::new().unwrap();
        let files = files(folder.path(), begun);
        let due = rounds(folder.path(), keep, None).due(&files, now() + days(at));
        due.map(|removed| (removed.through_file, removed.through_seq))
    }

    #[test]
    fn a_clock_that_is_set_ahead_removes_nothing_until_it_has_gone_steadily_for_three_days() {
        let before = [-4, -3, -2, -1, 0];
        assert_eq!(removed(&before, 0, YEAR), None);
        // While the gateway runs, and after it was started so again and again.
        assert_eq!(removed(&before, 10 * YEAR, YEAR), None);
        let at = 10 * YEAR;
        let ahead = [&before[..], &[at, at, at + 1, at + 2]].concat();
        assert_eq!(removed(&ahead, at + 2, YEAR), None);
        // Somebody would have noticed: it was off for that long.
        let on = [&before[..], &[at, at + 1, at + 2, at + 3]].concat();
        assert_eq!(removed(&on, at + 3, YEAR), Some((4, 4)));
    }

    #[test]
    fn what_was_written_at_a_wrong_time_is_as_old_as_what_is_beside_it() {
        // A year ahead, until somebody saw it.
        let ahead = [-2, -1, YEAR, YEAR, 0, 1, 2];
        assert_eq!(removed(&ahead, 2, 30), None);
        let after: Vec<_> = (3..40).collect();
        let later = [&ahead[..], &after].concat();
        // Those of the first and second day, and the two of the next year, ended by day 0; that of day 8 on day 9.
        assert_eq!(removed(&later, 39, 30), Some((12, 12)));
        // Begun before the clock was asked for the time: nothing is older for that.
        let behind = [-3, -20_000, -2, -1, 0];
        assert_eq!(removed(&behind, 0, 30), None);
        assert_eq!(removed(&behind, 2, 30), None);
    }

    #[test]
    fn a_gateway_that_is_off_now_and_then_removes_what_is_old_all_the_same() {
        // Off for a month, with a year to keep.
        let begun: Vec<_> = (-400..-30).chain([0]).collect();
        let (file, _) = removed(&begun, 0, YEAR).unwrap();
        assert_eq!(file, 34);
        // Off each weekend, with a week to keep: on Friday.
        let begun: Vec<_> = (-20..=0)
            .filter(|day| (day + 4_i64).rem_euclid(7) < 5)
            .collect();
        assert!(removed(&begun, 0, 7).is_some(), "{begun:?}");
    }

    #[test]
    fn a_file_whose_first_line_is_damaged_keeps_no_other_from_being_removed() {
        let folder = TempDir::new().unwrap();
        let begun: Vec<_> = (-9..=0).collect();
        let files = files(folder.path(), &begun);
        for number in [2, 6] {
            fs::write(Folder::new(folder.path()).plain(number), "damaged\n").unwrap();
        }
        let due = |keep, keep_files| {
            let due = rounds(folder.path(), keep, keep_files).due(&files, now());
            due.map(|removed| (removed.through_file, removed.cause))
        };
        // Where a damaged file would be the first that is left one more is.
        assert_eq!(due(4, None), Some((4, "age".into())));
        assert_eq!(due(3, None), Some((4, "age".into())));
        assert_eq!(due(2, None), Some((6, "age".into())));
        assert_eq!(due(2, Some(4)), Some((6, "age".into())));
        assert_eq!(due(2, Some(3)), Some((7, "count".into())));
        assert_eq!(due(YEAR, Some(5)), Some((4, "count".into())));
    }

    #[test]
    fn no_file_is_removed_that_is_not_closed_or_whose_removal_is_not_on_record() {
        let folder = TempDir::new().unwrap();
        let files = files(folder.path(), &[-3, -2, -1, 0]);
        let mut rounds = rounds(folder.path(), YEAR, Some(1));
        rounds.last_closed = 2;
        let due = rounds
            .due(&files, now())
            .map(|removed| removed.through_file);
        assert_eq!(due, Some(2));
        // Nobody writes what it hands over.
        rounds.queue.end(0);
        rounds.remove_old().unwrap_err();
        assert_eq!(rounds.folder.files().unwrap(), files);
        rounds.queue = queue();
        let taken = Arc::clone(&rounds.queue);
        let writer = thread::spawn(move || {
            let now = clock::instant();
            let work = taken.take(now, now + Duration::from_mins(1));
            // It gives up, without a word.
            drop(work);
        });
        rounds.remove_old().unwrap_err();
        writer.join().unwrap();
        assert_eq!(rounds.folder.files().unwrap(), files);
    }

    #[test]
    fn a_copy_is_the_same_byte_for_byte_and_to_the_end() {
        let is_same = |one: &[u8], other: &[u8]| same(one, other).unwrap();
        assert!(is_same(b"", b"") && is_same(b"ab", b"ab"));
        assert!(!is_same(b"ab", b"ac") && !is_same(b"ab", b"a") && !is_same(b"", b"a"));
    }

    #[test]
    fn what_somebody_else_wrote_makes_no_file_old_and_none_too_many() {
        let folder = TempDir::new().unwrap();
        let begun: Vec<_> = (-12..=0).map(|number| 36 * number).collect();
        let old = files(folder.path(), &begun);
        let due = || rounds(folder.path(), YEAR, None).due(&old, now());
        assert!(due().is_some());
        // As it is where somebody wrote the times who lacks the key.
        for file in &old[..12] {
            let mut line = fs::read(&file.path).unwrap();
            let digit = line.len() - 4;
            line[digit] = if line[digit] == b'0' { b'1' } else { b'0' };
            fs::write(&file.path, line).unwrap();
        }
        assert!(due().is_none());

        let folder = TempDir::new().unwrap();
        files(folder.path(), &[-1, 0]);
        let chain = Folder::new(folder.path());
        let due = || {
            let files = chain.files().unwrap();
            rounds(folder.path(), YEAR, Some(2)).due(&files, now())
        };
        for copy in 3..9 {
            fs::copy(chain.plain(2), chain.plain(copy)).unwrap();
        }
        assert!(due().is_none());
    }
}
