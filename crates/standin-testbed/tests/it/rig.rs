//! Two hosts that know each other, each with a daemon of its own on a loopback address of its own, and how a
//! refusal has to look.

use serde_json::{Value, json};
use standin_testbed::daemon::{CliOutput, Daemon, DaemonPlan};
use standin_testbed::guest::{Guest, GuestPlan};
use standin_testbed::hosts;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How long a small guest may take to boot, or a job to end, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The primary `a`, the replica `b`, and a directory for everything. Ended and removed when dropped.
pub struct Rig {
    pub a: Daemon,
    pub b: Daemon,
    pub dir: TempDir,
}

/// A loopback address that no other test uses: 127.PROCESS.COUNTER.1.
pub fn address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = u8::try_from(std::process::id() % 200).unwrap() + 20;
    SocketAddr::from((Ipv4Addr::new(127, process, NEXT.fetch_add(1, Ordering::SeqCst), 1), 28444))
}

/// A host below `dir`, not started.
pub fn plan(dir: &Path, name: &str) -> DaemonPlan {
    let mut plan = DaemonPlan::new(name, dir.join(name), address());
    plan.extra_config = "[qemu]\nkvm = \"never\"\n".into();
    plan
}

/// A directory with a short path: unix sockets are below it.
pub fn workdir() -> TempDir {
    tempfile::Builder::new().prefix("si-").tempdir().unwrap()
}

impl Rig {
    pub fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// `adjust` may change the plans of both hosts.
    pub fn with(adjust: impl Fn(&mut DaemonPlan, &mut DaemonPlan)) -> Self {
        let dir = workdir();
        let (mut a, mut b) = (plan(dir.path(), "host-a"), plan(dir.path(), "host-b"));
        adjust(&mut a, &mut b);
        let (a, b) = hosts::pair(a, b).unwrap();
        Self { a, b, dir }
    }

    /// What each host may say of the story, by its causes: see [`standin_testbed::daemon::complaints`].
    pub fn may_complain(&self, a: &[&[&str]], b: &[&[&str]]) {
        a.iter().for_each(|cause| self.a.may_complain(cause));
        b.iter().for_each(|cause| self.b.may_complain(cause));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where `b` is reached, for `--to`.
    pub fn to(&self) -> String {
        self.b.listen().to_string()
    }

    /// A guest that is defined on `a` and off.
    pub fn define(&self, plan: GuestPlan) -> Guest {
        let guest = plan.create(&self.path("disks")).unwrap();
        self.a.run(&["vm", "define", text(&guest.definition)]).unwrap();
        guest
    }

    /// A guest that runs on `a` and writes records.
    pub fn boot(&self, name: &str, rate: u32) -> Guest {
        let guest = self.define(GuestPlan::records(name, rate));
        self.a.run(&["vm", "start", name]).unwrap();
        guest.serial.wait_written_beyond(1, PATIENCE).unwrap();
        guest
    }

    /// Replicates a VM of `a` to `b` and waits for the end of the first copy.
    pub fn replicate(&self, vm: &str, interval: &str) {
        let to = self.to();
        let options = ["--interval", interval, "--history", "24", "--no-wait"];
        self.a.run(&[&["replicate", vm, "--to", &to], &options[..]].concat()).unwrap();
        wait_state(&self.a, vm, 3);
        wait_state(&self.b, vm, 3);
    }

    /// Waits until `b` has a point of an epoch beyond `epoch`; that point's epoch.
    pub fn wait_point_beyond(&self, vm: &str, epoch: u64) -> u64 {
        let newest = |points: &Value| points[0]["epoch"].as_u64().unwrap_or(0);
        let points = self.b.wait_json(&["points", vm], PATIENCE, |points| newest(points) > epoch).unwrap();
        newest(&points)
    }

    /// The newest point's epoch on `b`; 0 without one.
    pub fn newest_epoch(&self, vm: &str) -> u64 {
        self.b.json(&["points", vm]).unwrap()[0]["epoch"].as_u64().unwrap_or(0)
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The status of one VM.
pub fn status(daemon: &Daemon, vm: &str) -> Value {
    let answer = daemon.json(&["status", vm]).unwrap();
    answer.get(0).cloned().unwrap_or(answer)
}

/// Waits until the status of a VM satisfies `enough`.
pub fn wait_status(daemon: &Daemon, vm: &str, enough: impl Fn(&Value) -> bool) -> Value {
    let one = |answer: &Value| answer.get(0).cloned().unwrap_or_else(|| answer.clone());
    one(&daemon.wait_json(&["status", vm], PATIENCE, |answer| enough(&one(answer))).unwrap())
}

pub fn wait_state(daemon: &Daemon, vm: &str, state_code: u64) -> Value {
    wait_status(daemon, vm, |status| status["state_code"] == json!(state_code))
}

/// Everything that a refusal must leave as it is.
pub fn facts(daemon: &Daemon) -> Value {
    let keep = |value: &Value, keys: &[&str]| -> Value {
        let items = value.as_array().unwrap().iter();
        items.map(|item| keys.iter().map(|key| item[*key].clone()).collect::<Value>()).collect()
    };
    let status = daemon.json(&["status"]).unwrap();
    let vms = daemon.json(&["vm", "list"]).unwrap();
    json!({
        "status": keep(&status, &["vm", "id", "mode", "state", "peer", "interval_s", "generation", "points", "disks"]),
        "vms": keep(&vms, &["vm", "id", "power", "pid", "disks"]),
        "auth": daemon.json(&["auth", "list"]).unwrap(),
    })
}

/// Types `arguments`, which must be refused with `code` and a sentence that has all of `says` and a remedy, and
/// must change nothing.
pub fn refused(daemon: &Daemon, arguments: &[&str], code: u32, says: &[&str]) -> CliOutput {
    let before = facts(daemon);
    let output = daemon.cli(arguments).unwrap();
    let shown = format!("standin {arguments:?}\n{}", output.stderr);
    eprintln!("{shown}");
    assert_eq!(output.status, 3, "{shown}");
    assert!(output.stderr.starts_with(&format!("refused ({code}): ")), "{shown}");
    for word in says {
        assert!(output.stderr.contains(word), "{word:?} is not said: {shown}");
    }
    let remedy = output.stderr.split_once("\nwhat to do: ").map_or("", |(_, remedy)| remedy);
    assert!(remedy.trim().len() > 10, "no remedy: {shown}");
    assert_eq!(output.stdout, "", "{shown}");
    assert_eq!(facts(daemon), before, "something changed: {shown}");
    output
}
