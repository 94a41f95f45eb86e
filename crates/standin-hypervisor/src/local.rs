//! A running disk that can be read past QEMU.
//!
//! Through QEMU a byte is copied four times before it is here, and the guest's own I/O waits for the threads that
//! do it. Where the image is a raw file that QEMU reads and writes through the page cache, reading the file is the
//! same as asking QEMU: both see the same pages. The rules of a live view stay what they are: a read that races
//! with a write gives old or new bytes, and the mark that records knows of every write once it is complete.
//!
//! It is only done where all of this is certain: the format is raw, QEMU shows the image as a plain file name (no
//! offset, no encryption in between), nothing of it is opened with `O_DIRECT`, the file has the size that the guest
//! sees, QEMU's write lock is held on it, and the VM's own process has that very file open, so that the name means the
//! same file here as there. Otherwise it is read over NBD, as cuts always are. Made by the QEMU driver for live views;
//! used by the engine's passes.
//!
//! The file stays open for the view's life, as the node does that the view exports: when somebody mirrors the disk
//! elsewhere or puts a snapshot over it meanwhile, both ways go on reading the image that was, whose mark ends there.
//! The next cycle finds no mark where the guest writes now, and a comparison sends what differs. A disk that shrinks
//! fails the read; one that grows is refused by its size at the next view.

use crate::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// An image that is read on the caller's own thread.
#[derive(Debug)]
pub struct LocalDisk {
    file: File,
    path: PathBuf,
    failure: watch::Receiver<Option<String>>,
}

impl LocalDisk {
    pub(crate) fn new(file: File, path: &Path, failure: watch::Receiver<Option<String>>) -> Self {
        Self { file, path: path.to_owned(), failure }
    }

    /// Fills `buffer` with the bytes from `offset` on. Blocks: not for a thread that runs tasks.
    ///
    /// # Errors
    /// The view's reason once it has failed; else what the system said, also where the file has become shorter.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let read = self.file.read_exact_at(buffer, offset);
        if let Some(reason) = self.failure.borrow().as_ref() {
            return Err(Error::View(reason.clone()));
        }
        read.map_err(|error| Error::Read {
            context: format!("read {} bytes at {offset} of {}", buffer.len(), self.path.display()),
            detail: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn bytes_come_from_their_place_and_never_after_the_view_failed() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("writes");
        let (failed, failure) = watch::channel(None);
        let disk = LocalDisk::new(file, Path::new("/a"), failure);
        let mut buffer = [0; 4];
        disk.read(3, &mut buffer).expect("reads");
        assert_eq!(&buffer, b"3456");
        assert!(matches!(disk.read(8, &mut buffer), Err(Error::Read { .. })), "behind the end");
        failed.send_replace(Some("gone".into()));
        assert!(matches!(disk.read(0, &mut buffer), Err(Error::View(reason)) if reason == "gone"));
    }
}
