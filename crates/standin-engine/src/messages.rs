//! What a primary and a replica say to each other inside a session: control messages as JSON over
//! [`standin_wire`], bulk data as its block frames. The primary asks, the replica answers each request that has
//! an answer, in order.
//!
//! ```text
//! primary                                   replica
//!   Create / Open        ->
//!                        <-  Opened { head, watermarks of an unfinished first copy }
//!   Begin { epoch }      ->
//!                        <-  Begun
//!   blocks, Watermark .. ->      (decoded, verified, written to the .part layer)
//!   PassEnd { digests }  ->
//!                        <-  PassOk            (all blocks of the pass arrived and agree)
//!   ConfigFiles          ->
//!                        <-  ConfigWanted      (only files whose content is not there yet)
//!   blocks on CONFIG_STREAM ..
//!   Seal { point }       ->
//!                        <-  Sealed            (durable: the primary may now forget)
//! ```
//!
//! Versions: the wire's handshake agrees on one; a field that is added later has a serde default.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use standin_model::digest::BlockDigest;
use standin_model::fence::Claim;
use standin_model::network::NetworkSettings;
use standin_model::point::PointKind;
use standin_model::settings::RelationshipSettings;
use standin_model::{DiskName, Epoch, Generation, PointId, Refusal, VmId, VmName};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The block stream that carries configuration files; disks are numbered from 0 in the order of `Open`.
pub const CONFIG_STREAM: u16 = u16::MAX;

/// Files of a configuration larger than this are refused on both sides.
pub const MAX_CONFIG_FILE: u64 = 256 << 20;

/// Digests in one [`Request::Nodes`]; bounds the reply to well below the wire's limit for a control message.
pub const MAX_NODES: u32 = 8192;

/// A disk as both sides must have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskShape {
    /// Its name.
    pub name: DiskName,
    /// Its size in bytes.
    pub size: u64,
}

/// The relationship as the primary knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offer {
    /// Which VM.
    pub vm: VmId,
    /// Its name, for people and for the replica's directory.
    pub name: VmName,
    /// The number of the primary's claim: all that a version before understands of it.
    pub generation: Generation,
    /// The claim under which the primary holds the VM; `None` from a version before.
    #[serde(default)]
    pub claim: Option<Claim>,
    /// The disks that replicate. Their order numbers the block streams.
    pub disks: Vec<DiskShape>,
    /// The settings, of which the replica uses retention and granularity.
    pub settings: RelationshipSettings,
    /// What the VM's network cards get at a failover.
    #[serde(default)]
    pub network: NetworkSettings,
    /// The newest epoch that the replica acknowledged; `None` before the first, and from a version before.
    #[serde(default)]
    pub acknowledged: Option<Epoch>,
}

/// A file that travels with a recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFileInfo {
    /// `kernel`, `initrd`, `firmware` or `nvram`.
    pub role: String,
    /// BLAKE3 of the content, hexadecimal.
    pub hash: String,
    /// Length in bytes.
    pub length: u64,
}

/// What kind of layer a [`Request::Begin`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// The first copy. It goes on where it stopped unless `fresh`.
    Base {
        /// Drop what an earlier attempt left: the primary no longer knows what changed since.
        fresh: bool,
    },
    /// The changes since the head.
    Delta,
}

/// The point that a seal records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointOffer {
    /// Its identity.
    pub id: PointId,
    /// The instant of the cut, by the primary's clock.
    pub created_at: Timestamp,
    /// Its kind.
    pub kind: PointKind,
}

