//! What can happen to hosts and a VM: the steps of a schedule. Printed with `{:?}` they are Rust, so that a schedule that
//! failed can be pasted into a test.

use std::fmt;

/// A host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    A,
    B,
    C,
}

impl Host {
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::C];

    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
        }
    }

    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name of its certificate: its first one, and those of its later names.
    pub fn certificate(self, renamed: u32) -> String {
        let number = if renamed == 0 { String::new() } else { renamed.to_string() };
        format!("{}{number}.example.org", self.name())
    }

    pub fn address(self) -> String {
        format!("{}.example.org:28444", self.name())
    }
}

/// What somebody asserts with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Says {
    /// Nothing.
    Nothing,
    /// `--yes`, or the answer to the prompt: the other host is down.
    Silent,
    /// `--force`.
    Force,
}

/// What of a data directory an older backup puts back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    All,
    Records,
    Claims,
    Disks,
}

/// What a host does with the copy that has the lower claim, when it meets another one that runs the VM too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BothRun {
    Pause,
    PowerOff,
    Leave,
}

/// What a host does at the start of a failover with a primary that runs the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OverRunning {
    RefuseStart,
    PauseFirst,
}

/// What the `fence_command` of a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fences {
    /// There is none.
    No,
    /// It turns the other host off.
    Works,
    /// It cannot, and says so.
    Fails,
}

/// `[fence]` of a host's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Setup {
    pub both_run: BothRun,
    pub over_running: OverRunning,
    /// Its witness.
    pub witness: Option<Host>,
    pub fences: Fences,
}

impl Setup {
    /// As it is without a word in the configuration.
    pub const DEFAULT: Self = Self {
        both_run: BothRun::Pause,
        over_running: OverRunning::RefuseStart,
        witness: None,
        fences: Fences::No,
    };

    /// The same with a witness.
    pub const fn witness(self, witness: Host) -> Self {
        Self { witness: Some(witness), ..self }
    }
}

/// Before or after a durable step took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum When {
    Before,
    After,
}

/// A daemon dies at its n-th durable step after a command was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    pub host: Host,
    pub n: u32,
    pub when: When,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    // Operators and API clients, on a host.
    Replicate {
        from: Host,
        to: Host,
    },
    Unreplicate {
        on: Host,
    },
    VmStart {
        on: Host,
        says: Says,
    },
    VmStop {
        on: Host,
    },
    VmKill {
        on: Host,
    },
    VmPause {
        on: Host,
    },
    VmResume {
        on: Host,
        says: Says,
    },
    VmRemove {
        on: Host,
    },
    Suspend {
        on: Host,
    },
    GoOn {
        on: Host,
    },
    Point {
        on: Host,
    },
    Failover {
        on: Host,
        start: bool,
        says: Says,
    },
    /// `InitiateFailover` of the management API, which has no prompt.
    InitiateFailover {
        on: Host,
    },
    Revert {
        on: Host,
    },
    Commit {
        on: Host,
    },
    AuthRemove {
        on: Host,
        of: Host,
    },
    AuthAdd {
        on: Host,
        of: Host,
    },
    Resync {
        on: Host,
    },
    Resolve {
        on: Host,
        keep: bool,
    },
    Forget {
        on: Host,
    },
    Recovery {
        on: Host,
        enabled: bool,
    },
    StartAfter {
        on: Host,
        seconds: Option<u32>,
    },
    /// A VM of the same id is defined by hand, over a disk of its own.
    Define {
        on: Host,
    },
    /// Somebody starts a QEMU of the same id by hand, over a disk of its own, and has it adopted.
    Adopt {
        on: Host,
        says: Says,
    },
    /// `standin peer rebind`: the id of a host is bound to the certificate that it has now.
    Rebind {
        on: Host,
        of: Host,
    },
    /// `[fence]` of its configuration is changed, and the daemon restarted.
    Configure {
        on: Host,
        setup: Setup,
    },
    /// It gets a certificate with another name, and the daemon is restarted.
    Rename {
        of: Host,
    },
    // What hosts and networks do by themselves.
    GuestWrites {
        on: Host,
    },
    GuestDies {
        on: Host,
    },
    DaemonDies {
        on: Host,
    },
    DaemonStops {
        on: Host,
    },
    DaemonStarts {
        on: Host,
    },
    HostDies {
        on: Host,
    },
    Backup {
        of: Host,
    },
    Restore {
        of: Host,
        part: Part,
    },
    LoseRecords {
        of: Host,
    },
    Cut {
        one: Host,
        other: Host,
    },
    Hold {
        from: Host,
        to: Host,
    },
    Lose {
        from: Host,
        to: Host,
    },
    Mend {
        one: Host,
        other: Host,
    },
    ClockJumps {
        on: Host,
        seconds: i32,
    },
    Passes {
        seconds: u32,
    },
}

impl What {
    /// Every kind.
    pub const KINDS: [&str; 42] = [
        "Replicate",
        "Unreplicate",
        "VmStart",
        "VmStop",
        "VmKill",
        "VmPause",
        "VmResume",
        "VmRemove",
        "Suspend",
        "GoOn",
        "Point",
        "Failover",
        "InitiateFailover",
        "Revert",
        "Commit",
        "AuthRemove",
        "AuthAdd",
        "Resync",
        "Resolve",
        "Forget",
        "Recovery",
        "StartAfter",
        "Define",
        "Adopt",
        "Rebind",
        "Configure",
        "Rename",
        "GuestWrites",
        "GuestDies",
        "DaemonDies",
        "DaemonStops",
        "DaemonStarts",
        "HostDies",
        "Backup",
        "Restore",
        "LoseRecords",
        "Cut",
        "Hold",
        "Lose",
        "Mend",
        "ClockJumps",
        "Passes",
    ];

    /// It may take recovery points away.
    pub const fn may_drop_points(&self) -> bool {
        matches!(self, Self::Unreplicate { .. } | Self::Replicate { .. } | Self::Commit { .. })
    }

    /// The kind of the step, for the table of what was covered.
    pub fn kind(&self) -> String {
        let whole = format!("{self:?}");
        whole.split(' ').next().unwrap_or_default().to_owned()
    }
}

/// Something happens, and then time passes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub what: What,
    pub crash: Option<Crash>,
    /// The next step does not wait for the end of this one.
    pub beside: bool,
    /// Simulated time until the next step.
    pub then_ms: u32,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step({:?}, {})", self.what, self.then_ms)?;
        if let Some(Crash { host, n, when }) = self.crash {
            write!(f, ".crash({host:?}, {n}, {when:?})")?;
        }
        if self.beside {
            f.write_str(".beside()")?;
        }
        Ok(())
    }
}

/// A step that is waited for.
pub const fn step(what: What, then_ms: u32) -> Step {
    Step { what, crash: None, beside: false, then_ms }
}

impl Step {
    pub const fn crash(self, host: Host, n: u32, when: When) -> Self {
        Self { crash: Some(Crash { host, n, when }), ..self }
    }

    pub const fn beside(self) -> Self {
        Self { beside: true, ..self }
    }
}

/// How a schedule begins: the hosts, and the steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub hosts: usize,
    pub interval_s: u32,
    pub steps: Vec<Step>,
}

impl Schedule {
    /// As the call of a named test.
    pub fn as_rust(&self) -> String {
        let steps: Vec<String> = self.steps.iter().map(|step| format!("        {step:?},")).collect();
        format!("replay({}, {}, &[\n{}\n    ])", self.hosts, self.interval_s, steps.join("\n"))
    }
}
