//! What a VM is: the file that `vm define` reads, that the driver keeps, and that travels with every recovery
//! point. Pure data and its checks; [`crate::qemu`] turns it into a command line.
//!
//! ```toml
//! name = "web-1"
//! memory_mib = 2048
//! vcpus = 2
//! guest_agent = true
//!
//! [[disks]]
//! name = "root"
//! file = "web-1-root.qcow2"      # relative to this file
//! format = "qcow2"               # never guessed: a guest could write another header
//!
//! [[nics]]
//! name = "lan"
//! kind = "bridge"
//! bridge = "br0"
//! ```

mod check;
mod network_map;
mod nic;
mod syntax;

pub use network_map::NetworkMap;
pub use nic::{NicDefinition, NicKind};
pub use standin_model::network::MacAddress;

use crate::error::Error;
use serde::{Deserialize, Serialize};
use standin_model::{DiskName, VmId, VmName};
use std::path::{Path, PathBuf};

/// A virtual machine: its identity, its hardware and the files it stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmDefinition {
    /// Unique on the host.
    pub name: VmName,
    /// Identity, the same on the primary and on the replica. A file without one gets a random one when read.
    #[serde(default = "VmId::random")]
    pub uuid: VmId,
    /// Memory in MiB, 16 to 1,048,576.
    pub memory_mib: u64,
    /// Virtual CPUs, 1 to 512.
    #[serde(default = "one")]
    pub vcpus: u32,
    /// QEMU's machine type, without options.
    #[serde(default = "default_machine")]
    pub machine: String,
    /// How its CPUs are to be run.
    #[serde(default)]
    pub accelerator: AcceleratorChoice,
    /// Kernel to boot directly, instead of from a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk of `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Command line of `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// File that receives what the guest writes to its first serial port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_log: Option<PathBuf>,
    /// A channel for `qemu-guest-agent` in the guest, for application-consistent points.
    #[serde(default)]
    pub guest_agent: bool,
    /// Further arguments of QEMU, as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<String>,
    /// UEFI firmware; SeaBIOS when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Disks, in boot order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskDefinition>,
    /// Network cards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<NicDefinition>,
}

/// Which accelerator a VM wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceleratorChoice {
    /// KVM where it was proven to work, else emulation.
    #[default]
    Auto,
    /// KVM, or the VM does not start.
    Kvm,
    /// Emulation.
    Tcg,
}

/// UEFI firmware in two flash chips.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    /// The firmware's code, read only.
    pub code: PathBuf,
    /// The VM's own variable store (NVRAM), writable. It travels with every recovery point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vars: Option<PathBuf>,
}

/// Format of a disk's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// The bytes themselves, in a file or a block device.
    Raw,
    /// QEMU's own; the only one in which marks survive a clean stop.
    Qcow2,
}

impl DiskFormat {
    /// QEMU's name of it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// How the guest sees a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskBus {
    /// virtio-blk.
    #[default]
    Virtio,
    /// A disk on a virtio-scsi controller.
    Scsi,
    /// A disk on the machine's AHCI or IDE controller.
    Ide,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskDefinition {
    /// Unique in the VM; the name under which it replicates.
    pub name: DiskName,
    /// Image file or block device.
    pub file: PathBuf,
    /// Format of `file`.
    pub format: DiskFormat,
    /// How the guest sees it.
    #[serde(default)]
    pub bus: DiskBus,
    /// The guest cannot write.
    #[serde(default)]
    pub read_only: bool,
    /// Serial number that the guest sees, up to 20 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The guest's discards free space in the image.
    #[serde(default = "yes")]
    pub discard: bool,
    /// Where unwritten parts of a qcow2 overlay are read from, instead of what its header says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<NbdBacking>,
}

impl DiskDefinition {
    /// A writable virtio disk.
    pub fn new(name: DiskName, file: impl Into<PathBuf>, format: DiskFormat) -> Self {
        Self {
            name,
            file: file.into(),
            format,
            bus: DiskBus::default(),
            read_only: false,
            serial: None,
            discard: true,
            backing: None,
        }
    }
}

/// A recovery point that is served over NBD, as the backing of an overlay. If the server goes away the guest's
/// reads wait for its return, for up to five minutes; they do not fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NbdBacking {
    /// Unix socket of the server.
    pub socket: PathBuf,
    /// Name of the export.
    pub export: String,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn default_machine() -> String {
    "q35".to_owned()
}

/// Which VM a definition is of. Read alone where the rest may be of a newer release.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VmIdentity {
    /// Its identity.
    pub uuid: VmId,
    /// Its name.
    pub name: VmName,
}

