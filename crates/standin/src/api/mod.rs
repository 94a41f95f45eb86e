//! The local API: HTTP/1.1 and JSON on a unix socket. The daemon serves it, every other verb is a client of it.
//!
//! | Route | Does | Answers |
//! | --- | --- | --- |
//! | `GET /v1/host` | facts of this host and its daemon | [`types::HostView`] |
//! | `POST /v1/host/reload` | take certificates from their files again | [`types::Done`] |
//! | `GET /v1/vms`, `GET /v1/vms/{vm}` | the VMs of this host | `VmView` |
//! | `POST /v1/vms?base_dir=DIR` | define a VM; TOML or JSON | `VmView` |
//! | `POST /v1/vms/{vm}/start`, `.../stop` | run it, end it | `VmView` |
//! | `DELETE /v1/vms/{vm}` | forget it | [`types::Done`] |
//! | `POST /v1/adopt` | know a running QEMU | `VmView` |
//! | `GET`, `POST /v1/authorizations`, `DELETE .../{id or pattern}` | who may send to this host | `AuthView` |
//! | `GET /v1/peers`, `POST /v1/peers/{id}/rebind` | the hosts that this one has met | [`types::PeerView`] |
//! | `POST /v1/connection-test` | could this host replicate to that one? | [`types::Done`] |
//! | `GET /v1/status`, `GET /v1/vms/{vm}/status` | replication | `StatusView` |
//! | `GET /v1/vms/{vm}/points` | recovery points, newest first | `PointView` |
//! | `POST /v1/vms/{vm}/replicate`, `/unreplicate`, `/suspend`, `/resume`, `/resync`, `/points`, `/failover`, `/failover/revert`, `/failover/commit`, `/failover/keep` | replication | [`types::Outcome`] |
//! | `DELETE /v1/vms/{vm}/claim` | forget where a VM lives that no relationship has any more | [`types::Done`] |
//! | `GET`, `POST /v1/vms/{vm}/settings` | what was agreed; changed on the primary | `SettingsView` |
//! | `POST /v1/vms/{vm}/rename` | its name on this host | `StatusView` |
//! | `GET /v1/jobs`, `GET /v1/jobs/{id}` | jobs | `JobView` |
//! | `GET /v1/jobs/{id}/watch` | the same, once it has moved on | `JobView` |
//! | `DELETE /v1/jobs/{id}` | ask it to end | `JobView` |
//! | `POST /v1/store/check`, `GET /v1/store/check/{job}` | verify replicas | [`types::Outcome`], `CheckView` |
//! | `POST /v1/store/repair`, `GET /v1/store/repair/{job}` | build a lost manifest again | [`types::Outcome`], `RepairView` |
//! | `GET /v1/store` | directories of replicas | `DirectoryView` |
//! | `POST /v1/store/adopt`, `POST /v1/store/remove` | use one again, delete one | `DirectoryView`, [`types::Done`] |
//!
//! A refusal is a [`types::Problem`] with a fitting HTTP status. Names, ids and numbers are checked here, before
//! the engine sees them. A request that changes something runs to its end even if the client goes away.

pub mod client;
mod define;
mod extract;
mod handlers;
mod peer;
pub(crate) mod reason;
mod select;
pub mod server;
pub mod service;
pub mod settings;
mod storage;
pub mod types;

pub use service::Service;

/// The largest body of a request or an answer. Bytes.
pub const MAX_BODY: usize = 1 << 20;
