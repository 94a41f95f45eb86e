//! `standin vm ...`

use crate::units::parse_duration;
use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// `standin vm`
#[derive(Debug, ClapArgs)]
pub struct Vm {
    /// What to do.
    #[command(subcommand)]
    pub verb: VmVerb,
}

const DEFINE_HELP: &str = "\
The file, in full:
  name = \"web\"
  memory_mib = 1024
  vcpus = 2
  [[disks]]
  name = \"root\"
  file = \"web.qcow2\"     # beside this file, or an absolute path
  format = \"qcow2\"
More keys: uuid, machine, firmware, kernel, initrd, cmdline, nics, serial_log, guest_agent, extra_args.";

/// What to do with the VMs of this host.
#[derive(Debug, Subcommand)]
pub enum VmVerb {
    /// Make a VM known from a TOML file, or change one that is off
    #[command(after_help = DEFINE_HELP)]
    Define {
        /// The definition; `-` reads it from the standard input
        file: PathBuf,
    },
    /// All VMs of this host
    List,
    /// One VM with its disks
    Show {
        /// Name or UUID
        vm: String,
    },
    /// Start a VM that is off, or continue one that is paused, if it can run nowhere else
    #[command(after_help = START_HELP)]
    Start(Start),
    /// Ask the guest to shut down, and wait until it did
    Stop(Stop),
    /// Make a running QEMU known that somebody else started; standin tracks it but does not start it
    Adopt(Adopt),
    /// Forget where a VM lives that no relationship has any more: the record that keeps it from running twice
    Forget {
        /// Name or UUID
        vm: String,
    },
    /// Forget a VM that is off, or an adopted one; its disks stay
    Remove {
        /// Name or UUID
        vm: String,
    },
}

const START_HELP: &str = "\
A VM that was replicated asks the other hosts before it starts. What to do when one does not answer is \
when_peer_is_silent in the configuration.";

/// `standin vm start`
#[derive(Debug, ClapArgs)]
pub struct Start {
    /// Name or UUID
    pub vm: String,
    /// After a failover: the primary is down; counts only while it does not answer
    #[arg(long, short)]
    pub yes: bool,
    /// Start it although another host may run it; both copies then write, and one of them is lost
    #[arg(long)]
    pub force: bool,
}

/// `standin vm stop`
#[derive(Debug, ClapArgs)]
pub struct Stop {
    /// Name or UUID
    pub vm: String,
    /// Pull the plug at once instead of asking the guest
    #[arg(long)]
    pub force: bool,
    /// How long the guest may take to shut down; it is left running after that
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// `standin vm adopt`
#[derive(Debug, ClapArgs)]
pub struct Adopt {
    /// The unix socket of its QMP monitor
    #[arg(long, value_name = "SOCKET")]
    pub qmp: PathBuf,
    /// What to call it [default: the name that QEMU was given]
    #[arg(long)]
    pub name: Option<String>,
    /// Adopt it although another host may run the same VM
    #[arg(long)]
    pub force: bool,
}
