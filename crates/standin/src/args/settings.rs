//! `standin set` and `standin rename`.

use crate::units::{parse_duration, parse_size};
use clap::{Args as ClapArgs, ValueEnum};
use std::time::Duration;

const SET_HELP: &str = "\
Examples, on the primary host:
  standin set web                                  what was agreed
  standin set web --interval 30s --history 24
  standin set web --keep-all-for 0s                no longer keep every point
  standin set web --to 192.0.2.8                   the replica has another address now
  standin set web --when-peer-is-silent \"start-after 2m\"

What is not named stays as it is. An address is taken only if the host there is the replica's: it has the same name in \
its certificate, and this VM's replica. The disks that replicate and the granularity cannot be changed in place.";

const RENAME_HELP: &str = "\
Examples:
  standin rename web web-2

A VM has a name on each host. On its primary host the definition changes, also while the VM runs; on the replica host \
the name that it has there, which a failover gives to the VM. The other host keeps its own: `standin status` on the \
replica host shows both.";

/// `on` or `off`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// `standin set`
#[derive(Debug, ClapArgs)]
#[command(after_help = SET_HELP)]
pub struct Set {
    /// Name or UUID of a VM that replicates
    pub vm: String,
    /// Where the same replica is found now; the port is 28444 unless given
    #[arg(long, value_name = "HOST[:PORT]")]
    pub to: Option<String>,
    /// How often to send what changed: 1s to 24h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub interval: Option<Duration>,
    /// How many hourly recovery points to keep beyond the latest: 0 to 24
    #[arg(long, value_name = "N")]
    pub history: Option<u32>,
    /// Keep every recovery point of this long besides the hourly ones, as in 1h; 0s for no longer
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub keep_all_for: Option<Duration>,
    /// Make an application-consistent point every N hours, 1 to 12; 0 for none
    #[arg(long, value_name = "N")]
    pub application_consistent_hours: Option<u32>,
    /// How long the guest may stay frozen for such a point: 1s to 60s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub freeze_deadline: Option<Duration>,
    /// Compress blocks on the wire
    #[arg(long, value_name = "on|off")]
    pub compression: Option<Switch>,
    /// Resynchronize without being asked when the change tracking is lost
    #[arg(long, value_name = "on|off")]
    pub auto_resync: Option<Switch>,
    /// Give a cycle up before less than this is free in the scratch directory
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub scratch_reserve: Option<u64>,
    /// When another host that could run the VM does not answer a start here: refuse, "start-after 2m", or default for
    /// what this host is configured to; on either host, for that host
    #[arg(long, value_name = "WHAT")]
    pub when_peer_is_silent: Option<String>,
    /// Cannot be changed; refused unless it is as it was
    #[arg(long, value_name = "SIZE", value_parser = parse_size, hide = true)]
    pub granularity: Option<u64>,
    /// Cannot be changed; refused unless they are as they were
    #[arg(long, value_name = "NAME", value_delimiter = ',', hide = true)]
    pub disks: Option<Vec<String>>,
}

/// `standin rename`
#[derive(Debug, ClapArgs)]
#[command(after_help = RENAME_HELP)]
pub struct Rename {
    /// Name or UUID of a VM of this host
    pub vm: String,
    /// Its new name on this host
    pub name: String,
}