impl VmIdentity {
    /// Reads it from a definition in TOML.
    ///
    /// # Errors
    /// [`Error::Definition`] when either is missing or malformed.
    pub fn of_toml(text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| Error::Definition(syntax::describe(text, &error)))
    }
}

impl VmDefinition {
    /// A VM with one CPU, no disks and no network, and a random identity.
    #[must_use]
    pub fn new(name: VmName, memory_mib: u64) -> Self {
        Self {
            name,
            uuid: VmId::random(),
            memory_mib,
            vcpus: 1,
            machine: default_machine(),
            accelerator: AcceleratorChoice::default(),
            kernel: None,
            initrd: None,
            cmdline: None,
            serial_log: None,
            guest_agent: false,
            extra_args: Vec::new(),
            firmware: None,
            disks: Vec::new(),
            nics: Vec::new(),
        }
    }

    /// Reads and checks a definition. Paths stay as they are written: see [`Self::resolve`].
    ///
    /// # Errors
    /// [`Error::Definition`] with the line for a syntax error or an unknown key, or with what is out of range.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let definition: Self =
            toml::from_str(text).map_err(|error| Error::Definition(syntax::describe(text, &error)))?;
        definition.validate()?;
        Ok(definition)
    }

    /// The definition as a file that [`Self::from_toml`] reads back as the same.
    ///
    /// # Errors
    /// [`Error::Definition`] for a path that is not valid UTF-8.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|e| Error::Definition(e.to_string()))
    }

    /// Makes relative paths absolute: they count from `base_dir`, the directory of the definition's file.
    pub fn resolve(&mut self, base_dir: &Path) {
        let absolute = |path: &mut PathBuf| {
            if path.is_relative() {
                *path = base_dir.join(&*path);
            }
        };
        self.kernel.iter_mut().for_each(absolute);
        self.initrd.iter_mut().for_each(absolute);
        self.serial_log.iter_mut().for_each(absolute);
        if let Some(firmware) = &mut self.firmware {
            absolute(&mut firmware.code);
            firmware.vars.iter_mut().for_each(absolute);
        }
        for disk in &mut self.disks {
            absolute(&mut disk.file);
            disk.backing.iter_mut().for_each(|backing| absolute(&mut backing.socket));
        }
    }

    /// Checks everything that can be checked without looking at the host.
    ///
    /// # Errors
    /// [`Error::Definition`] with the first thing that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        check::definition(self).map_err(Error::Definition)
    }

    /// The disk of that name.
    #[must_use]
    pub fn disk(&self, name: &DiskName) -> Option<&DiskDefinition> {
        self.disks.iter().find(|disk| disk.name == *name)
    }

    /// The files other than disks that it names and that a recovery point carries, by role: `kernel`, `initrd`,
    /// `firmware`, `nvram`.
    #[must_use]
    pub fn carried_files(&self) -> Vec<(&'static str, &Path)> {
        let firmware = self.firmware.as_ref();
        [
            ("kernel", self.kernel.as_deref()),
            ("initrd", self.initrd.as_deref()),
            ("firmware", firmware.map(|f| f.code.as_path())),
            ("nvram", firmware.and_then(|f| f.vars.as_deref())),
        ]
        .into_iter()
        .filter_map(|(role, path)| path.map(|path| (role, path)))
        .collect()
    }

    /// Points a carried file elsewhere, for a host where it was unpacked at another path. Unknown roles, and
    /// those the definition does not have, are left alone and answered with `false`.
    pub fn set_carried_file(&mut self, role: &str, path: PathBuf) -> bool {
        let slot = match role {
            "kernel" => self.kernel.as_mut(),
            "initrd" => self.initrd.as_mut(),
            "firmware" => self.firmware.as_mut().map(|f| &mut f.code),
            "nvram" => self.firmware.as_mut().and_then(|f| f.vars.as_mut()),
            _ => None,
        };
        slot.map(|slot| *slot = path).is_some()
    }
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
