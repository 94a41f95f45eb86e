//! Daemons under test: `standin serve` processes with their own directories, and the command line as their
//! client. Everything a daemon started, QEMU included, ends with its [`Daemon`].

pub mod complaints;

use crate::builds::find_binary;
use crate::guest::SerialLog;
use crate::process;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a daemon may take to answer after its start, and to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, Clone)]
pub struct DaemonPlan {
    /// Name of the host, as its certificate and the peers have it.
    pub name: String,
    /// Where the data, the configuration and the logs are kept. Short: unix sockets are below it.
    pub dir: PathBuf,
    /// Where it listens for peers.
    pub listen: SocketAddr,
    /// The program; `None` for the one under test, see [`find_binary`].
    pub binary: Option<PathBuf>,
    /// The network namespace it runs in.
    pub namespace: Option<String>,
    /// Directory of scratch images, where not below `dir`.
    pub scratch_dir: Option<PathBuf>,
    /// Directory of the replicas' disks, where not below `dir`.
    pub replica_storage: Option<PathBuf>,
    /// Further lines of the configuration: top-level keys first, then tables.
    pub extra_config: String,
}

impl DaemonPlan {
    /// A daemon `name` with everything below `dir`, listening on `listen`.
    #[must_use]
    pub fn new(name: &str, dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            name: name.into(),
            dir: dir.into(),
            listen,
            binary: None,
            namespace: None,
            scratch_dir: None,
            replica_storage: None,
            extra_config: String::new(),
        }
    }

    fn config(&self) -> Result<String> {
        let mut text = String::new();
        let mut key = |key: &str, value: &str| writeln!(text, "{key} = {value:?}");
        let path = |path: &Path| path.to_string_lossy().into_owned();
        key("host_name", &self.name)?;
        key("data_dir", &path(&self.dir.join("data")))?;
        key("runtime_dir", &path(&self.dir.join("run")))?;
        key("socket", &path(&self.socket()))?;
        key("listen", &self.listen.to_string())?;
        for (name, dir) in [("scratch_dir", &self.scratch_dir), ("replica_storage", &self.replica_storage)] {
            if let Some(dir) = dir {
                key(name, &path(dir))?;
            }
        }
        text.push_str(&self.extra_config);
        Ok(text)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("standin.sock")
    }
}

/// What a verb of the command line did.
#[derive(Debug, Clone)]
pub struct CliOutput {
    /// Exit status; -1 when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A daemon, running or not, and its host's command line.
#[derive(Debug)]
pub struct Daemon {
    plan: DaemonPlan,
    binary: PathBuf,
    child: Option<Child>,
    expected: Mutex<Vec<String>>,
}

impl Daemon {
    /// Writes the configuration; nothing runs yet.
    ///
    /// # Errors
    /// When there is no binary or the directory cannot be written.
    pub fn prepare(plan: DaemonPlan) -> Result<Self> {
        let binary = plan.binary.clone().map_or_else(find_binary, Ok)?;
        for dir in [Some(&plan.dir), plan.scratch_dir.as_ref(), plan.replica_storage.as_ref()] {
            let Some(dir) = dir else { continue };
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let this = Self { plan, binary, child: None, expected: Mutex::default() };
        fs::write(this.config_path(), this.plan.config()?).context("write the daemon's configuration")?;
        Ok(this)
    }

    /// Name of the host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Where its data, configuration and logs are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.plan.dir
    }

    /// Where peers reach it.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.plan.listen
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.plan.dir.join("standin.toml")
    }

