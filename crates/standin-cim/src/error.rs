//! The errors of CIM operations, with the numbers of DSP0200 (CIM Operations over HTTP), which both protocols
//! carry: CIM-XML as `<ERROR CODE>`, WS-Management in a fault's detail.

use crate::Instance;
use thiserror::Error;

/// The status codes of DSP0200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are the standard's own and say it")]
pub enum StatusCode {
    Failed = 1,
    AccessDenied = 2,
    InvalidNamespace = 3,
    InvalidParameter = 4,
    InvalidClass = 5,
    NotFound = 6,
    NotSupported = 7,
    ClassHasChildren = 8,
    ClassHasInstances = 9,
    InvalidSuperclass = 10,
    AlreadyExists = 11,
    NoSuchProperty = 12,
    TypeMismatch = 13,
    QueryLanguageNotSupported = 14,
    InvalidQuery = 15,
    MethodNotAvailable = 16,
    MethodNotFound = 17,
    NamespaceNotEmpty = 20,
    InvalidEnumerationContext = 21,
    InvalidOperationTimeout = 22,
    PullHasBeenAbandoned = 23,
    PullCannotBeAbandoned = 24,
    FilteredEnumerationNotSupported = 25,
    ContinuationOnErrorNotSupported = 26,
    ServerLimitsExceeded = 27,
    ServerIsShuttingDown = 28,
}

impl StatusCode {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }
}

/// An operation that was not done.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{message}")]
pub struct CimError {
    /// The number.
    pub status: StatusCode,
    /// What happened, to what, and what to do.
    pub message: String,
    /// More of it, as instances of `CIM_Error` or a class below it.
    pub details: Vec<Instance>,
}

impl CimError {
    /// An error without details.
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), details: Vec::new() }
    }
}
