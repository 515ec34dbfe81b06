//! Notices that files have changed, by asking for their metadata again and again.
//!
//! Polling, because it is right everywhere: a notification of the kernel's belongs to one inode, so
//! it misses what a mounted volume or a symbolic link is swapped for, and what another machine writes
//! to a shared disk. Nothing here opens a file.
//!
//! Invariant: a change is told once, and only when nothing has moved for the time between two looks,
//! so that nobody reads a file which is being written.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What some paths led to at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look(Vec<(PathBuf, Option<Stamp>)>);

impl Look {
    /// Looks at files and folders, through symbolic links. What is missing, or cannot be looked at, is
    /// a state like any other. A folder changes with the names in it, not with what they hold.
    pub fn at(paths: &[PathBuf]) -> Self {
        let stamp = |path: &Path| fs::metadata(path).ok().map(|found| Stamp::of(&found));
        Self(paths.iter().map(|p| (p.clone(), stamp(p))).collect())
    }
}

/// By what one state of a file is told from another. Two times, because the one that programs can set
/// back (`cp -p`, `touch -d`) is not the one that the kernel keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// Decides when to act on what is seen. Pure: whoever looks, and how often, is another's business.
#[derive(Debug)]
pub struct Settled {
    acted_on: Look,
    last: Look,
}

impl Settled {
    /// Nothing is to be done while things look like this.
    pub fn new(look: Look) -> Self {
        Self {
            acted_on: look.clone(),
            last: look,
        }
    }

    /// Whether to act now: things look otherwise than when it was last acted, and as they did the
    /// last time. Whoever reads the files then reads what was there for a whole turn.
    pub fn observe(&mut self, look: Look) -> bool {
        let still = look == self.last;
        let act = still && look != self.acted_on;
        if act {
            self.acted_on.clone_from(&look);
        }
        self.last = look;
        act
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, FileTimes},
        os::unix::fs::symlink,
    };

    use super::*;

    /// Whether what `change` does shows in these paths of a folder that `prepare` has filled.
    fn shows(paths: &[&str], prepare: impl Fn(&Path), change: impl Fn(&Path)) -> bool {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let paths: Vec<PathBuf> = paths.iter().map(|p| folder.path().join(p)).collect();
        let before = Look::at(&paths);
        assert_eq!(before, Look::at(&paths));
        change(folder.path());
        before != Look::at(&paths)
    }

    fn write(name: &'static str, content: &'static str) -> impl Fn(&Path) {
        move |folder| fs::write(folder.join(name), content).unwrap()
    }

    #[test]
    fn every_way_to_change_a_file_shows() {
        let file = write("file", "old");
        assert!(shows(&["file"], &file, write("file", "newer")), "written");
        assert!(
            shows(&["file"], &file, |f| fs::remove_file(f.join("file"))
                .unwrap()),
            "removed"
        );
        assert!(shows(&["file"], |_| {}, &file), "appeared");
        let replaced = |folder: &Path| {
            fs::write(folder.join("new"), "new").unwrap();
            fs::rename(folder.join("new"), folder.join("file")).unwrap();
        };
        assert!(shows(&["file"], &file, replaced), "replaced");
        assert!(!shows(&["file"], &file, write("other", "x")), "another");
    }

    #[test]
    fn a_file_of_the_same_size_and_time_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let at = |time| {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        };
        fs::write(&path, "one").unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let before = Look::at(std::slice::from_ref(&path));
        // The kernel's clock for files has ticks of milliseconds, and within one nothing can be told.
        let changed = (0..100_000).any(|_| {
            fs::write(&path, "two").unwrap();
            at(time);
            Look::at(std::slice::from_ref(&path)) != before
        });
        assert!(changed);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), time);
    }

    #[test]
    fn a_link_is_followed_and_a_swapped_one_is_seen() {
        // As Kubernetes mounts a ConfigMap: the file is a link through a link that is replaced.
        let mounted = |folder: &Path| {
            for (version, content) in [("..1", "old"), ("..2", "new")] {
                fs::create_dir(folder.join(version)).unwrap();
                fs::write(folder.join(version).join("file"), content).unwrap();
            }
            symlink("..1", folder.join("..data")).unwrap();
            symlink("..data/file", folder.join("file")).unwrap();
        };
        let swapped = |folder: &Path| {
            symlink("..2", folder.join("..data_tmp")).unwrap();
            fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        };
        assert!(shows(&["file"], mounted, swapped));
        assert!(shows(&["file"], mounted, write("..1/file", "more")));
        assert!(!shows(&["file"], mounted, write("..2/file", "more")));
    }

    #[test]
    fn a_folder_changes_with_its_names() {
        let folder = |folder: &Path| fs::create_dir(folder.join("folder")).unwrap();
        assert!(shows(&["folder"], folder, |f| {
            // A folder's time has ticks too; its size or the number of its links need not change.
            let names = || (0_u32..).map(|n| f.join("folder").join(n.to_string()));
            let paths = [f.join("folder")];
            let before = Look::at(&paths);
            for name in names() {
                fs::write(name, "").unwrap();
                if before != Look::at(&paths) {
                    return;
                }
            }
        }));
    }

    fn look(number: u32) -> Look {
        Look::at(&[PathBuf::from(format!("/nowhere/{number}"))])
    }

    #[test]
    fn what_moves_is_left_alone_and_what_has_settled_is_told_once() {
        let mut settled = Settled::new(look(0));
        for (seen, acts) in [
            (0, false),
            (1, false),
            (2, false),
            (3, false),
            (3, true),
            (3, false),
            (3, false),
            (0, false),
            (0, true),
            (0, false),
        ] {
            assert_eq!(settled.observe(look(seen)), acts, "{seen}");
        }
    }

    #[test]
    fn what_is_back_before_it_settled_is_no_change() {
        let mut settled = Settled::new(look(0));
        for seen in [1, 0, 0, 2, 1, 0, 0] {
            assert!(!settled.observe(look(seen)));
        }
    }
}
