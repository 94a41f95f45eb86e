//! The transport between two standin daemons: frames over mutual TLS on TCP, and the certificates for it.
//!
//! ```text
//!   engine          control messages (serde)            blocks (encode / decode on the engine's pool)
//!     │                        │                                    │
//!   link      Sender ── frames ── whole TLS records ── TCP ── TLS ── frames ── Receiver
//!                 └ back-pressure: a send waits for the socket, nothing queues up beyond one frame
//!   tls       Identity (certificate, key, trusted authorities), TLS 1.3 only
//!   memory    connections without network and TLS, a double for tests
//!   pki       a certificate authority in a directory        enroll: a new host gets its certificate by a token
//! ```
//!
//! The crate knows nothing of what disks and messages mean. Called by the engine (connections, blocks) and by the
//! daemon (listening, `standin pki`, `standin enroll`).

#![forbid(unsafe_code)]

pub mod block;
pub mod enroll;
pub mod error;
pub mod frame;
pub mod hello;
pub mod link;
pub mod memory;
pub mod pki;
pub mod pool;
pub mod tls;

pub use block::{
    BlockData, BlockHeader, Compression, DecodedBlock, EncodedBlock, Encoding, MAX_BLOCK, ReceivedBlock,
};
pub use error::Error;
pub use frame::{Control, Frame};
pub use hello::{Hello, PROTOCOL, VersionRange};
pub use link::{
    Accepted, Connection, Receiver, Sender, Settings, accept, accept_with, connect, connect_with,
};
pub use pki::PkiDir;
pub use pool::Pool;
pub use tls::{Identity, IdentityFiles, PeerIdentity, TlsFault};
