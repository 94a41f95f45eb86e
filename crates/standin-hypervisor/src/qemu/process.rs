//! QEMU processes. They outlive the daemon: each is started in a process group of its own with its output in a
//! file, and is found again by its pid file. A pid alone is never believed: it could be anybody's by now.

use super::store::Store;
use crate::error::Error;
use rustix::process::{Pid, Signal};
use standin_model::VmId;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How often an end is looked for.
const POLL: Duration = Duration::from_millis(20);
/// Of a failed start this much of the log is shown.
const SHOWN_LOG: u64 = 4096;

/// A QEMU process that is known to be the VM's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    /// Process id.
    pub pid: i32,
    /// Start time in the kernel's ticks: with the pid it names one process for ever.
    started: u64,
}

impl Process {
    /// The process of `vm`, if it runs: its pid file names a QEMU whose command line has the VM's identity.
    pub fn find(store: &Store, vm: VmId) -> Option<Self> {
        Self::named_by(&store.pid_file(vm), vm)
    }

    /// The same, by a pid file of any name.
    pub fn named_by(pid_file: &Path, vm: VmId) -> Option<Self> {
        let pid: i32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
        let process = Self::of_pid(pid)?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let identity = vm.to_string();
        let is_ours = line.split(|byte| *byte == 0).any(|argument| argument == identity.as_bytes());
        is_ours.then_some(process)
    }

    /// A living process of that id.
    pub fn of_pid(pid: i32) -> Option<Self> {
        if pid <= 1 {
            return None;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name, in parentheses, may contain anything; the fields count from behind it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let state = *fields.first()?;
        let started = fields.get(19)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn alive(self) -> bool {
        Self::of_pid(self.pid) == Some(self)
    }

    /// Whether it has this very file open, whatever it calls it: it may see other directories, and the name may have
    /// been given to another file since. `false` where that cannot be told.
    pub fn has_open(self, file: &fs::Metadata) -> bool {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return false };
        let same = |found: fs::Metadata| (found.dev(), found.ino()) == (file.dev(), file.ino());
        let found = entries.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(same));
        found && self.alive()
    }

    /// Waits until it has ended; `false` when it still runs at the deadline.
    pub async fn ended(self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        while self.alive() {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// Ends it at once.
    pub fn kill(self) -> Result<(), Error> {
        if !self.alive() {
            return Ok(());
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        match rustix::process::kill_process(pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::io(format!("kill process {}", self.pid))(error.into())),
        }
    }
}

/// Starts `program`. Its output goes to the end of `log`; the answer tells where that was.
pub(crate) fn spawn(program: &Path, arguments: &[String], log: &Path) -> Result<(Child, u64), Error> {
    let mut options = File::options();
    let output = options
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .map_err(Error::io(format!("open {}", log.display())))?;
    let context = || format!("open {}", log.display());
    let from = output.metadata().map_err(Error::io(context()))?.len();
    let errors = output.try_clone().map_err(Error::io(context()))?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(errors))
        .current_dir("/")
        // A terminal's Ctrl-C for the daemon is not meant for the VMs.
        .process_group(0)
        .kill_on_drop(false)
        .spawn()
        .map_err(Error::io(format!("start {}", program.display())))?;
    Ok((child, from))
}

/// What a log says behind `from`, its end if that is long.
pub(crate) fn log_since(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(SHOWN_LOG))))?;
        let mut text = Vec::new();
        file.take(SHOWN_LOG).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    };
    match read() {
        Ok(text) if text.is_empty() => "it said nothing".to_owned(),
        Ok(text) => text,
        Err(error) => format!("its log {} cannot be read: {error}", log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_ended_is_not_taken_for_alive() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = i32::try_from(child.id().expect("a pid")).expect("a pid");
        let process = Process::of_pid(pid).expect("it runs");
        assert!(process.alive());
        assert!(!process.ended(Duration::from_millis(50)).await);
        process.kill().expect("kill");
        // Nobody has reaped it yet: a zombie has ended all the same.
        assert!(process.ended(Duration::from_secs(5)).await);
        child.wait().await.expect("reap");
        assert!(process.kill().is_ok(), "killing what has ended is no error");
    }

    #[test]
    fn an_open_file_is_told_from_another_of_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        let file = File::create(&path).expect("a file");
        let this = Process::of_pid(i32::try_from(std::process::id()).expect("a pid")).expect("this process");
        let opened = file.metadata().expect("metadata");
        assert!(this.has_open(&opened));
        fs::remove_file(&path).expect("remove");
        assert!(this.has_open(&opened), "it needs no name");
        fs::write(&path, "another").expect("write");
        assert!(!this.has_open(&fs::metadata(&path).expect("metadata")));
    }

    #[test]
    fn another_process_with_the_pid_is_not_the_vm() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path(), &dir.path().join("run")).expect("a store");
        let vm = VmId::random();
        fs::write(store.pid_file(vm), format!("{}\n", std::process::id())).expect("write");
        assert_eq!(Process::find(&store, vm), None);
        fs::write(store.pid_file(vm), "-1").expect("write");
        assert_eq!(Process::find(&store, vm), None);
    }
}
