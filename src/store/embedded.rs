//! The store in one file, `state.redb`, of this process alone.
//!
//! Reads are answered where they are asked; they take half a microsecond and wait for no writer.
//! One thread writes: it takes every update that waits into one transaction, so that a hundred of
//! them cost one commit. Invariant: an update is answered after its commit is on disk, and the file
//! is replaced, emptied or repaired over by nobody: it comes into being complete, under its name at
//! once, and whatever is wrong with it later is an error. redb may panic over a damaged file; no
//! panic leaves here.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    hint::black_box,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, WriteTransaction,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Change, Decide, Former, OpenError, StoreError, Table,
    seal::{DoesNotOpen, Sealer},
};
use crate::{clock, ident::Pseudonym};

/// The format that this version writes. A higher one is refused.
///
/// 1: customers and revocations. 2: credentials too. 3: usage too.
pub(super) const SCHEMA: u32 = 3;

const FILE: &str = "state.redb";
/// A store that is being made; it becomes [`FILE`] when it is complete.
const UNFINISHED: &str = "state.redb.new";
const LOCK: &str = "lock";

/// What of the file redb keeps in memory, at most; its own default is a gigabyte.
const CACHE: usize = 64 << 20;
/// Updates that wait for the writer, at most, and how many share a commit. More wait to be queued.
/// An update of the path has one key; the largest, of an import, 1,000 of 20 bytes: 21 MB.
const QUEUE: usize = 1024;

/// How often a file is tried again after the disk failed: to open it is to read all of it.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const META_SCHEMA: &str = "schema";
/// Sealed like a value, so that another `state.key` is noticed.
const META_KEY_CHECK: &str = "key-check";

impl Table {
    const ALL: [Self; 4] = [
        Self::Credentials,
        Self::Customers,
        Self::Revocations,
        Self::Usage,
    ];

    const fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.name())
    }
}

/// The store in a file. A clone is the same one.
#[derive(Clone)]
pub(super) struct Embedded(Arc<Inner>);

struct Inner {
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    file: Arc<Open>,
    /// Goes last: until then the file is ours.
    _lock: File,
}

struct Open {
    path: PathBuf,
    sealer: Sealer,
    /// Nothing after the disk failed, until it is opened again: redb gives up a file for good. The
    /// lock is held to take or put it, never while it is used.
    db: Mutex<Option<Arc<Database>>>,
}

/// An update on its way to the writer.
struct Job {
    table: Table,
    keys: Vec<Pseudonym>,
    change: Decide,
    /// What is done if nobody waits for the outcome.
    undo: Option<Decide>,
    done: oneshot::Sender<Result<Former, StoreError>>,
}

impl Job {
    /// Answers who asked; what is to be undone, where nobody is there to hear that it happened.
    fn answer(self, result: Result<Former, StoreError>) -> Option<Self> {
        let Err(Ok(_)) = self.done.send(result) else {
            return None;
        };
        Some(Self {
            table: self.table,
            keys: self.keys,
            change: self.undo?,
            undo: None,
            done: oneshot::channel().0,
        })
    }
}

impl Embedded {
    pub(super) fn open(folder: &Path, key: &[u8; 32]) -> Result<Self, OpenError> {
        let sealer = Sealer::derive(key).map_err(|_| OpenError::System("cryptography"))?;
        let lock = lock(folder)?;
        let path = folder.join(FILE);
        // Not where a link leads: one that leads nowhere is a volume that is not there.
        let missing = match fs::symlink_metadata(&path) {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => return Err(of_folder(&path)(error)),
        };
        if missing {
            create(folder, &path, &sealer)?;
            tracing::info!(path = %path.display(), "made an empty state store");
        }
        let db = open_file(&path, &sealer)?;
        let file = Arc::new(Open {
            path,
            sealer,
            db: Mutex::new(Some(db)),
        });
        let (queue, waiting) = mpsc::channel(QUEUE);
        let of_writer = Arc::clone(&file);
        let writer = thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || of_writer.write(waiting))
            .map_err(|_| OpenError::System("thread"))?;
        Ok(Self(Arc::new(Inner {
            queue: Some(queue),
            writer: Some(writer),
            file,
            _lock: lock,
        })))
    }

    pub(super) fn get(&self, table: Table, key: &Pseudonym) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|file| file.get(table, key))
    }

    pub(super) fn scan(&self, table: Table) -> Result<Vec<(Pseudonym, Vec<u8>)>, StoreError> {
        self.read(|file| file.scan(table))
    }

    fn read<T>(&self, read: impl FnOnce(&Open) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let file = &self.0.file;
        let result = contain(|| read(file)).unwrap_or(Err(StoreError::Damaged));
        if matches!(result, Err(StoreError::Unavailable))
            && let Some(queue) = &self.0.queue
        {
            // An update of nothing has the writer see to the file; one that waits already does too.
            drop(queue.try_send(Job {
                table: Table::Customers,
                keys: Vec::new(),
                change: Decide(Box::new(|_, _| Change::Keep)),
                undo: None,
                done: oneshot::channel().0,
            }));
        }
        result
    }

    pub(super) async fn update(
        &self,
        table: Table,
        keys: Vec<Pseudonym>,
        change: Decide,
        undo: Option<Decide>,
    ) -> Result<Former, StoreError> {
        let queue = self.0.queue.as_ref().ok_or(StoreError::Unavailable)?;
        let (done, answer) = oneshot::channel();
        let job = Job {
            table,
            keys,
            change,
            undo,
            done,
        };
        let queued = queue.send(job).await;
        queued.map_err(|_| StoreError::Unavailable)?;
        answer.await.unwrap_or(Err(StoreError::Unavailable))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What was asked for is written before the file is let go.
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
    }
}

