//! Vocabulary of standin: ids, states and their transition table, settings and their validation, recovery
//! points, retention, jobs and return codes. Pure: no I/O, no clock, no locks. Every other crate stands on
//! this one.

#![forbid(unsafe_code)]

mod coded;
pub mod codes;
pub mod digest;
pub mod ids;
pub mod names;
pub mod point;
pub mod request;
pub mod state;
pub mod transition;

pub use codes::{Refusal, ReturnCode};
pub use digest::{BlockDigest, DeltaDigest, DigestError, is_zero_data};
pub use ids::{AuthId, Epoch, Generation, JobId, PointId, VmId};
pub use names::{DiskName, NameError, VmName};
pub use point::{PointKind, RecoveryPoint};
pub use request::{Facts, Method, request, request_with};
pub use state::{ReplicationMode, ReplicationState, Side};
pub use transition::{Event, after_restart, transition};
