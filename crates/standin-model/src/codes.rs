//! Return codes of the methods of `Msvm_ReplicationService`, and the refusal that carries one.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a method returns. The numbers are those of the Hyper-V replication API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
#[repr(u32)]
pub enum ReturnCode {
    /// The operation is done.
    Completed = 0,
    /// The operation goes on as a job.
    JobStarted = 4096,
    /// It failed and no other code fits.
    Failed = 32768,
    /// The caller or the peer host may not do this.
    AccessDenied = 32769,
    /// This build or this hypervisor cannot do it.
    NotSupported = 32770,
    /// The status cannot be told.
    StatusUnknown = 32771,
    /// It did not end in time.
    Timeout = 32772,
    /// An argument is malformed or missing.
    InvalidParameter = 32773,
    /// The VM runs where it must be off, or another job holds it.
    InUse = 32774,
    /// The replication state does not allow it.
    InvalidState = 32775,
    /// An argument has the wrong CIM type.
    IncorrectDataType = 32776,
    /// The peer host cannot be reached.
    NotAvailable = 32777,
    /// Not enough memory.
    OutOfMemory = 32778,
    /// An unknown VM, recovery point or path.
    FileNotFound = 32779,
}

impl ReturnCode {
    /// Every code, for tables and tests.
    pub const ALL: [ReturnCode; 14] = [
        Self::Completed,
        Self::JobStarted,
        Self::Failed,
        Self::AccessDenied,
        Self::NotSupported,
        Self::StatusUnknown,
        Self::Timeout,
        Self::InvalidParameter,
        Self::InUse,
        Self::InvalidState,
        Self::IncorrectDataType,
        Self::NotAvailable,
        Self::OutOfMemory,
        Self::FileNotFound,
    ];
}

impl From<ReturnCode> for u32 {
    fn from(code: ReturnCode) -> u32 {
        code as u32
    }
}

impl TryFrom<u32> for ReturnCode {
    type Error = String;
    fn try_from(number: u32) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|code| u32::from(*code) == number)
            .ok_or_else(|| format!("{number} is no return code of the replication API"))
    }
}

/// Why a request was not carried out: the code for programs, a sentence for people, and what to do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct Refusal {
    /// The code of the model.
    pub code: ReturnCode,
    /// What happened, to which VM and disk.
    pub message: String,
    /// What to do now. A full sentence.
    pub remedy: String,
}

impl Refusal {
    /// A refusal with its remedy.
    pub fn new(code: ReturnCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: remedy.into() }
    }
}