impl Open {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn db(&self) -> Result<Arc<Database>, StoreError> {
        self.slot().clone().ok_or(StoreError::Unavailable)
    }

    fn get(&self, table: Table, key: &Pseudonym) -> Result<Option<Vec<u8>>, StoreError> {
        let db = self.db()?;
        let reading = db.begin_read().map_err(failed)?;
        let entries = reading.open_table(table.definition()).map_err(failed)?;
        let key = key.to_bytes();
        // The entry, or else the one behind its place. That one is opened too, and the last resort
        // is a decoy, so that the time does not tell an absent entry from one that is there.
        let mut nearest = entries.range(key.as_slice()..).map_err(failed)?;
        let Some((found, sealed)) = nearest.next().transpose().map_err(failed)? else {
            self.sealer.open_decoy()?;
            return Ok(None);
        };
        let opened = self
            .sealer
            .open(table.name(), found.value(), sealed.value());
        if found.value() != key.as_slice() {
            drop(black_box(opened));
            return Ok(None);
        }
        Ok(Some(opened?))
    }

    fn scan(&self, table: Table) -> Result<Vec<(Pseudonym, Vec<u8>)>, StoreError> {
        let db = self.db()?;
        let reading = db.begin_read().map_err(failed)?;
        let entries = reading.open_table(table.definition()).map_err(failed)?;
        let mut found = Vec::new();
        for entry in entries.iter().map_err(failed)? {
            let (key, sealed) = entry.map_err(failed)?;
            let value = self
                .sealer
                .open(table.name(), key.value(), sealed.value())?;
            let key = Pseudonym::from_bytes(key.value()).ok_or(StoreError::Damaged)?;
            found.push((key, value));
        }
        Ok(found)
    }

    /// The writer's thread, until the store is dropped.
    fn write(&self, mut queue: mpsc::Receiver<Job>) {
        let mut opened = clock::instant();
        let mut jobs: Vec<Job> = Vec::new();
        loop {
            if jobs.is_empty() {
                let Some(first) = queue.blocking_recv() else {
                    return;
                };
                jobs.push(first);
            }
            while jobs.len() < QUEUE
                && let Ok(next) = queue.try_recv()
            {
                jobs.push(next);
            }
            self.see_to_file(&mut opened);
            let written = contain(|| self.commit(&jobs)).unwrap_or(Err(StoreError::Damaged));
            if matches!(written, Err(StoreError::Unavailable)) {
                self.give_up();
            }
            let results = written.unwrap_or_else(|error| jobs.iter().map(|_| Err(error)).collect());
            let answered = jobs.drain(..).zip(results).collect::<Vec<_>>();
            jobs.extend(
                answered
                    .into_iter()
                    .filter_map(|(job, result)| job.answer(result)),
            );
        }
    }

    /// Opens a file again that was given up, now and then.
    fn see_to_file(&self, opened: &mut Instant) {
        let now = clock::instant();
        if self.slot().is_some() || now.duration_since(*opened) < OPEN_AGAIN {
            return;
        }
        *opened = now;
        match open_file(&self.path, &self.sealer) {
            Ok(db) => {
                tracing::info!("the state store can be used again");
                *self.slot() = Some(db);
            }
            Err(error) => tracing::error!(error = %error, "the state store cannot be used"),
        }
    }

