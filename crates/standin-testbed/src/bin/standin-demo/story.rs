//! The demo, step by step, in the order in which it is told.

use crate::proof::{self, Point};
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use rustix::process::Signal;
use serde::Serialize;
use standin_testbed::daemon::{Daemon, DaemonPlan, complaints};
use standin_testbed::guest::{Guest, GuestDisk, GuestPlan, SerialLog};
use standin_testbed::oracle::Verdict;
use standin_testbed::timeline::Timeline;
use standin_testbed::{hosts, images, process};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const VM: &str = "writer";
/// The two disks with the records.
const RECORDS: [&str; 2] = ["log-a", "log-b"];
/// The disk that makes the first copy worth watching.
const DATA: &str = "data";
const DATA_SIZE: u64 = 1 << 30;
/// Records a second.
const RATE: u32 = 100;
/// Points before the disaster.
const POINTS: usize = 6;
/// An emulated guest on two busy cores boots in less.
const BOOT: Duration = Duration::from_secs(90);

/// The last line of the demo.
#[derive(Debug, Serialize)]
pub struct Outcome {
    demo: &'static str,
    points: usize,
    rpo_s: f64,
    rto_s: f64,
    records_lost: u64,
    consistent: bool,
}

/// What happened at the failover to a point.
struct Taken {
    point: Point,
    verdict: Verdict,
    process_s: f64,
    output_s: f64,
}

struct Demo {
    line: Timeline,
    primary: Daemon,
    replica: Daemon,
    guest: Guest,
    /// Directory of the VM's replica, once there is one.
    store: PathBuf,
}