    /// Its log, over all its starts.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.plan.dir.join("daemon.log")
    }

    /// What it logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// It may warn of anything or call it an error that has one of `words` in its line. All else ends the test, see
    /// [`complaints`].
    pub fn may_complain(&self, words: &[&str]) {
        let words = words.iter().map(|words| (*words).to_owned());
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).extend(words);
    }

    /// Panics, when nothing else has, at complaints that nobody expected.
    fn check_complaints(&self) {
        let log = self.log();
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let unexpected = complaints::unexpected(&log, &expected);
        let shown = format!("daemon {} complained:\n{}", self.plan.name, unexpected.join("\n"));
        assert!(unexpected.is_empty() || std::thread::panicking(), "{shown}");
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    fn command(&self) -> Command {
        let mut command = match &self.plan.namespace {
            // `ip netns exec` becomes the program, so the process id is the program's.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command.stdin(Stdio::null()).env_remove("STANDIN_SOCKET").env("STANDIN_CONFIG", self.config_path());
        command
    }

    /// Installs another build over it. The daemon must be down; its VMs may run.
    ///
    /// # Errors
    /// When the daemon runs.
    pub fn install(&mut self, binary: PathBuf) -> Result<()> {
        ensure!(self.child.is_none(), "daemon {} runs", self.plan.name);
        self.binary = binary;
        Ok(())
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it ends at once or does not answer; with the end of its log.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "daemon {} runs already", self.plan.name);
        let log = OpenOptions::new().create(true).append(true).open(self.log_path());
        let log: File = log.with_context(|| format!("open {}", self.log_path().display()))?;
        let mut command = self.command();
        command.arg("serve").stdout(log.try_clone().context("share the log")?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", self.binary.display()))?;
        self.child = Some(child);
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            if self.cli(&["status", "--json"])?.status == 0 {
                return Ok(());
            }
            if let Some(child) = &mut self.child {
                if let Some(status) = child.try_wait().context("look after the daemon")? {
                    self.child = None;
                    bail!("daemon {} ended at once ({status}):\n{}", self.plan.name, self.end_of_log());
                }
            }
            if Instant::now() > until {
                bail!("daemon {} does not answer:\n{}", self.plan.name, self.end_of_log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Ends it in order, by SIGTERM. Its VMs go on.
    ///
    /// # Errors
    /// When it does not end; it is then killed.
    pub fn stop(&mut self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        process::signal(pid, Signal::TERM)?;
        let ended = process::wait_gone(pid, PATIENCE);
        self.kill()?;
        ended.with_context(|| format!("daemon {} did not end after SIGTERM", self.plan.name))
    }

    /// Ends it at once, by SIGKILL. Its VMs go on.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; waiting tells.
            let killed = child.kill();
            child.wait().with_context(|| format!("wait for daemon {} ({killed:?})", self.plan.name))?;
        }
        Ok(())
    }

    /// The serial log of a VM that this daemon made as a replica and started: `NAME-serial.log` somewhere below
    /// its data; the definition's own path belongs to the primary host.
    #[must_use]
    pub fn replica_serial(&self, vm: &str) -> Option<SerialLog> {
        find_file(&self.plan.dir, &format!("{vm}-serial.log"), 4).map(SerialLog::new)
    }

    /// The QEMU processes that it started and that still run.
    #[must_use]
    pub fn vm_pids(&self) -> Vec<i32> {
        process::find("qemu-system", &self.plan.dir)
    }

    /// Kills its QEMU processes by SIGKILL.
    ///
    /// # Errors
    /// When one cannot be killed.
    pub fn kill_vms(&self) -> Result<()> {
        self.vm_pids().into_iter().try_for_each(process::kill)
    }

    /// As if the host's power was cut, as far as a process can tell: the daemon and its VMs by SIGKILL.
    ///
    /// # Errors
    /// When something cannot be killed.
    pub fn lose_power(&mut self) -> Result<()> {
        let vms = self.vm_pids();
        self.kill()?;
        vms.into_iter().try_for_each(process::kill)?;
        self.kill_vms()
    }

    /// Runs a verb of the command line against this daemon and waits for its end.
    ///
    /// # Errors
    /// Only when it cannot be run; its exit status is in the output.
    pub fn cli(&self, arguments: &[&str]) -> Result<CliOutput> {
        let output = self.command().args(arguments).output();
        let output = output.with_context(|| format!("run {}", self.binary.display()))?;
        Ok(CliOutput {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts a verb without waiting for its end, its output to the caller's.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn spawn_cli(&self, arguments: &[&str]) -> Result<Child> {
        let child = self.command().args(arguments).spawn();
        child.with_context(|| format!("run {}", self.binary.display()))
    }

    /// Runs a verb that must succeed; its standard output.
    ///
    /// # Errors
    /// When its exit status is not 0; with what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli(arguments)?;
        if output.status != 0 {
            bail!(
                "on {}: standin {} ended with {}:\n{}{}",
                self.plan.name,
                arguments.join(" "),
                output.status,
                output.stderr,
                output.stdout
            );
        }
        Ok(output.stdout)
    }

    /// Runs a verb with `--json` that must succeed, and parses what it prints.
    ///
    /// # Errors
    /// As [`Self::run`], and when it printed no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["--json"]].concat())?;
        let parsed = serde_json::from_str(&text);
        parsed.with_context(|| format!("standin {} --json printed {text:?}", arguments.join(" ")))
    }

    /// Runs a verb with `--json` again and again until what it prints satisfies `enough`.
    ///
    /// # Errors
    /// When it does not by the deadline; with the last answer and the end of the daemon's log.
    pub fn wait_json(
        &self,
        arguments: &[&str],
        deadline: Duration,
        enough: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let until = Instant::now() + deadline;
        loop {
            let answer = self.json(arguments);
            if let Ok(value) = &answer {
                if enough(value) {
                    return answer;
                }
            }
            if Instant::now() > until {
                let last = answer.map_or_else(|error| format!("{error:#}"), |value| value.to_string());
                bail!(
                    "on {}: standin {} is not as it should be after {deadline:?}: {last}\n{}",
                    self.plan.name,
                    arguments.join(" "),
                    self.end_of_log()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn find_file(dir: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(dir).ok()?.flatten().collect();
    let here = entries.iter().find(|entry| entry.file_name() == name).map(fs::DirEntry::path);
    let dirs = entries.iter().filter(|entry| depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()));
    here.or_else(|| dirs.map(fs::DirEntry::path).find_map(|dir| find_file(&dir, name, depth - 1)))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.lose_power() {
            eprintln!("daemon {} was not cleaned up: {error:#}", self.plan.name);
        }
        self.check_complaints();
    }
}

/// A free port on the loopback address. Another process may take it before it is used; tests that run side by
/// side should rather use addresses of their own in 127.0.0.0/8.
///
/// # Errors
/// When no socket can be bound.
pub fn free_address() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("bind a port")?;
    listener.local_addr().context("read the port")
}