    /// Lets go of a file on which the disk failed, when the last reader has.
    fn give_up(&self) {
        let Some(mut db) = self.slot().take() else {
            return;
        };
        tracing::error!("the disk of the state store fails; what needs the store is refused");
        while let Err(shared) = Arc::try_unwrap(db).map(|db| contain(|| drop(db))) {
            db = shared;
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Does all of these in one transaction.
    fn commit(&self, jobs: &[Job]) -> Result<Vec<Result<Former, StoreError>>, StoreError> {
        // Not `begin_write`: that would wait for ever for a transaction that a panic left open.
        let db = self.db()?;
        let mut transaction = db.try_begin_write().map_err(failed)?;
        // Against a power cut in mid-commit, and so that opening after one takes no full repair.
        transaction.set_two_phase_commit(true);
        transaction.set_quick_repair(true);
        let mut changed = false;
        let results = jobs
            .iter()
            .map(|job| self.apply(&transaction, job, &mut changed))
            .collect::<Result<_, _>>()?;
        if changed {
            transaction.commit().map_err(failed)?;
        } else {
            transaction.abort().map_err(failed)?;
        }
        Ok(results)
    }

    /// Does one of them: all of it, or nothing where a value in it does not open. The outer error
    /// is one of the file and ends the transaction.
    fn apply(
        &self,
        transaction: &WriteTransaction,
        job: &Job,
        changed: &mut bool,
    ) -> Result<Result<Former, StoreError>, StoreError> {
        let name = job.table.name();
        let mut entries = transaction
            .open_table(job.table.definition())
            .map_err(failed)?;
        let mut former = Vec::with_capacity(job.keys.len());
        // What it changed so far: a key may stand in it twice.
        let mut changes: HashMap<[u8; Pseudonym::LEN], Option<Vec<u8>>> = HashMap::new();
        for (index, key) in job.keys.iter().enumerate() {
            let key = key.to_bytes();
            let now = if let Some(pending) = changes.get(&key) {
                pending.clone()
            } else {
                let sealed = entries.get(key.as_slice()).map_err(failed)?;
                let opened = sealed.map(|sealed| self.sealer.open(name, &key, sealed.value()));
                match opened.transpose() {
                    Ok(value) => value,
                    Err(DoesNotOpen) => return Ok(Err(StoreError::Damaged)),
                }
            };
            match (job.change.0)(index, now.as_deref()) {
                Change::Keep => {}
                Change::Put(value) => drop(changes.insert(key, Some(value))),
                Change::Remove => drop(changes.insert(key, None)),
            }
            former.push(now);
        }
        for (key, value) in changes {
            *changed = true;
            if let Some(value) = value {
                let sealed = self.sealer.seal(name, &key, &value);
                let sealed = sealed.map_err(|_| StoreError::Unavailable)?;
                entries
                    .insert(key.as_slice(), sealed.as_slice())
                    .map_err(failed)?;
            } else {
                entries.remove(key.as_slice()).map_err(failed)?;
            }
        }
        Ok(Ok(Former(former)))
    }
}

/// Opens the file, and sees whether it is a store of a format that we know, written with our key.
fn open_file(path: &Path, sealer: &Sealer) -> Result<Arc<Database>, OpenError> {
    let damaged = || OpenError::Damaged(path.to_owned());
    let db = contain(|| builder().open(path)).ok_or_else(damaged)?;
    let db = db.map_err(of_database(path))?;
    let opened = contain(|| {
        let found = check(&db, path, sealer)?;
        if found < SCHEMA {
            bring_up(&db).map_err(|error| of_folder(path)(io_error(error)))?;
        }
        check_tables(&db, path)
    });
    opened.unwrap_or_else(|| Err(damaged()))?;
    Ok(Arc::new(db))
}

/// Whether it is a store, of this key; its format.
fn check(db: &Database, path: &Path, sealer: &Sealer) -> Result<u32, OpenError> {
    let damaged = || OpenError::Damaged(path.to_owned());
    let reading = db.begin_read().map_err(|_| damaged())?;
    let meta = reading.open_table(META).map_err(|_| damaged())?;
    let value = |name| meta.get(name).ok().flatten().ok_or_else(damaged);
    let schema = value(META_SCHEMA)?.value().try_into();
    let found = u32::from_le_bytes(schema.map_err(|_| damaged())?);
    if found > SCHEMA {
        let path = path.to_owned();
        return Err(OpenError::Newer { path, found });
    }
    let sealed = value(META_KEY_CHECK)?;
    sealer
        .open("meta", META_KEY_CHECK.as_bytes(), sealed.value())
        .map_err(|DoesNotOpen| OpenError::WrongKey(path.to_owned()))?;
    Ok(found)
}

/// Gives an older store what has come since, in one transaction; what it should have is not made here.
fn bring_up(db: &Database) -> Result<(), redb::Error> {
    let mut transaction = db.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    fill(&transaction, &[Table::Credentials, Table::Usage])?;
    transaction.commit()?;
    tracing::info!(
        format = SCHEMA,
        "the state store was brought up to this version"
    );
    Ok(())
}

/// Makes these tables, and says which format this is.
fn fill(transaction: &WriteTransaction, tables: &[Table]) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert(META_SCHEMA, SCHEMA.to_le_bytes().as_slice())?;
    for table in tables {
        drop(transaction.open_table(table.definition())?);
    }
    Ok(())
}

fn check_tables(db: &Database, path: &Path) -> Result<(), OpenError> {
    let damaged = || OpenError::Damaged(path.to_owned());
    let reading = db.begin_read().map_err(|_| damaged())?;
    for table in Table::ALL {
        let opened = reading.open_table(table.definition());
        drop(opened.map_err(|_| damaged())?);
    }
    Ok(())
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .set_cache_size(CACHE)
        // Pages are trusted once they are open, so every checksum is compared before.
        .set_check_integrity_on_open(true);
    builder
}

/// The folder, made where it is missing, and the lock that says it is ours.
fn lock(folder: &Path) -> Result<File, OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(of_folder(folder))?;
    let path = folder.join(LOCK);
    let file = private().create(true).truncate(false).open(&path);
    let file = file.map_err(of_folder(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(of_folder(&path)(source)),
    }
}

/// Makes an empty store, and gives it its name when it is on disk.
fn create(folder: &Path, path: &Path, sealer: &Sealer) -> Result<(), OpenError> {
    let unfinished = folder.join(UNFINISHED);
    let fail = of_folder(&unfinished);
    // What is left of a start that was cut off was never in use.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(fail(error)),
        Ok(()) | Err(_) => {}
    }
    drop(
        private()
            .create_new(true)
            .open(&unfinished)
            .map_err(&fail)?,
    );
    let key_check = sealer
        .seal("meta", META_KEY_CHECK.as_bytes(), b"")
        .map_err(|_| OpenError::System("random bytes"))?;
    let make = || -> Result<(), redb::Error> {
        let db = builder().create(&unfinished)?;
        let mut transaction = db.begin_write()?;
        transaction.set_two_phase_commit(true);
        transaction.set_quick_repair(true);
        fill(&transaction, &Table::ALL)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_KEY_CHECK, key_check.as_slice())?;
        drop(meta);
        transaction.commit()?;
        Ok(db.close()?)
    };
    let filled = contain(make).ok_or_else(|| OpenError::Damaged(unfinished.clone()))?;
    filled.map_err(|error| fail(io_error(error)))?;
    let sync = |path: &Path| File::open(path)?.sync_all();
    sync(&unfinished).map_err(&fail)?;
    fs::rename(&unfinished, path).map_err(&fail)?;
    sync(folder).map_err(of_folder(folder))
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn of_folder(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Folder {
        path: path.clone(),
        source,
    }
}

