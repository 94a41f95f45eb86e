//! Network cards of a definition. In the file a card is one flat table (`kind = "bridge"`, `bridge = "br0"`);
//! in the program a bridge cannot be without its name.

use serde::{Deserialize, Serialize};
use standin_model::VmId;
use standin_model::network::MacAddress;
use uuid::Uuid;

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NicFile", into = "NicFile")]
pub struct NicDefinition {
    /// Unique in the VM.
    pub name: String,
    /// Hardware address; [`NicDefinition::address`] makes a stable one when absent.
    pub mac: Option<MacAddress>,
    /// QEMU's device: `virtio` (the default), `e1000`, `e1000e`, `rtl8139`.
    pub model: String,
    /// What it is connected to.
    pub kind: NicKind,
}

/// What a network card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicKind {
    /// QEMU's user-mode network: out through the host, nothing in.
    User,
    /// A bridge of the host, through QEMU's bridge helper.
    Bridge {
        /// The bridge.
        bridge: String,
    },
    /// A tap interface that exists already.
    Tap {
        /// The interface.
        ifname: String,
    },
    /// A card without a cable.
    None,
}

impl NicDefinition {
    /// The card's hardware address. Where none is given: one made from the VM's identity and the card's name,
    /// so that it is the same on the replica.
    #[must_use]
    pub fn address(&self, vm: VmId) -> MacAddress {
        self.mac.unwrap_or_else(|| {
            let hash = Uuid::new_v5(&vm.0, self.name.as_bytes());
            let bytes = hash.as_bytes();
            // 52:54:00 is the locally administered prefix that QEMU and libvirt use.
            MacAddress([0x52, 0x54, 0x00, bytes[0], bytes[1], bytes[2]])
        })
    }
}

/// A card as it is written in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NicFile {
    name: String,
    #[serde(default = "virtio")]
    model: String,
    #[serde(default)]
    kind: KindWord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bridge: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ifname: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindWord {
    #[default]
    User,
    Bridge,
    Tap,
    None,
}

fn virtio() -> String {
    "virtio".to_owned()
}

impl TryFrom<NicFile> for NicDefinition {
    type Error = String;
    fn try_from(file: NicFile) -> Result<Self, String> {
        let NicFile { name, model, kind, mac, bridge, ifname } = file;
        let kind = match (kind, bridge, ifname) {
            (KindWord::User, None, None) => NicKind::User,
            (KindWord::None, None, None) => NicKind::None,
            (KindWord::Bridge, Some(bridge), None) => NicKind::Bridge { bridge },
            (KindWord::Tap, None, Some(ifname)) => NicKind::Tap { ifname },
            _ => {
                return Err(format!(
                    "network card {name}: kind \"bridge\" takes `bridge`, kind \"tap\" takes `ifname`, \
                     and the others take neither"
                ));
            }
        };
        Ok(Self { name, mac, model, kind })
    }
}

impl From<NicDefinition> for NicFile {
    fn from(nic: NicDefinition) -> Self {
        let NicDefinition { name, mac, model, kind } = nic;
        let (kind, bridge, ifname) = match kind {
            NicKind::User => (KindWord::User, None, None),
            NicKind::None => (KindWord::None, None, None),
            NicKind::Bridge { bridge } => (KindWord::Bridge, Some(bridge), None),
            NicKind::Tap { ifname } => (KindWord::Tap, None, Some(ifname)),
        };
        Self { name, model, kind, mac, bridge, ifname }
    }
}
