//! Why what a primary sends is not taken: it is not what was announced, or cannot be written.

use standin_model::reason::{Reason, Text};
use standin_model::{Epoch, reasons};
use std::path::PathBuf;

/// For what only two versions, or a foreign program, can disagree about.
const SAME_VERSION: &str = "Run the same version of standin on both hosts.";
/// For what a cycle mends.
const REPEATED: &str = "The cycle is repeated by itself.";

reasons! {
    /// Why what a primary sends is not taken.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Receive {
        /// The replica does not understand a message of the primary.
        Request(Text) => "message_not_understood", InvalidParameter;
        /// The primary sent something where the protocol does not have it.
        OutOfTurn { what: String } => "sent_out_of_turn", InvalidState;
        /// The session was ended from here: a newer one, or a change of who may send.
        Superseded { vm: String } => "session_ended_here", InvalidState;
        /// A block arrived damaged.
        Block(Text) => "block_damaged", Failed;
        /// The primary sent blocks of a disk that the VM does not have.
        UnknownStream { stream: u16 } => "unknown_disk_number", InvalidParameter;
        /// What arrived of an epoch is not what was sent.
        PassDiffers { epoch: Epoch } => "epoch_differs", Failed;
        /// The layer is being closed while a block arrives.
        LayerClosed => "layer_closed", Failed;
        /// What the primary says of the configuration's files cannot be.
        FilesInvalid { what: String } => "configuration_files_invalid", InvalidParameter;
        /// The primary sent more of the configuration's files than it offered.
        FilesTooLong => "configuration_files_too_long", InvalidParameter;
        /// What arrived of the configuration's files is not what was sent.
        FilesDiffer => "configuration_files_differ", Failed;
        /// A file of the configuration is not the one that was offered.
        FileDiffers { role: String } => "configuration_file_differs", Failed;
        /// A file of the configuration cannot be written or read.
        File { verb: &'static str, path: PathBuf, error: String } => "configuration_file_failed", Failed;
        /// A defect of standin: something of its own cannot be put into words that it reads.
        Defect { error: String } => "replica_defect", Failed;
    }
}

impl Reason for Receive {
    fn text(&self) -> Text {
        match self {
            Self::Request(text) | Self::Block(text) => text.clone(),
            Self::OutOfTurn { what } => Text::new(
                format!("the primary sent {what} out of turn"),
                "Run the same version of standin on both hosts; look at both logs.",
            ),
            Self::Superseded { vm } => Text::new(
                format!("the replica of VM {vm} takes nothing from this session any more"),
                "It connects again by itself; if it is refused then, that refusal says why.",
            ),
            Self::UnknownStream { stream } => Text::new(
                format!("the primary sent blocks of a disk number {stream} that this VM does not have"),
                SAME_VERSION,
            ),
            Self::PassDiffers { epoch } => Text::new(
                format!("what arrived of epoch {epoch} is not what was sent"),
                "The cycle is repeated by itself. If it happens again, check the memory of both hosts.",
            ),
            Self::LayerClosed => Text::new("the layer is being closed", REPEATED),
            Self::FilesInvalid { what } => {
                Text::new(format!("the primary's configuration files cannot be taken: {what}"), SAME_VERSION)
            }
            Self::FilesTooLong => {
                Text::new("the primary sent more of its configuration files than it offered", SAME_VERSION)
            }
            Self::FilesDiffer => {
                Text::new("what arrived of the configuration files is not what was sent", REPEATED)
            }
            Self::FileDiffers { role } => {
                Text::new(format!("the {role} that arrived is not the one that was offered"), REPEATED)
            }
            Self::File { verb, path, error } => Text::new(
                format!("cannot {verb} {}: {error}", path.display()),
                "See to the file system of the replica's storage location.",
            ),
            Self::Defect { error } => Text::new(error, "Report this; it is a defect of standin."),
        }
    }
}
