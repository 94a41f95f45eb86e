//! The management API as its users meet it: real daemons, a real guest, and the clients that people have. The Python
//! ones are in `target/venv` (`make clients`), the others are packages that `scripts/setup` installs.

mod bad_input;
mod clients;
mod stories;

use crate::rig::Rig;
use standin_testbed::builds::find_binary;
use standin_testbed::daemon::{Daemon, DaemonPlan, complaints};
use standin_testbed::guest::{GuestPlan, checkout};
use standin_wire::PkiDir;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub const PASSWORD: &str = "correct Horse 7";

/// Two hosts whose management API listens on their own addresses.
pub fn managed() -> Rig {
    managed_with("")
}

/// The same with further keys of the table `[management]`.
fn managed_with(keys: &str) -> Rig {
    managed_by_plan(keys, |_, _| {})
}

/// The same with further changes to the plans of both hosts.
fn managed_by_plan(keys: &str, adjust: impl Fn(&mut DaemonPlan, &mut DaemonPlan)) -> Rig {
    let rig = Rig::with(|a, b| {
        for plan in [&mut *a, &mut *b] {
            listens(plan, keys);
        }
        adjust(a, b);
    });
    rig.a.may_complain(&["a log-in failed", "a password came over plain HTTP"]);
    rig.a.may_complain(complaints::OF_THE_OLD_HOST);
    rig.a.may_complain(complaints::OF_LOST_TRACKING);
    rig.b.may_complain(complaints::OF_AN_ASSERTION);
    for daemon in [&rig.a, &rig.b] {
        add_admin(daemon);
        add_user(daemon, "looker", &["--role", "viewer"]);
    }
    rig
}

/// Has a host's management API listen on the host's own address, with further keys of the table `[management]`.
pub fn listens(plan: &mut DaemonPlan, keys: &str) {
    let address = plan.listen.ip();
    plan.extra_config += &format!("[management]\nlisten = \"{address}\"\n{keys}");
}

/// Adds the user that the clients' scripts come as.
pub fn add_admin(daemon: &Daemon) {
    add_user(daemon, "admin", &["--role", "administrator", "--ntlm"]);
}

pub fn add_user(daemon: &Daemon, name: &str, options: &[&str]) {
    add_user_with(daemon, name, PASSWORD, options);
}

pub fn add_user_with(daemon: &Daemon, name: &str, password: &str, options: &[&str]) {
    add_user_by(&find_binary().unwrap(), daemon, name, password, options);
}

/// The same by the command line of another build.
pub fn add_user_by(binary: &Path, daemon: &Daemon, name: &str, password: &str, options: &[&str]) {
    let mut command = Command::new(binary);
    command
        .env("STANDIN_CONFIG", daemon.config_path())
        .args(["user", "add", name, "--password-stdin"])
        .args(options);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    assert!(child.wait().unwrap().success());
}

/// Two hosts, the first with the VMs web-1, which runs and is replicated to the second, and db-1, which is off.
pub fn peopled() -> Rig {
    peopled_with("")
}

/// The same with further keys of the table `[management]`.
pub fn peopled_with(keys: &str) -> Rig {
    let rig = managed_with(keys);
    rig.define(GuestPlan::records("db-1", 100));
    rig.boot("web-1", 100);
    rig.replicate("web-1", "30s");
    rig
}

/// The Python that has the clients.
pub fn python() -> PathBuf {
    let given = std::env::var_os("STANDIN_PYTHON").map(PathBuf::from);
    let python = given.unwrap_or_else(|| checkout().join("target/venv/bin/python"));
    assert!(python.is_file(), "{} is missing: run `make clients`", python.display());
    python
}

/// The authority that the hosts' certificates are of.
pub fn authority(daemon: &Daemon) -> PathBuf {
    daemon.dir().join("data/pki/trusted.crt")
}

/// The Python with the clients. What the machine's owner has set for his own requests must not decide whom these
/// trust: the library would take it before what it is told.
pub fn python_with_clients() -> Command {
    let mut command = Command::new(python());
    command.env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE").env("STANDIN_PASSWORD", PASSWORD);
    command.stdin(Stdio::null());
    command
}

/// Runs one of the clients' scripts beside these tests, with the two hosts as its arguments.
pub fn client(rig: &Rig, script: &str, more: &[&str]) -> Output {
    let path = checkout().join("crates/standin-testbed/tests/clients").join(script);
    let mut command = python_with_clients();
    command.arg(path).args([rig.a.listen().ip().to_string(), rig.b.listen().ip().to_string()]);
    command.arg(authority(&rig.a)).args(more).output().unwrap()
}

/// Makes a user who comes by a certificate of the hosts' own authority, on both hosts; its file and that of its key.
pub fn user_certificate(rig: &Rig, name: &str, role: &str) -> [PathBuf; 2] {
    let authority = PkiDir::new(rig.a.dir().join("data/pki"));
    let issued = authority.issue(&[name.to_owned()], 30).unwrap();
    let subject = format!("CN={name}");
    for daemon in [&rig.a, &rig.b] {
        daemon
            .run(&["user", "add", name, "--no-password", "--certificate", &subject, "--role", role])
            .unwrap();
    }
    let files = [rig.path(&format!("{name}.crt")), rig.path(&format!("{name}.key"))];
    std::fs::write(&files[0], issued.certificate).unwrap();
    std::fs::write(&files[1], issued.key).unwrap();
    files
}

/// The output of something that must have gone well.
pub fn well(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}
