//! A small disk of its own for the audit trail, which can be filled. To mount one takes root; where that is
//! not to be had there is none, and who needs one says that it looked at nothing.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// A disk. Unmounted when it is dropped.
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts one of 1 MiB at `audit` in this folder.
    pub fn mount(parent: &Path) -> Option<Self> {
        let folder = parent.join("audit");
        fs::create_dir(&folder).unwrap();
        let mounting = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"])
            .arg(&folder)
            .output();
        if mounting.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self { folder });
        }
        println!("no disk can be mounted here: nothing was looked at");
        None
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Takes what room there is, up to whole blocks of 4,096 bytes.
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.folder).status();
        drop(unmounted);
    }
}
