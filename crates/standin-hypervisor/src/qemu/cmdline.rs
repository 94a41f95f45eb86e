//! A definition as QEMU's command line. Pure; [`super::lifecycle`] runs it.
//!
//! Values that people chose go into JSON (`-blockdev`, `-device`), where a comma is a comma; in the few options
//! without JSON a comma is doubled, which is how QEMU escapes it.

use super::image::{Image, Layer};
use super::names;
use crate::definition::{
    DiskBus, DiskDefinition, DiskFormat, NbdBacking, NicDefinition, NicKind, VmDefinition,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The guest's reads wait this long for a backing's server to come back before they fail. Seconds.
const BACKING_PATIENCE: u64 = 300;
/// A server that is just restarting does not fail the start. Seconds.
const BACKING_OPEN_PATIENCE: u64 = 20;
/// L2 cache of an image below the top one: a chain can have 40 of them. Bytes; maps 8 GiB.
const BACKING_L2_CACHE: u64 = 1 << 20;
/// The channel's name that qemu-guest-agent looks for.
const AGENT_PORT: &str = "org.qemu.guest_agent.0";
/// Which device id the agent's chardev has.
const AGENT_CHARDEV: &str = "standin-agent";

/// Where QEMU is to listen and what it runs on.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Monitor socket.
    pub qmp: PathBuf,
    /// Agent socket.
    pub agent: PathBuf,
    /// Pid file.
    pub pid_file: PathBuf,
    /// `kvm` or `tcg`.
    pub accelerator: &'static str,
}

/// The arguments that start `vm` paused. `images` are those of its disks, in order.
pub(crate) fn arguments(vm: &VmDefinition, images: &[Image], host: &Host) -> Vec<String> {
    let mut line = Line::default();
    line.option("-name", format!("guest={},debug-threads=on", vm.name));
    line.option("-uuid", vm.uuid);
    line.flags(&["-nodefaults", "-no-user-config", "-S"]);
    line.option("-display", "none");
    line.option("-machine", machine(vm));
    line.option("-accel", host.accelerator);
    line.option("-m", format!("{}M", vm.memory_mib));
    line.option("-smp", vm.vcpus);
    line.option("-pidfile", host.pid_file.display());
    line.option("-chardev", listening("standin-qmp", &host.qmp));
    line.option("-mon", "chardev=standin-qmp,mode=control");
    firmware(&mut line, vm);
    boot(&mut line, vm);
    disks(&mut line, vm, images);
    for nic in &vm.nics {
        network(&mut line, vm, nic);
    }
    ports(&mut line, vm, host);
    line.0.extend(vm.extra_args.iter().cloned());
    line.0
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn option(&mut self, name: &str, value: impl std::fmt::Display) {
        self.0.push(name.to_owned());
        self.0.push(value.to_string());
    }

    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }
}

fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn listening(id: &str, socket: &Path) -> String {
    format!("socket,id={id},path={},server=on,wait=off", escaped(socket))
}

fn machine(vm: &VmDefinition) -> String {
    let mut text = format!("type={}", vm.machine);
    if let Some(firmware) = &vm.firmware {
        text.push_str(",pflash0=firmware-code");
        if firmware.vars.is_some() {
            text.push_str(",pflash1=firmware-vars");
        }
    }
    text
}

fn firmware(line: &mut Line, vm: &VmDefinition) {
    let Some(firmware) = &vm.firmware else { return };
    let chip = |node: &str, file: &Path, read_only: bool| {
        json!({
            "driver": "raw", "node-name": node, "read-only": read_only,
            "file": { "driver": "file", "filename": file, "read-only": read_only },
        })
    };
    line.option("-blockdev", chip("firmware-code", &firmware.code, true));
    if let Some(vars) = &firmware.vars {
        line.option("-blockdev", chip("firmware-vars", vars, false));
    }
}