fn of_database(path: &Path) -> impl Fn(DatabaseError) -> OpenError {
    let path: PathBuf = path.to_owned();
    move |error| {
        let path = path.clone();
        if matches!(
            error,
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch
        ) {
            return OpenError::InUse(path);
        }
        if let DatabaseError::Storage(StorageError::Io(source)) = error
            && !says_damage(&source)
        {
            return OpenError::Folder { path, source };
        }
        OpenError::Damaged(path)
    }
}

/// What reading a file gives that is not what was written, rather than a disk that fails.
fn says_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput
    )
}

fn io_error(error: redb::Error) -> io::Error {
    if let redb::Error::Io(error) = error {
        return error;
    }
    io::Error::other(error)
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    let of_disk = if let redb::Error::Io(error) = &error {
        !says_damage(error)
    } else {
        matches!(error, redb::Error::PreviousIo | redb::Error::DatabaseClosed)
    };
    if of_disk {
        return StoreError::Unavailable;
    }
    StoreError::Damaged
}

impl From<DoesNotOpen> for StoreError {
    fn from(DoesNotOpen: DoesNotOpen) -> Self {
        Self::Damaged
    }
}

/// What `work` returns; nothing where it panicked, which redb does over some damage.
fn contain<T>(work: impl FnOnce() -> T) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).ok()
}
