//! The checks behind [`super::VmDefinition::validate`]: ranges, duplicates, and nothing in a text that QEMU
//! would read as an option of its own.

use super::{DiskBus, DiskDefinition, DiskFormat, NicDefinition, NicKind, VmDefinition};
use std::collections::HashSet;
use std::path::Path;

const MEMORY_MIB: std::ops::RangeInclusive<u64> = 16..=1024 * 1024;
const VCPUS: std::ops::RangeInclusive<u32> = 1..=512;
/// The root bus of the machine has 32 slots and the machine uses some itself.
const MAX_SLOTS: usize = 24;
/// AHCI of q35 has six ports.
const MAX_IDE: usize = 6;
const MAX_DISKS: usize = 200;
/// What virtio-blk carries.
const MAX_SERIAL: usize = 20;
/// The kernel's own limit on x86.
const MAX_CMDLINE: usize = 2047;
/// Longest name of an interface in Linux.
const MAX_IFNAME: usize = 15;
/// Arguments by which standin finds and drives the process again.
const OWN_ARGS: [&str; 9] =
    ["uuid", "name", "pidfile", "daemonize", "S", "incoming", "display", "qmp", "runas"];

type Check = Result<(), String>;

pub(super) fn definition(vm: &VmDefinition) -> Check {
    if vm.uuid.0.is_nil() {
        return Err("uuid is all zeros: leave it out to get a random one".to_owned());
    }
    in_range("memory_mib", vm.memory_mib, &MEMORY_MIB)?;
    in_range("vcpus", vm.vcpus, &VCPUS)?;
    word("machine", &vm.machine)?;
    if vm.kernel.is_none() && (vm.initrd.is_some() || vm.cmdline.is_some()) {
        return Err("initrd and cmdline need a kernel".to_owned());
    }
    if let Some(line) = &vm.cmdline {
        text("cmdline", line, MAX_CMDLINE)?;
    }
    for (role, file) in vm.carried_files() {
        path(role, file)?;
    }
    vm.serial_log.as_deref().map_or(Ok(()), |file| path("serial_log", file))?;
    disks(&vm.disks)?;
    nics(&vm.nics)?;
    slots(vm)?;
    vm.extra_args.iter().try_for_each(|argument| extra(argument))
}

fn in_range<T: PartialOrd + std::fmt::Display>(
    what: &str,
    value: T,
    range: &std::ops::RangeInclusive<T>,
) -> Check {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{what} is {value}, and has to be {} to {}", range.start(), range.end()))
}

fn disks(disks: &[DiskDefinition]) -> Check {
    let (mut names, mut files) = (HashSet::new(), HashSet::new());
    if disks.len() > MAX_DISKS {
        return Err(format!("{} disks, and at most {MAX_DISKS} are possible", disks.len()));
    }
    for disk in disks {
        let name = &disk.name;
        if !names.insert(name) {
            return Err(format!("two disks are named {name}"));
        }
        // Two read-only disks may share an image; a writer may share with nobody.
        if !files.insert(&disk.file) && disks.iter().any(|d| d.file == disk.file && !d.read_only) {
            return Err(format!("disk {name} uses {:?}, which another disk uses too", disk.file));
        }
        path("file", &disk.file).map_err(|e| format!("disk {name}: {e}"))?;
        if let Some(serial) = &disk.serial {
            text("serial", serial, MAX_SERIAL).map_err(|e| format!("disk {name}: {e}"))?;
        }
        if let Some(backing) = &disk.backing {
            if disk.format != DiskFormat::Qcow2 {
                return Err(format!("disk {name} is raw and cannot have a backing"));
            }
            path("backing.socket", &backing.socket).map_err(|e| format!("disk {name}: {e}"))?;
            // The NBD protocol's limit of a name.
            text("backing.export", &backing.export, 4096).map_err(|e| format!("disk {name}: {e}"))?;
        }
    }
    Ok(())
}

fn nics(nics: &[NicDefinition]) -> Check {
    let mut names = HashSet::new();
    let mut addresses = HashSet::new();
    for nic in nics {
        word("network card's name", &nic.name)?;
        if !names.insert(&nic.name) {
            return Err(format!("two network cards are named {}", nic.name));
        }
        if nic.mac.is_some_and(|mac| !addresses.insert(mac)) {
            return Err(format!("network card {} has the address of another card", nic.name));
        }
        word("network card's model", &nic.model)?;
        match &nic.kind {
            NicKind::Bridge { bridge: interface } | NicKind::Tap { ifname: interface } => {
                word("network interface", interface)?;
                text("network interface", interface, MAX_IFNAME)?;
            }
            NicKind::User | NicKind::None => {}
        }
    }
    Ok(())
}

fn slots(vm: &VmDefinition) -> Check {
    let on = |bus| vm.disks.iter().filter(|disk| disk.bus == bus).count();
    if on(DiskBus::Ide) > MAX_IDE {
        return Err(format!("{} ide disks, and at most {MAX_IDE} are possible", on(DiskBus::Ide)));
    }
    let used = on(DiskBus::Virtio) + vm.nics.len();
    if used > MAX_SLOTS {
        return Err(format!(
            "{used} virtio disks and network cards, and at most {MAX_SLOTS} are possible: \
             give the disks bus = \"scsi\""
        ));
    }
    Ok(())
}

fn extra(argument: &str) -> Check {
    if argument.contains('\0') {
        return Err("extra_args has a zero byte".to_owned());
    }
    let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
    match flag {
        Some(flag) if OWN_ARGS.contains(&flag) => {
            Err(format!("extra_args has {argument}, which standin sets itself"))
        }
        _ => Ok(()),
    }
}

fn path(what: &str, path: &Path) -> Check {
    match path.to_str() {
        None => Err(format!("{what} {path:?} is not valid UTF-8")),
        Some("") => Err(format!("{what} is empty")),
        Some(text) if text.chars().any(char::is_control) => {
            Err(format!("{what} {path:?} has a control character"))
        }
        Some(_) => Ok(()),
    }
}

fn text(what: &str, text: &str, max: usize) -> Check {
    if text.is_empty() || text.len() > max || text.chars().any(char::is_control) {
        return Err(format!("{what} has to be 1 to {max} bytes without control characters"));
    }
    Ok(())
}

/// A word that QEMU's option parser takes as one value.
fn word(what: &str, text: &str) -> Check {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
        return Err(format!("{what} {text:?} has to be 1 to 64 letters, digits, '.', '-' or '_'"));
    }
    Ok(())
}