fn boot(line: &mut Line, vm: &VmDefinition) {
    if let Some(kernel) = &vm.kernel {
        line.option("-kernel", kernel.display());
    }
    if let Some(initrd) = &vm.initrd {
        line.option("-initrd", initrd.display());
    }
    if let Some(cmdline) = &vm.cmdline {
        line.option("-append", cmdline);
    }
}

fn disks(line: &mut Line, vm: &VmDefinition, images: &[Image]) {
    if vm.disks.iter().any(|disk| disk.bus == DiskBus::Scsi) {
        line.option("-device", json!({ "driver": "virtio-scsi-pci", "id": "scsi" }));
    }
    for (index, (disk, image)) in vm.disks.iter().zip(images).enumerate() {
        if let Some(nbd) = &disk.backing {
            line.option("-blockdev", served_backing(disk, nbd));
        }
        line.option("-blockdev", block_node(disk, image));
        line.option("-device", disk_device(disk, index + 1));
    }
}

fn block_node(disk: &DiskDefinition, image: &Image) -> Value {
    let discard = if disk.discard { "unmap" } else { "ignore" };
    let mut node = json!({
        "driver": disk.format.as_str(),
        "node-name": names::disk_node(&disk.name),
        "read-only": disk.read_only,
        "discard": discard,
        "detect-zeroes": "off",
        "file": {
            "driver": if image.block_device { "host_device" } else { "file" },
            "node-name": names::file_node(&disk.name),
            "filename": disk.file,
            "read-only": disk.read_only,
            "discard": discard,
        },
    });
    // A reference: options in place would clash with the name in the overlay's header.
    let backing = match &disk.backing {
        Some(_) => Some(json!(names::backing_node(&disk.name))),
        None => chain(&image.backing),
    };
    if let (DiskFormat::Qcow2, Some(backing)) = (disk.format, backing) {
        node["backing"] = backing;
    }
    node
}

fn served_backing(disk: &DiskDefinition, nbd: &NbdBacking) -> Value {
    json!({
        "driver": "nbd",
        "node-name": names::backing_node(&disk.name),
        "server": { "type": "unix", "path": nbd.socket },
        "export": nbd.export,
        "read-only": true,
        "reconnect-delay": BACKING_PATIENCE,
        "open-timeout": BACKING_OPEN_PATIENCE,
    })
}

/// The images below the top one, nested, each with a small cache.
fn chain(layers: &[Layer]) -> Option<Value> {
    layers.iter().rev().fold(None, |below, layer| {
        let mut node = json!({
            "driver": layer.format,
            "read-only": true,
            "file": {
                "driver": if layer.block_device { "host_device" } else { "file" },
                "filename": layer.file,
                "read-only": true,
            },
        });
        if layer.format == "qcow2" {
            node["l2-cache-size"] = json!(BACKING_L2_CACHE);
            node["backing"] = below.unwrap_or(Value::Null);
        }
        Some(node)
    })
}

fn disk_device(disk: &DiskDefinition, boot_index: usize) -> Value {
    let driver = match disk.bus {
        DiskBus::Virtio => "virtio-blk-pci",
        DiskBus::Scsi => "scsi-hd",
        DiskBus::Ide => "ide-hd",
    };
    let mut device = json!({
        "driver": driver,
        "id": names::disk_device(&disk.name),
        "drive": names::disk_node(&disk.name),
        "bootindex": boot_index,
    });
    if disk.bus == DiskBus::Scsi {
        device["bus"] = json!("scsi.0");
    }
    if let Some(serial) = &disk.serial {
        device["serial"] = json!(serial);
    }
    device
}