/// From the primary.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// May this host replicate to that one? Answered by `Done`.
    Probe,
    /// Makes a link of the connection, on which both hosts call each other: the first request or none. Answered by
    /// `Linked`; what follows is [`crate::peers`]'. From protocol version 2 on.
    Link {
        /// The process that dials: another one after a restart.
        run: Uuid,
        /// Counts the dials of that process.
        number: u64,
    },
    /// Makes the relationship on the replica. Answered by `Opened`; again is no error while nothing differs.
    Create(Box<Offer>),
    /// Begins a session of an existing relationship. Answered by `Opened`.
    Open(Box<Offer>),
    /// Opens a layer. Answered by `Begun`.
    Begin {
        /// The layer's epoch.
        epoch: Epoch,
        /// Its kind.
        kind: LayerKind,
    },
    /// All data of the disk below `offset` has been sent. Not answered; the replica makes it durable in time.
    Watermark {
        /// The disk's stream.
        stream: u16,
        /// Bytes.
        offset: u64,
    },
    /// The end of a pass over the disks. Answered by `Done` when all blocks arrived.
    PassEnd {
        /// The digest of what was sent in this pass, by stream, hexadecimal.
        digests: BTreeMap<u16, String>,
    },
    /// The configuration files of the point. Answered by `ConfigWanted`.
    ConfigFiles {
        /// The files.
        files: Vec<ConfigFileInfo>,
    },
    /// Makes the layer durable. Answered by `Sealed`.
    Seal {
        /// The recovery point; none after a first copy.
        point: Option<PointOffer>,
        /// The VM's definition, TOML.
        definition: String,
        /// The files of the definition, offered before.
        files: Vec<ConfigFileInfo>,
    },
    /// Digests of the replica's newest data, to compare with. Answered by `Nodes`.
    Nodes {
        /// The disk's stream.
        stream: u16,
        /// 0 for granules, 1 for groups of [`standin_model::digest::tree::FAN_OUT`] granules, and so on up to the
        /// root.
        level: u32,
        /// The first.
        first: u64,
        /// How many, at most [`MAX_NODES`].
        count: u32,
        /// The replica's digests are in doubt: it reads them again from its layers before it answers.
        #[serde(default)]
        afresh: bool,
    },
    /// The settings changed. Answered by `Done`.
    Settings(Box<RelationshipSettings>),
    /// The primary ends the relationship; the replica's disks stay. Answered by `Done`.
    Remove,
}

/// From the replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Done,
    /// The connection is a link now.
    Linked {
        /// The process that took it.
        run: Uuid,
    },
    /// Not done; nothing changed.
    Refused(RefusedReply),
    /// The session is open.
    Opened(Opened),
    /// The layer is open.
    Begun {
        /// From where each disk goes on, by stream; 0 for all but a resumed first copy.
        watermarks: BTreeMap<u16, u64>,
    },
    /// Which of the offered files to send, by role.
    ConfigWanted {
        /// Roles, in the order in which they are expected.
        roles: Vec<String>,
    },
    /// The layer and its point are durable.
    Sealed {
        /// The epoch that is the head now.
        epoch: Epoch,
        /// The point's digest, hexadecimal; empty after a first copy.
        digest: String,
    },
    /// Digests.
    Nodes {
        /// As many as were asked for, fewer at the disk's end.
        digests: Vec<BlockDigest>,
    },
}

/// Why the replica refuses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusedReply {
    /// Code, sentence and remedy.
    pub refusal: Refusal,
    /// The number of the highest claim that the replica knows, where the sender shares the VM.
    pub generation: Option<Generation>,
    /// That claim; `None` from a version before.
    #[serde(default)]
    pub claim: Option<Claim>,
    /// Another host than the sender holds the VM: the sender must not run it any more.
    pub failed_over: bool,
}

/// What a replica has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opened {
    /// The number of the claim that both sides go on with.
    pub generation: Generation,
    /// That claim; `None` from a version before.
    #[serde(default)]
    pub claim: Option<Claim>,
    /// The newest sealed epoch; `None` before the end of the first copy.
    pub head: Option<Epoch>,
    /// At least one recovery point is there.
    pub has_points: bool,
    /// An unfinished first copy can go on.
    pub resumable: bool,
    /// The newest recovery point; `None` also from a replica of an older version.
    #[serde(default)]
    pub newest: Option<PointOffer>,
    /// How many recovery points there are; 0 also from a replica of an older version.
    #[serde(default)]
    pub points: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_with_numbered_streams_survive_their_json() {
        let begun = Reply::Begun { watermarks: BTreeMap::from([(0, 4096), (7, 1 << 40)]) };
        let text = serde_json::to_string(&begun).expect("writes");
        let Reply::Begun { watermarks } = serde_json::from_str(&text).expect("reads") else {
            panic!("another reply came back: {text}");
        };
        assert_eq!(watermarks, BTreeMap::from([(0, 4096), (7, 1 << 40)]));
        let end = Request::PassEnd { digests: BTreeMap::from([(CONFIG_STREAM, "ab".to_owned())]) };
        let text = serde_json::to_string(&end).expect("writes");
        assert!(matches!(serde_json::from_str(&text), Ok(Request::PassEnd { .. })), "{text}");
    }
}
