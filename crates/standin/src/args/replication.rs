//! The verbs of replication: `replicate`, `status`, `points`, `failover`, `jobs` and their neighbours.

use super::Wait;
use crate::units::{parse_duration, parse_size};
use clap::{Args as ClapArgs, Subcommand};
use std::time::Duration;

const REPLICATE_HELP: &str = "\
Examples:
  standin replicate web --to replica.example.org
  standin replicate db --to replica:28444 --interval 5s --history 24 --application-consistent-hours 1

Before: both hosts know each other (`standin pki`, `standin enroll`), and the other host lets this one in \
(`standin auth add` there).";

const FAILOVER_HELP: &str = "\
Examples, all on the replica host:
  standin failover web --start             to the latest point, and start the VM
  standin failover web --start --yes       the same when the primary is known to be down
  standin failover web --point 41 --start  to the point of epoch 41
  standin failover web --dry-run           only say what it would meet
  standin failover web --revert            throw that away and go on as before
  standin failover web --commit            keep it for good; other points go

With --start the primary is asked first. When it runs the VM, nothing is done without --force; when it does not answer, \
somebody has to say that it is down: at the prompt, or by --yes.

A failover is instant at any size of the disks. It can be reverted, and another point tried, until it is committed.";

/// A verb about one VM that starts a job.
#[derive(Debug, ClapArgs)]
pub struct WaitingVm {
    /// Name or UUID of the VM
    pub vm: String,
    /// Whether to wait.
    #[command(flatten)]
    pub wait: Wait,
}

/// `standin replicate`
#[derive(Debug, ClapArgs)]
#[command(after_help = REPLICATE_HELP)]
pub struct Replicate {
    /// Name or UUID of a VM of this host
    pub vm: String,
    /// The host to replicate to; the port is 28444 unless given
    #[arg(long, value_name = "HOST[:PORT]")]
    pub to: String,
    /// How often to send what changed: 1s to 24h
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    pub interval: Duration,
    /// How many hourly recovery points to keep beyond the latest: 0 to 24
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub history: u32,
    /// Keep every recovery point of this long besides the hourly ones, as in 1h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub keep_all_for: Option<Duration>,
    /// Replicate only these disks, by name [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub disks: Vec<String>,
    /// Make the relationship, but do not start the first copy yet
    #[arg(long)]
    pub no_start: bool,
    /// Send blocks as they are, for links that are faster than a processor compresses
    #[arg(long)]
    pub no_compression: bool,
    /// How finely changes are tracked, a power of two from 4KiB to 1MiB [default: the daemon's choice]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub granularity: Option<u64>,
    /// Make an application-consistent point every N hours, 1 to 12; needs the guest agent and a history
    #[arg(long, value_name = "N")]
    pub application_consistent_hours: Option<u32>,
    /// Whether to wait.
    #[command(flatten)]
    pub wait: Wait,
}

/// `standin status`
#[derive(Debug, ClapArgs)]
pub struct Status {
    /// Name or UUID of one VM, for all that is known about it
    pub vm: Option<String>,
}

/// `standin point`
#[derive(Debug, ClapArgs)]
pub struct Point {
    /// Name or UUID of the VM
    pub vm: String,
    /// Have the guest agent freeze the file systems at the instant of the cut
    #[arg(long)]
    pub application_consistent: bool,
    /// Whether to wait.
    #[command(flatten)]
    pub wait: Wait,
}

/// `standin points`
#[derive(Debug, ClapArgs)]
pub struct Points {
    /// Name or UUID of the VM
    pub vm: String,
    /// Keep this point until it is unpinned, whatever the retention: its epoch, its id, or the beginning of that
    #[arg(long, value_name = "POINT", conflicts_with = "unpin")]
    pub pin: Option<String>,
    /// Let retention drop this point again
    #[arg(long, value_name = "POINT")]
    pub unpin: Option<String>,
}

/// `standin failover`
#[derive(Debug, ClapArgs)]
#[command(after_help = FAILOVER_HELP)]
pub struct Failover {
    /// Name or UUID of the VM
    pub vm: String,
    /// The recovery point: its id or the beginning of it, its epoch, or `latest`
    #[arg(long, value_name = "POINT")]
    pub point: Option<String>,
    /// Start the VM on that point
    #[arg(long)]
    pub start: bool,
    /// The primary is down, do not ask; counts only while it does not answer
    #[arg(long, short)]
    pub yes: bool,
    /// The primary is fenced off: start although it says that it runs the VM
    #[arg(long)]
    pub force: bool,
    /// Only say what the failover would meet: the point, what the primary answers, and what it does while it is silent
    #[arg(long, conflicts_with_all = ["revert", "commit", "keep", "yes", "force"])]
    pub dry_run: bool,
    /// Undo a failover that is not committed; what the VM wrote since is lost
    #[arg(long, conflicts_with_all = ["point", "start", "commit"])]
    pub revert: bool,
    /// Keep a failover for good; the other recovery points go
    #[arg(long, conflicts_with_all = ["point", "start"])]
    pub commit: bool,
    /// After both hosts were forced to run the VM: keep this host's copy, or the other one's; the other copy is stopped, and
    /// what it wrote is kept as a pinned recovery point, or in its disks
    #[arg(long, value_name = "WHERE", conflicts_with_all = ["point", "start", "revert", "commit"])]
    pub keep: Option<Keep>,
    /// Whether to wait.
    #[command(flatten)]
    pub wait: Wait,
}

/// Which of two copies stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Keep {
    /// That of this host.
    Here,
    /// That of the other host.
    There,
}

/// `standin jobs`
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Jobs {
    /// The id of one job, or the beginning of it
    pub id: Option<String>,
    /// Follow it to its end; without an id, follow all jobs until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// What to do instead of listing.
    #[command(subcommand)]
    pub verb: Option<JobsVerb>,
}

/// What to do with a job.
#[derive(Debug, Subcommand)]
pub enum JobsVerb {
    /// Ask a running job to end; not every job can be cancelled
    Cancel {
        /// The id of the job, or the beginning of it
        id: String,
    },
}
