//! What can go wrong between standin and a hypervisor. Every error says what happened and to which VM or disk;
//! [`Error::remedy`] says what to do now. Callers branch on the variant, people read the text.

use standin_model::{DiskName, VmId, VmName};
use std::path::PathBuf;
use std::time::Duration;

/// The error of every call in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No VM of that id is defined or adopted.
    #[error("no VM with id {0} is known on this host")]
    UnknownVm(VmId),

    /// The VM has no such disk.
    #[error("VM {vm} has no disk named {disk}")]
    UnknownDisk {
        /// Which VM.
        vm: VmId,
        /// The name that was asked for.
        disk: DiskName,
    },

    /// The operation needs the VM to be off.
    #[error("VM {0} is running")]
    AlreadyRunning(VmId),

    /// The operation needs the VM to run.
    #[error("VM {0} is not running")]
    NotRunning(VmId),

    /// Another VM has that name.
    #[error("the name {name} already belongs to VM {owner}")]
    AlreadyDefined {
        /// The name that was asked for.
        name: VmName,
        /// Who has it.
        owner: VmId,
    },

    /// A VM of that id is known already, and was not to be replaced.
    #[error("VM {0} exists on this host")]
    VmExists(VmId),

    /// standin only watches this VM; somebody else starts it and stops it.
    #[error("standin does not {operation} VM {vm}: it was adopted")]
    Adopted {
        /// Which VM.
        vm: VmId,
        /// The verb that was refused, as in "start".
        operation: &'static str,
    },

    /// This hypervisor, this version of it or this layout cannot do it.
    #[error("{feature} is not supported here: {detail}")]
    Unsupported {
        /// What was needed.
        feature: String,
        /// Why it is not there.
        detail: String,
    },

    /// The paths of sockets in the runtime directory would be longer than the system takes.
    #[error("the path of the runtime directory {} has {length} bytes", dir.display())]
    RuntimeDir {
        /// The directory.
        dir: PathBuf,
        /// Bytes of its path.
        length: usize,
        /// How many it may have.
        most: usize,
    },

    /// A disk cannot be used as it is.
    #[error("disk {disk}: {problem}")]
    DiskProblem {
        /// Which disk.
        disk: DiskName,
        /// What is wrong with it.
        problem: String,
    },

    /// A mark that a request names does not record on this disk.
    #[error("disk {disk} has no usable mark {mark}: what changed since then is not known")]
    NoMark {
        /// Which disk.
        disk: DiskName,
        /// Epoch and pass of the mark.
        mark: String,
    },

    /// The hypervisor process of a VM did not come up.
    #[error("VM {vm} did not start: {detail}")]
    StartFailed {
        /// Which VM.
        vm: VmId,
        /// What the process said.
        detail: String,
    },

    /// It did not end in time. Nothing was forced.
    #[error("{what} did not end within {after:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },

    /// QEMU refused a command.
    #[error("QEMU refused {command}: {desc} ({class})")]
    Qmp {
        /// The command.
        command: String,
        /// QEMU's error class.
        class: String,
        /// QEMU's description.
        desc: String,
    },

    /// A monitor or agent socket could not be reached, broke, or spoke nonsense.
    #[error("connection to {peer}: {detail}")]
    Connection {
        /// Which socket.
        peer: String,
        /// What happened.
        detail: String,
    },

    /// The guest agent refused, lied or did not answer.
    #[error("guest agent: {0}")]
    Agent(String),

    /// There is too little room for the old data of overwritten blocks.
    #[error("{free} bytes are free in the scratch directory {dir:?}, and {reserve} have to stay free")]
    ScratchSpace {
        /// The directory.
        dir: PathBuf,
        /// Free bytes there.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
    },

    /// A definition that cannot be used.
    #[error("VM definition: {0}")]
    Definition(String),

    /// A file or process operation failed.
    #[error("{context}: {source}")]
    Io {
        /// Verb and object.
        context: String,
        /// The system's reason.
        source: std::io::Error,
    },

    /// Reading an exported disk failed.
    #[error("{context}: {detail}")]
    Read {
        /// Verb and object.
        context: String,
        /// The reason.
        detail: String,
    },

    /// An open view can no longer be trusted.
    #[error("the view of the VM's disks failed: {0}")]
    View(String),

    /// A bug in this crate or an answer that cannot be: never data loss, always reported.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<standin_durable::FileError> for Error {
    fn from(error: standin_durable::FileError) -> Self {
        Self::Io { context: format!("{} {}", error.verb, error.path.display()), source: error.source }
    }
}

impl Error {
    /// An I/O error with its context, for `map_err`.
    pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }

    /// What to do now. A full sentence for the person who asked for the operation.
    #[must_use]
    pub fn remedy(&self) -> String {
        let fixed = match self {
            Self::RuntimeDir { most, .. } => {
                return format!(
                    "Sockets are named by the whole identity of their VM: set runtime_dir in the configuration to a path \
                     of at most {most} bytes."
                );
            }
            Self::UnknownVm(_) => "List the VMs of this host and use the name or id of one of them.",
            Self::UnknownDisk { .. } => "Show the VM and use the name of one of its disks.",
            Self::AlreadyRunning(_) => "Shut the VM down first.",
            Self::NotRunning(_) => "`standin vm start VM` starts it, if it should run.",
            Self::AlreadyDefined { .. } => "Choose another name, or remove the other VM first.",
            Self::VmExists(_) => {
                "Look at it with `standin vm show`; move it to another host, or remove it, before it is defined anew."
            }
            Self::Adopted { .. } => "Do it with the tool that started the VM.",
            Self::Unsupported { .. } => "Use QEMU 7.2 or later and a raw or qcow2 disk.",
            Self::DiskProblem { .. } => "Correct the disk or the VM's definition and try again.",
            Self::NoMark { .. } => "Resynchronize: the disks are compared and what differs is sent.",
            // QEMU's helper puts a card on a bridge only where this file allows it, whoever asks.
            Self::StartFailed { detail, .. } if detail.contains("bridge helper") => {
                "Allow the bridge on this host: a line `allow BRIDGE` in /etc/qemu/bridge.conf, and see that the \
                 bridge exists (`ip link show BRIDGE`)."
            }
            Self::StartFailed { .. } => "Correct what the hypervisor complains about and start the VM again.",
            Self::Timeout { .. } => {
                "Look whether the VM still reacts; if the guest ignores it, power it off."
            }
            Self::Qmp { .. } => "See the VM's log; if the reason is not the VM's, report it as a bug.",
            Self::Connection { .. } => "Check that the VM's process runs and that its socket is reachable.",
            Self::Agent(_) => "Check that the guest agent is installed and runs in the guest.",
            Self::ScratchSpace { .. } => "Free space there, or configure a larger scratch directory.",
            Self::Definition(_) => "Correct the definition and define the VM again.",
            Self::Io { .. } => "Check that the path exists, that there is space, and its permissions.",
            Self::Read { .. } => "The next cycle tries again; if it goes on, check the VM's disks and log.",
            Self::View(_) => "The next cycle tries again; no change is lost.",
            Self::Internal(_) => "Report it as a bug, with the log.",
        };
        fixed.to_owned()
    }
}