/// Tells the whole story below `dir`; gives the last line.
pub fn tell(dir: &Path) -> Result<Outcome> {
    let mut demo = Demo::set_up(dir)?;
    let outcome = demo.tell();
    if outcome.is_err() {
        for daemon in [&demo.primary, &demo.replica] {
            let log = daemon.log();
            let end: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("\nthe log of {} ends with", daemon.name());
            end.into_iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
    outcome
}

fn address(host: u8) -> Result<SocketAddr> {
    let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
    let listener = TcpListener::bind((ip, 0)).with_context(|| format!("find a free port on {ip}"))?;
    listener.local_addr().context("read the port")
}

fn daemon(dir: &Path, name: &str, host: u8) -> Result<DaemonPlan> {
    let mut plan = DaemonPlan::new(name, dir.join(name), address(host)?);
    plan.extra_config = "[qemu]\nkvm = \"never\"\n[limits]\nscratch_reserve = \"64MiB\"\n".into();
    Ok(plan)
}

/// Seconds from one instant of the guest's clock to another; both in nanoseconds.
fn seconds_between(earlier: u64, later: u64) -> f64 {
    Duration::from_nanos(later.saturating_sub(earlier)).as_secs_f64()
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

impl Demo {
    fn set_up(dir: &Path) -> Result<Self> {
        let line = Timeline::begin();
        line.chapter("Two hosts and a VM");
        let (primary, replica) = hosts::pair(daemon(dir, "alpha", 1)?, daemon(dir, "beta", 2)?)?;
        replica.may_complain(complaints::OF_AN_ASSERTION);
        line.event(format!(
            "two daemons: alpha on {}, beta on {}; they know each other by certificates",
            primary.listen(),
            replica.listen()
        ));
        let mut plan = GuestPlan::records(VM, RATE);
        plan.disks.push(GuestDisk { name: DATA.into(), format: "raw", size: DATA_SIZE });
        let guest = plan.create(&dir.join("vm"))?;
        images::make_mixed(&guest.disks[2], DATA_SIZE, 7)?;
        line.event("a VM was made: a Linux guest with two disks of records and 1 GiB of data");
        Ok(Self { line, primary, replica, guest, store: PathBuf::new() })
    }

    fn tell(&mut self) -> Result<Outcome> {
        self.start_guest()?;
        self.first_copy()?;
        let before = self.collect_points()?;
        let (killed_at, cut_short) = self.kill_primary()?;
        let left = self.examine_ruins(&before, cut_short)?;

        let latest = proof::points(&self.replica, VM)?.into_iter().next().context("no point is left")?;
        self.line.chapter("Beta takes over");
        let taken = self.fail_over(&latest, true)?;
        let lost = left.last_sequence.checked_sub(taken.verdict.last_sequence);
        let lost = lost.context("beta has records that alpha never wrote")?;
        let rpo = seconds_between(taken.verdict.last_written_at, left.last_written_at);
        self.line.note(format!(
            "RTO {:.1} s, from the command to the guest's word that its disks are whole:\n\
             QEMU ran after {:.2} s, the rest is Linux booting on an emulated CPU",
            taken.output_s, taken.process_s
        ));
        let age = killed_at.duration_since(taken.point.cut_at).as_secs_f64();
        self.line.note(format!(
            "RPO {rpo:.1} s, from the newest record on beta to the newest on alpha's disks: {lost} records\n\
             are lost; the point was cut {age:.1} s before the kill"
        ));
        proof::same_content(&self.guest.disks[2], &proof::layer(&self.store, DATA, taken.point.epoch))?;
        self.line.proof("the data disk: beta's is alpha's, byte for byte");

        self.older_point(&before, &taken)?;
        let total = self.line.elapsed().as_secs_f64();
        self.line.chapter(&format!("All of it held, in {total:.0} s."));
        Ok(Outcome {
            demo: "ok",
            points: before.len(),
            rpo_s: rounded(rpo),
            rto_s: rounded(taken.output_s),
            records_lost: lost,
            consistent: true,
        })
    }

    fn start_guest(&self) -> Result<()> {
        self.line.command("alpha", &format!("vm define {VM}.toml && standin vm start {VM}"));
        let definition = self.guest.definition.to_string_lossy();
        self.primary.run(&["vm", "define", &definition])?;
        self.primary.run(&["vm", "start", VM])?;
        self.line.event("QEMU runs; Linux boots on an emulated CPU");
        self.guest.serial.wait_verified(0, BOOT)?;
        self.guest.serial.wait_written_beyond(u64::from(RATE), BOOT)?;
        self.line.event(format!("the guest writes {RATE} records a second, to its two log disks in turn"));
        self.line.note("each is numbered, checksummed, and durable before the next is begun");
        Ok(())
    }

    fn first_copy(&mut self) -> Result<()> {
        self.line.chapter("Replication");
        let to = self.replica.listen().to_string();
        let verb =
            ["replicate", VM, "--to", &to, "--interval", "5s", "--history", "24", "--keep-all-for", "1h"];
        self.line.command("alpha", &verb.join(" "));
        let begun = Instant::now();
        let status = self.primary.spawn_cli(&verb)?.wait().context("wait for the first copy")?;
        ensure!(status.success(), "the first copy failed ({status})");
        self.line.event(format!(
            "the first copy is on beta, after {:.1} s; the guest wrote all the while",
            begun.elapsed().as_secs_f64()
        ));
        self.store = proof::replica_dir(&self.replica, VM)?;
        Ok(())
    }

    /// Waits for the points, telling each. Newest first.
    fn collect_points(&self) -> Result<Vec<Point>> {
        self.line.note("every 5 s now: one instant of all disks, sent, sealed, a recovery point");
        let until = Instant::now() + Duration::from_secs(90);
        let mut told = 0;
        loop {
            let points = proof::points(&self.replica, VM)?;
            for point in points.iter().rev().filter(|point| point.epoch > told) {
                self.line.event(format!("recovery point {} is durable on beta", point.epoch));
            }
            told = points.first().map_or(told, |point| point.epoch);
            if points.len() >= POINTS {
                self.line.command("beta", &format!("points {VM}"));
                self.replica.spawn_cli(&["points", VM])?.wait().context("list the points")?;
                return Ok(points);
            }
            ensure!(Instant::now() < until, "only {} points after 90 s", points.len());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// SIGKILL to the daemon and its QEMU while a cycle is being sent. When that was, and the cycle's number.
    fn kill_primary(&mut self) -> Result<(Timestamp, u64)> {
        self.line.chapter("Alpha dies");
        let mut victims = self.primary.vm_pids();
        ensure!(victims.len() == 1, "alpha should run one QEMU, not {victims:?}");
        victims.extend(self.primary.pid());
        let cycle = proof::wait_for_cycle(&self.store, RECORDS[0], Duration::from_secs(30))?;
        for pid in &victims {
            process::signal(*pid, Signal::KILL)?;
        }
        let killed_at = Timestamp::now();
        self.primary.lose_power()?;
        self.line.event(format!("cycle {cycle} was being sent: SIGKILL to alpha's daemon and to its QEMU"));
        Ok((killed_at, cycle))
    }

    /// What is on the dead host's disks, as the measure of what was lost. And what became of the cycle.
    fn examine_ruins(&self, before: &[Point], cycle: u64) -> Result<Verdict> {
        let left = proof::judged(&self.guest.disks[0], &self.guest.disks[1], "what alpha left behind")?;
        self.line.note(format!("the last record the guest wrote on alpha is {}", left.last_sequence));
        let now = proof::points(&self.replica, VM)?;
        ensure!(
            before.iter().all(|point| now.iter().any(|other| other.id == point.id)),
            "a recovery point has gone with the primary"
        );
        let newest = now.first().map_or(0, |point| point.epoch);
        let fate =
            if newest < cycle { "did not arrive whole and does not count" } else { "had arrived whole" };
        self.line.proof(format!("every point is still there, the newest is {newest}; cycle {cycle} {fate}"));
        Ok(left)
    }

    /// Fails over to `point`, starts the VM, and checks what the guest finds against the oracle.
    fn fail_over(&self, point: &Point, latest: bool) -> Result<Taken> {
        let mut verb = vec!["failover", VM];
        if !latest {
            verb.extend(["--point", &point.id]);
        }
        verb.extend(["--start", "--yes"]);
        self.line.command("beta", &verb.join(" "));
        if let Some(old) = self.replica.replica_serial(VM) {
            // What an earlier start said must not be taken for what this one says.
            std::fs::remove_file(old.path()).context("remove the serial log of the start before")?;
        }
        let begun = Instant::now();
        self.replica.run(&verb)?;
        let process_s = begun.elapsed().as_secs_f64();
        self.line.event(format!("QEMU runs on beta, from point {}", point.epoch));
        let serial = self.serial()?;
        let (records, last) = serial.wait_verified(0, BOOT)?;
        let output_s = begun.elapsed().as_secs_f64();
        self.line.event(format!(
            "the guest has read its disks back: {records} records, the newest is {last}, none torn"
        ));
        let written = serial.wait_written_beyond(last, BOOT)?;
        self.line.event(format!("and goes on writing on beta: record {written}"));
        let verdict = proof::judge_point(&self.store, RECORDS, point)?;
        ensure!(
            (verdict.records, verdict.last_sequence) == (records, last),
            "the guest found {records} records up to {last}, the oracle {} up to {}",
            verdict.records,
            verdict.last_sequence
        );
        self.line
            .proof(format!("the oracle reads point {} with stock qemu-img and finds the same", point.epoch));
        Ok(Taken { point: point.clone(), verdict, process_s, output_s })
    }

    fn serial(&self) -> Result<SerialLog> {
        self.replica.replica_serial(VM).context("the VM on beta has no serial log")
    }

    /// Reverts, goes to an older point, commits, and judges what the guest wrote there.
    fn older_point(&self, before: &[Point], taken: &Taken) -> Result<()> {
        self.line.chapter("Was the damage older? Back, and to an earlier point");
        self.line.command("beta", &format!("failover {VM} --revert"));
        self.replica.run(&["failover", VM, "--revert"])?;
        ensure!(self.replica.vm_pids().is_empty(), "the VM still runs after the revert");
        self.line.event("the failover is undone: as if it had not been");
        let older = &before[before.len() / 2];
        let older = self.fail_over(older, false)?;
        ensure!(
            older.verdict.last_sequence < taken.verdict.last_sequence,
            "the older point is not older: it has record {}",
            older.verdict.last_sequence
        );
        self.line.command("beta", &format!("failover {VM} --commit"));
        self.replica.run(&["failover", VM, "--commit"])?;
        self.line.event("committed: this is the VM now");
        self.replica.run(&["vm", "stop", VM])?;
        let vm = self.replica.json(&["vm", "show", VM])?;
        let disk = |name: &str| {
            let disks = vm["disks"].as_array().into_iter().flatten();
            let path = disks.filter(|disk| disk["name"] == name).find_map(|disk| disk["path"].as_str());
            path.map(PathBuf::from).with_context(|| format!("the VM on beta has no disk {name}: {vm}"))
        };
        let end = proof::judged(&disk(RECORDS[0])?, &disk(RECORDS[1])?, "the committed VM")?;
        ensure!(end.last_sequence > older.verdict.last_sequence, "nothing was written after the failover");
        ensure!(end.runs == 2, "the records should be of two boots, not of {}", end.runs);
        self.line.event("the VM was shut down");
        self.line.proof(format!(
            "one unbroken history of {} records: up to {} written on alpha, the others on beta",
            end.last_sequence, older.verdict.last_sequence
        ));
        Ok(())
    }
}
