//! Hosts that know each other: two daemons with certificates of one authority, the second letting the first in.
//! And small file systems that can be full.

use crate::daemon::{Daemon, DaemonPlan};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How often [`SmallFs::fill`] tries while others write.
const FILL_TRIES: u32 = 20;

/// Starts two daemons that trust each other; `primary` has the authority, and `replica` admits it.
///
/// # Errors
/// When a step of the set-up fails; with what the command said.
pub fn pair(primary: DaemonPlan, replica: DaemonPlan) -> Result<(Daemon, Daemon)> {
    let mut primary = Daemon::prepare(primary)?;
    let address = primary.listen().ip().to_string();
    let name = primary.name().to_owned();
    primary.run(&["pki", "init", "--name", &name, "--name", &address])?;
    primary.start()?;
    let replica = join(&primary, replica)?;
    replica.run(&["auth", "add", &name])?;
    Ok((primary, replica))
}

/// Starts a daemon that gets its certificate from `authority`, which runs.
///
/// # Errors
/// When a step of the set-up fails; with what the command said.
pub fn join(authority: &Daemon, plan: DaemonPlan) -> Result<Daemon> {
    let mut daemon = Daemon::prepare(plan)?;
    let address = daemon.listen().ip().to_string();
    let answer = authority.json(&["enroll", "--new", daemon.name(), "--name", &address])?;
    let token = answer["token"].as_str().context("the enrolment printed no token")?;
    daemon.run(&["enroll", token])?;
    daemon.start()?;
    Ok(daemon)
}

/// A file system in memory with a bounded size, to be filled up. Needs root; unmounted when dropped.
#[derive(Debug)]
pub struct SmallFs {
    path: PathBuf,
}

impl SmallFs {
    /// Mounts one of `bytes` bytes at `path`, which is made.
    ///
    /// # Errors
    /// When it cannot be mounted, which mostly means: not root.
    pub fn mount(path: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "standin-test"]).arg(path);
        let output = command.stdin(Stdio::null()).output().context("run mount")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("mount a small file system at {}: {}", path.display(), said.trim());
        }
        Ok(Self { path: path.to_path_buf() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn ballast(&self) -> PathBuf {
        self.path.join(".ballast")
    }

    /// Leaves only `free` bytes of it.
    ///
    /// # Errors
    /// When the space cannot be taken.
    pub fn fill(&self, free: u64) -> Result<()> {
        self.release()?;
        let file = fs::File::create(self.ballast()).context("make the ballast")?;
        // Somebody may write between the question and the taking, so the answer is asked again then.
        for _ in 0..FILL_TRIES {
            let space = rustix::fs::statvfs(&self.path).context("ask for the free space")?;
            let take = (space.f_bavail * space.f_frsize).saturating_sub(free);
            if take == 0 {
                return Ok(());
            }
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, take) {
                Err(rustix::io::Errno::NOSPC) => {}
                result => return result.context("take the free space"),
            }
        }
        bail!(
            "the free space of {} changed each of {FILL_TRIES} times that it was to be taken",
            self.path.display()
        )
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Errors
    /// When it cannot be given back.
    pub fn release(&self) -> Result<()> {
        match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("remove the ballast")
            }
            _ => Ok(()),
        }
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        // Lazily: a process that still has a file open there must not keep the mount visible.
        let status = Command::new("umount").arg("-l").arg(&self.path).stdin(Stdio::null()).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.path.display());
        }
    }
}
