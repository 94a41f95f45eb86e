//! `standin store`: the replicas' disks on this host.

use super::Wait;
use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

/// `standin store`
#[derive(Debug, ClapArgs)]
pub struct Store {
    /// What to do.
    #[command(subcommand)]
    pub verb: StoreVerb,
}

/// What to do with the replicas' disks.
#[derive(Debug, Subcommand)]
pub enum StoreVerb {
    /// List every directory of a replica: those in use, those that were kept, those that cannot be opened
    List,
    /// Read every block, verify every digest, and say which recovery points are good
    Check {
        /// Name or UUID of one VM [default: all replicas of this host]
        vm: Option<String>,
        /// Whether to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Build the manifest of a replica again after both copies of it were lost, and prove every recovery point
    #[command(after_help = REPAIR_HELP)]
    Repair {
        /// Name or UUID of the VM
        vm: String,
        /// Whether to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Make a directory that was kept the replica of its VM again, with its recovery points
    #[command(after_help = ADOPT_HELP)]
    Adopt {
        /// The directory, as `standin store list` shows it
        directory: PathBuf,
    },
    /// Delete a directory that no replica uses, with its recovery points
    #[command(after_help = REMOVE_HELP)]
    Remove {
        /// The directory, as `standin store list` shows it
        directory: PathBuf,
        /// Delete it without a question
        #[arg(long, short)]
        yes: bool,
    },
}

const REPAIR_HELP: &str = "\
Reads all of the replica. A recovery point is offered again only when its disks are proven to be what was sealed; what \
is not offered is said, and no file is deleted.
  standin store repair web";

const ADOPT_HELP: &str = "\
Only where the VM has no other replica on this host. Nothing is sent to it until its VM is replicated here again; its \
recovery points can be failed over to.
  standin store adopt /var/lib/standin/replicas/web-6f2c1f0e-....kept-1764518400";

const REMOVE_HELP: &str = "\
Refuses the replica of a VM and whatever a VM of this host has disks in.
  standin store remove /var/lib/standin/replicas/web-6f2c1f0e-....kept-1764518400";
