//! Why a record of the database cannot be read or kept.

use crate::error::{chain, out_of_memory};
use standin_model::reason::{Reason, Text};
use standin_model::reasons;
use standin_state::StateError;

reasons! {
    /// Why a record of the database cannot be read or kept.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Record {
        /// A record of the database cannot be written.
        NotKept { key: String, error: String } => "record_not_kept", Failed;
        /// There was no memory to write a record of the database.
        NoMemory { key: String, error: String } => "record_out_of_memory", OutOfMemory;
        /// A record of the database cannot be read, or this release does not understand it.
        Unreadable { key: String, error: String } => "record_unreadable", Failed;
    }
}

impl Record {
    /// A write that failed.
    pub(crate) fn not_kept(key: String, error: &StateError) -> Self {
        let text = chain(error);
        match error {
            StateError::Io { source, .. } if out_of_memory(source) => Self::NoMemory { key, error: text },
            _ => Self::NotKept { key, error: text },
        }
    }
}

impl Reason for Record {
    fn text(&self) -> Text {
        match self {
            Self::NotKept { key, error } => Text::new(
                format!("the record {key} could not be kept: {error}"),
                "See to the file system of the data directory (full, read-only, failing), then try again.",
            ),
            Self::NoMemory { key, error } => Text::new(
                format!("the record {key} could not be kept: {error}"),
                "Free some memory on this host, restart the daemon (the VMs run on), then try again.",
            ),
            Self::Unreadable { key, error } => Text::new(
                format!("the record {key} could not be read: {error}"),
                "See to the disk of the data directory, then restart the daemon (the VMs run on).",
            ),
        }
    }
}
