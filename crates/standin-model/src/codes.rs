//! Return codes of the methods of `Msvm_ReplicationService`, and the refusal that carries one.

use crate::reason::{Named, Text};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
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

/// Why a request was not carried out: code and name for programs, a sentence for people, and what to do now.
///
/// One is made of a [`Reason`](crate::reason::Reason), or read: from another host, from a record, from the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Refusal {
    /// The code of the model.
    pub code: ReturnCode,
    /// The stable name of the reason, for programs. Empty where it was refused by a release that knew no names.
    #[serde(default, deserialize_with = "reason_name", skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
    /// What happened, to which VM and disk.
    pub message: String,
    /// What to do now. A full sentence.
    pub remedy: String,
}

impl Refusal {
    pub(crate) fn of(reason: &(impl Named + ?Sized), text: Text) -> Self {
        let Text { message, remedy } = text;
        Self { code: reason.code(), reason: Cow::Borrowed(reason.name()), message, remedy }
    }

    /// One that was told before: to a client by its daemon, to this process by a record of it. Something new is refused by
    /// a [`Reason`](crate::reason::Reason).
    #[must_use]
    pub fn told(
        code: ReturnCode,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { code, reason: reason.into(), message: message.into(), remedy: remedy.into() }
    }

    /// The name of its reason, where it has one.
    #[must_use]
    pub fn named(&self) -> Option<String> {
        (!self.reason.is_empty()).then(|| self.reason.to_string())
    }

    /// The same reason with other words about it: where a caller knows more of what it meant to do.
    #[must_use]
    pub fn saying(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    /// The same reason where something else helps.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }

    /// The same reason by the code that another method has for it.
    #[must_use]
    pub fn with_code(self, code: ReturnCode) -> Self {
        Self { code, ..self }
    }
}

/// Longest name of a reason that is read.
const MAX_REASON: usize = 64;

/// Another host may send anything: what is no name is none.
pub(crate) fn reason_name<'de, D: Deserializer<'de>>(from: D) -> Result<Cow<'static, str>, D::Error> {
    let name = String::deserialize(from)?;
    let is_name = name.len() <= MAX_REASON
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_');
    Ok(if is_name { Cow::Owned(name) } else { Cow::Borrowed("") })
}
