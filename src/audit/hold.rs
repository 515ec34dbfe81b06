//! Whose the folder of a chain is.
//!
//! Invariant: nothing is written into a folder that another process has, that belongs to another user, or
//! that is not the one which was taken.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{OpenError, recovery::private};

/// The folder, as long as it is ours.
pub(super) struct Hold {
    lock: File,
    path: PathBuf,
    /// Whether something in it says that there was a chain before.
    pub(super) was_used: bool,
}

/// Held by who writes.
const LOCK: &str = "lock";
/// How often, and how long between, it is asked for at a start.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);
/// It may write everywhere, and what it makes nobody else can read.
const ROOT: u32 = 0;

impl Hold {
    /// Takes the folder, which is made where it is missing, for its owner alone.
    pub(super) fn take(folder: &Path) -> Result<Self, OpenError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { what, path, source }
        };
        if folder.metadata().is_ok_and(|found| !found.is_dir()) {
            return Err(OpenError::NoFolder(folder.to_owned()));
        }
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(folder);
        made.map_err(failed("create", folder))?;
        let path = folder.join(LOCK);
        check_owner(folder, &path)?;
        let was_used = was_used(folder).map_err(failed("read", folder))?;
        let lock = private().create(true).truncate(false).open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        for attempt in 0.. {
            match lock.try_lock() {
                Ok(()) => break,
                // Who has just ended may be about to let go of it.
                Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(folder.to_owned())),
                Err(TryLockError::Error(source)) => return Err(failed("open", &path)(source)),
            }
        }
        Ok(Self {
            lock,
            path,
            was_used,
        })
    }

    /// Whether what stands at the folder's path still is the folder that was taken. In another one the chain
    /// would go on without what was before, and another process may have it.
    pub(super) fn is_in_place(&self) -> io::Result<()> {
        is_named(&self.lock, &self.path)
    }
}

/// Whether an open file is the one of this name. One that was moved or removed takes what is written, and
/// nobody finds it again.
pub(super) fn is_named(file: &File, path: &Path) -> io::Result<()> {
    let (open, named) = (file.metadata()?, fs::metadata(path)?);
    let same = (open.dev(), open.ino()) == (named.dev(), named.ino());
    same.then_some(())
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What another user writes into the folder its owner could not go on with. The chain is its lock's owner's;
/// before there is one a folder may be a group's, but what root would make is root's alone.
fn check_owner(folder: &Path, lock: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io {
        what: "write to",
        path: folder.to_owned(),
        source,
    };
    // A file without a name: whose it is is up to the disk, too.
    let user = tempfile::tempfile_in(folder).and_then(|file| file.metadata());
    let user = user.map_err(failed)?.uid();
    let (owner, counts) = match fs::metadata(lock) {
        Ok(lock) => (lock.uid(), true),
        Err(_) => (fs::metadata(folder).map_err(failed)?.uid(), user == ROOT),
    };
    if counts && owner != user {
        return Err(OpenError::Owner {
            path: folder.to_owned(),
            owner,
            user,
        });
    }
    Ok(())
}

fn was_used(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name == LOCK || name == "ship.cursor" || name.starts_with("audit-") {
            return Ok(true);
        }
    }
    Ok(false)
}
