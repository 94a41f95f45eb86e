//! The command line as it is typed: plain structs, filled by clap, one variant a verb. Nothing here is checked
//! beyond its spelling; [`crate::cli`] turns the structs into requests. Help texts live here only.

mod admin;
mod cim;
mod network;
mod replication;
mod settings;
mod store;
mod user;
mod vm;

pub use admin::{
    Auth, AuthAdd, AuthVerb, Enroll, Peer, PeerVerb, Pki, PkiExport, PkiImport, PkiInit, PkiVerb, Serve,
};
pub use cim::{Cim, CimVerb, Namespace};
pub use network::Network;
pub use replication::{Failover, Jobs, JobsVerb, Keep, Point, Points, Replicate, Status, WaitingVm};
pub use settings::{Rename, Set, Switch};
pub use store::{Store, StoreVerb};
pub use user::{Password, User, UserAdd, UserVerb};
pub use vm::{Adopt, Start, Stop, Vm, VmVerb};

use clap::{Args as ClapArgs, Parser, Subcommand};
use std::path::PathBuf;

const ABOUT: &str = "Keeps a stand-in of a virtual machine ready on another host";

const LONG_ABOUT: &str = "\
standin replicates the disks of running QEMU/KVM virtual machines to another host, keeps recovery points there \
that boot, and fails over to any of them.

`standin serve` is the daemon, one on each host. Every other verb asks the daemon of this host over its unix \
socket. A VM is named by its name or its UUID.";

const EXAMPLES: &str = "\
Examples:
  On both hosts:          standin serve
  A new VM:               standin vm define web.toml && standin vm start web
  Replicate it:           standin replicate web --to replica.example.org --interval 30s
  How is it?              standin status
  What can I go back to?  standin points web          (on the replica)
  The primary is gone:    standin failover web --start (on the replica)

Exit status:
  0 done, 2 wrong command line, 3 refused (nothing was changed), 4 the job failed, 5 no daemon answers,
  1 something else on this machine failed, 130 Ctrl-C while waiting (the job goes on)";

