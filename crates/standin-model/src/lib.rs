//! Vocabulary of standin: ids, states and their transition table, settings and their validation, recovery
//! points, retention, jobs and return codes. Pure: no I/O, no clock, no locks. Every other crate stands on
//! this one.

#![forbid(unsafe_code)]

pub mod auth;
pub mod backoff;
mod coded;
pub mod codes;
pub mod digest;
pub mod fence;
pub mod health;
pub mod ids;
pub mod job;
pub mod names;
pub mod network;
pub mod point;
pub mod reason;
pub mod request;
pub mod retention;
pub mod service;
pub mod settings;
pub mod state;
pub mod stats;
pub mod transition;
pub mod view;

pub use auth::AuthorizationEntry;
pub use backoff::Backoff;
pub use codes::{Refusal, ReturnCode};
pub use digest::{BlockDigest, DeltaDigest, DigestError, is_zero_data};
pub use fence::{Claim, Fence};
pub use health::{Health, HealthIssue};
pub use ids::{AuthId, Epoch, Generation, HostId, JobId, PointId, RelationshipId, VmId};
pub use job::{JobRecord, JobState, JobType};
pub use names::{DiskName, NameError, VmName};
pub use point::{PointKind, RecoveryPoint};
pub use request::{Facts, Method, request, request_with};
pub use retention::{Policy, Tier};
pub use service::{AllowedAuthentication, ServiceSettings};
pub use settings::{RelationshipSettings, SettingsChange, parse_interval};
pub use state::{ReplicationMode, ReplicationState, Side};
pub use stats::{Monitor, Statistics};
pub use transition::{Event, after_restart, transition};