fn network(line: &mut Line, vm: &VmDefinition, nic: &NicDefinition) {
    let driver = if nic.model == "virtio" { "virtio-net-pci" } else { &nic.model };
    let id = format!("net-{}", nic.name);
    let mut device = json!({ "driver": driver, "id": format!("nic-{}", nic.name), "mac": nic.address(vm.uuid).to_string() });
    let backend = match &nic.kind {
        NicKind::None => None,
        NicKind::User => Some(format!("user,id={id}")),
        NicKind::Bridge { bridge } => Some(format!("bridge,id={id},br={bridge}")),
        NicKind::Tap { ifname } => Some(format!("tap,id={id},ifname={ifname},script=no,downscript=no")),
    };
    if let Some(backend) = backend {
        line.option("-netdev", backend);
        device["netdev"] = json!(id);
    }
    line.option("-device", device);
}

fn ports(line: &mut Line, vm: &VmDefinition, host: &Host) {
    if let Some(log) = &vm.serial_log {
        line.option("-chardev", format!("file,id=standin-serial,path={},append=on", escaped(log)));
        line.option("-serial", "chardev:standin-serial");
    }
    if vm.guest_agent {
        line.option("-chardev", listening(AGENT_CHARDEV, &host.agent));
        line.option("-device", json!({ "driver": "virtio-serial-pci", "id": "standin-ports" }));
        line.option(
            "-device",
            json!({ "driver": "virtserialport", "bus": "standin-ports.0",
                    "chardev": AGENT_CHARDEV, "name": AGENT_PORT }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_model::{DiskName, VmName};

    fn line(change: impl FnOnce(&mut VmDefinition)) -> String {
        let mut vm = VmDefinition::new(VmName::new("web").expect("a name"), 64);
        let name = DiskName::new("root").expect("a name");
        vm.disks.push(DiskDefinition::new(name, "/a,b.qcow2", DiskFormat::Qcow2));
        change(&mut vm);
        let layer = |file: &str| Layer { file: file.into(), format: "qcow2".into(), block_device: false };
        let image = Image {
            size: 1 << 20,
            block_device: false,
            persistent_marks: true,
            backing: vec![layer("/one"), layer("/two")],
        };
        let host = Host { qmp: "/q".into(), agent: "/g".into(), pid_file: "/p".into(), accelerator: "tcg" };
        let images = vec![image; vm.disks.len()];
        arguments(&vm, &images, &host).join(" ")
    }

    #[test]
    fn a_comma_in_a_path_starts_no_new_option() {
        let text = line(|vm| vm.serial_log = Some("/log,server=on".into()));
        assert!(text.contains("path=/log,,server=on,append=on"), "{text}");
        assert!(text.contains(r#""filename":"/a,b.qcow2""#), "{text}");
    }

    #[test]
    fn the_images_below_are_named_and_have_small_caches() {
        let text = line(|_| {});
        assert_eq!(text.matches("l2-cache-size").count(), 2, "{text}");
        // Keys are sorted, so the deepest image is shown first.
        let place = |file: &str| text.find(file).expect("the image is named");
        assert!(place("/two") < place("/one") && place("/one") < place("/a,b.qcow2"), "{text}");
        assert!(text.contains(r#""backing":null"#), "the last layer has none below: {text}");
    }

    #[test]
    fn a_served_backing_replaces_the_one_in_the_header_and_waits() {
        let nbd = NbdBacking { socket: "/s".into(), export: "p".into() };
        let text = line(|vm| vm.disks[0].backing = Some(nbd));
        assert!(text.contains(r#""reconnect-delay":300"#), "{text}");
        assert!(text.contains(r#""backing":"backing-root""#), "{text}");
        assert!(!text.contains("/one"), "{text}");
    }

    #[test]
    fn firmware_goes_into_flash_and_only_the_variables_are_writable() {
        let firmware = crate::definition::Firmware { code: "/code".into(), vars: Some("/vars".into()) };
        let text = line(|vm| vm.firmware = Some(firmware));
        assert!(text.contains("type=q35,pflash0=firmware-code,pflash1=firmware-vars"), "{text}");
        assert!(text.contains(r#""node-name":"firmware-code","read-only":true"#), "{text}");
        assert!(text.contains(r#""node-name":"firmware-vars","read-only":false"#), "{text}");
    }
}