/// Everything on the command line.
#[derive(Debug, Parser)]
#[command(name = "standin", version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
#[command(max_term_width = 110)]
pub struct Args {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, ClapArgs)]
pub struct Global {
    /// The daemon's unix socket [default: the configuration's, else /run/standin/standin.sock]
    #[arg(long, global = true, env = "STANDIN_SOCKET", value_name = "PATH", help_heading = "Global options")]
    pub socket: Option<PathBuf>,
    /// The configuration file [default: /etc/standin/standin.toml, if there is one]
    #[arg(long, global = true, env = "STANDIN_CONFIG", value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

/// Whether to wait for the job that a verb starts.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub struct Wait {
    /// Print the job and return at once instead of waiting for its end
    #[arg(long)]
    pub no_wait: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the daemon of this host
    Serve(Serve),
    /// Define, start, stop and list the VMs of this host
    Vm(Vm),
    /// The certificates with which hosts know each other
    Pki(Pki),
    /// Let a new host join: make a one-time token here, use it there
    Enroll(Enroll),
    /// Which hosts may replicate to this one, and where their replicas are stored
    Auth(Auth),
    /// The hosts that this one has met
    Peer(Peer),
    /// Who may use the management API of this host, and what he may do
    User(User),
    /// Replicate a VM to another host
    Replicate(Replicate),
    /// How the replication of every VM, or of one, is doing
    Status(Status),
    /// The recovery points of a VM, newest first
    Points(Points),
    /// Pause the replication of a VM; changes are still recorded
    Suspend(WaitingVm),
    /// Go on with a paused replication, or try again one that is critical
    Resume(WaitingVm),
    /// Stop replicating a VM and forget the relationship; its disks stay, here and there
    Unreplicate(WaitingVm),
    /// Make a recovery point now
    Point(Point),
    /// On the replica: fail over to a recovery point, revert that, or commit it
    Failover(Failover),
    /// Show what was agreed of a VM's replication, or change it in place
    Set(Set),
    /// Give a VM another name on this host
    Rename(Rename),
    /// What a VM's network cards get at a failover: addresses, gateways, DNS servers
    Network(Network),
    /// Running and recent jobs
    Jobs(Jobs),
    /// Compare a replica with its VM and send what differs; recovery points stay
    Resync(WaitingVm),
    /// The replicas' disks on this host
    Store(Store),
    /// The classes of the management API
    Cim(Cim),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    fn verb(line: &str) -> Verb {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).verb
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_line_of_the_documented_command_line_is_understood() {
        for line in [
            "standin serve",
            "standin serve --config /etc/x.toml",
            "standin vm define web.toml",
            "standin vm list --json",
            "standin vm show web",
            "standin vm start web",
            "standin vm stop web --force",
            "standin vm stop web --timeout 90s",
            "standin vm adopt --qmp /run/q.sock --name web",
            "standin vm remove web",
            "standin pki init --name a.example.org --name a --force",
            "standin pki show",
            "standin pki renew",
            "standin pki renew --from a.example.org:28444",
            "standin enroll --new b.example.org",
            "standin enroll --new b --name 10.0.0.2 --address a:28444 --valid 1h",
            "standin enroll abcdef",
            "standin auth add *.example.org --trust-group lab --storage /srv/replicas",
            "standin auth list",
            "standin auth remove 6f2c",
            "standin auth remove *.example.org",
            "standin user add alice --role administrator --ntlm",
            "standin user add backup --certificate CN=backup --no-password",
            "standin user add carol --principal carol@EXAMPLE.ORG --password-stdin",
            "standin user list",
            "standin user passwd alice --password-stdin --no-ntlm",
            "standin user remove alice",
            "standin replicate web --to b:28444 --interval 30s --history 24 --disks a,b --no-start --no-wait",
            "standin replicate web --to b --no-compression --granularity 64KiB --application-consistent-hours 1",
            "standin --socket /run/x.sock status",
            "standin status web",
            "standin points web --json",
            "standin suspend web",
            "standin resume web --no-wait",
            "standin unreplicate web",
            "standin point web --application-consistent",
            "standin failover web",
            "standin failover web --point latest --start",
            "standin failover web --revert",
            "standin failover web --commit --no-wait",
            "standin set web",
            "standin set web --interval 30s --history 24 --keep-all-for 1h --application-consistent-hours 4",
            "standin set web --compression off --auto-resync on --freeze-deadline 20s --scratch-reserve 2GiB --json",
            "standin set web --to 192.0.2.8:28444",
            "standin set web --keep-all-for 0s",
            "standin rename web shop",
            "standin network web",
            "standin network web --adapter lan --address 192.0.2.5/24 --address 2001:db8::5/64 --dns 192.0.2.53",
            "standin network web --dhcp --json",
            "standin network web --adapter 52:54:00:12:34:56 --clear",
            "standin jobs",
            "standin jobs 6f2c --watch",
            "standin jobs cancel 6f2c",
            "standin resync web",
            "standin store check",
            "standin store check web",
            "standin store list --json",
            "standin store repair web --no-wait",
            "standin store adopt /srv/replicas/web-6f2c.kept-17",
            "standin store remove /srv/replicas/web-6f2c.kept-17 --yes",
            "standin pki export /root/authority.json --passphrase-file -",
            "standin pki import /root/authority.json --name b.example.org --force",
            "standin pki trust other.crt",
            "standin cim mof",
            "standin cim mof --namespace interop",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn help_of_a_verb_has_its_examples() {
        for (line, example) in [
            ("standin help replicate", "standin replicate db --to replica:28444"),
            ("standin replicate --help", "standin replicate db --to replica:28444"),
            ("standin help set", "standin set web --to 192.0.2.8"),
            ("standin help rename", "standin rename web web-2"),
            ("standin help auth remove", "standin auth remove '*.example.org'"),
        ] {
            let help = parse(line).expect_err("help ends the parsing");
            assert_eq!((help.kind(), help.exit_code()), (clap::error::ErrorKind::DisplayHelp, 0), "{line}");
            assert!(help.to_string().contains(example), "{line}: {help}");
        }
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for line in [
            "standin",
            "standin frobnicate",
            "standin failover web --revert --commit",
            "standin failover web --revert --start",
            "standin failover web --commit --point 3",
            "standin enroll",
            "standin user add alice --no-password",
            "standin user add alice --role boss",
            "standin user add alice --no-password --ntlm --certificate CN=a",
            "standin user passwd alice --ntlm --no-ntlm",
            "standin enroll abc --new b",
            "standin enroll abc --name b",
            "standin replicate web",
            "standin replicate web --to b --interval soon",
            "standin set web --interval soon",
            "standin set web --compression maybe",
            "standin set",
            "standin rename web",
            "standin replicate web --to b --granularity large",
            "standin vm adopt --name web",
            "standin vm stop web --timeout never",
            "standin jobs 6f2c cancel",
            "standin network web --address 192.0.2.5",
            "standin network web --address 192.0.2.0/24",
            "standin network web --clear --dhcp",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn disks_are_a_comma_separated_list() {
        let Verb::Replicate(replicate) = verb("standin replicate web --to b --disks root,data") else {
            panic!("not the replicate verb");
        };
        assert_eq!(replicate.disks, ["root", "data"]);
        assert_eq!(replicate.interval.as_secs(), 300);
        assert_eq!(replicate.history, 0);
    }

    #[test]
    fn a_job_and_a_verb_of_jobs_are_told_apart() {
        let Verb::Jobs(jobs) = verb("standin jobs cancel 6f2c") else { panic!("not the jobs verb") };
        assert!(matches!(jobs.verb, Some(JobsVerb::Cancel { ref id }) if id == "6f2c"));
        let Verb::Jobs(jobs) = verb("standin jobs 6f2c --watch") else { panic!("not the jobs verb") };
        assert!(jobs.watch && jobs.id.as_deref() == Some("6f2c") && jobs.verb.is_none());
    }
}
