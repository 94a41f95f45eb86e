use super::*;

const FILE: &str = r#"
name = "web-1"
uuid = "6f0b1f1e-6a43-4ad3-9d2c-0e1f5c7f2f10"
memory_mib = 256
kernel = "vmlinuz"
initrd = "/boot/initrd"
cmdline = "console=ttyS0"
guest_agent = true
extra_args = ["-cpu", "max"]

[firmware]
code = "code.fd"
vars = "vars.fd"

[[disks]]
name = "root"
file = "root.qcow2"
format = "qcow2"
backing = { socket = "point.sock", export = "p/1" }

[[disks]]
name = "data"
file = "/dev/vg/data"
format = "raw"
bus = "scsi"

[[nics]]
name = "lan"
kind = "bridge"
bridge = "br0"
"#;

fn definition() -> VmDefinition {
    VmDefinition::from_toml(FILE).expect("the example is valid")
}

fn refused(change: impl FnOnce(&mut VmDefinition)) -> String {
    let mut vm = definition();
    change(&mut vm);
    vm.validate().expect_err("it should have been refused").to_string()
}

#[test]
fn a_definition_survives_being_written_and_read() {
    let vm = definition();
    let text = vm.to_toml().expect("to toml");
    assert_eq!(VmDefinition::from_toml(&text).expect("read back"), vm);
}

#[test]
fn a_file_without_an_identity_gets_one() {
    let text = "name = \"a\"\nmemory_mib = 64\n";
    let (one, two) = (VmDefinition::from_toml(text), VmDefinition::from_toml(text));
    assert_ne!(one.expect("valid").uuid, two.expect("valid").uuid);
}

#[test]
fn an_unknown_key_is_refused_and_named() {
    for text in [
        "name = \"a\"\nmemory_mib = 64\nmemroy = 1\n".to_owned(),
        FILE.replace("bus = \"scsi\"", "buss = \"scsi\""),
        FILE.replace("bridge = \"br0\"", "bridge = \"br0\"\nbrigde = \"x\""),
    ] {
        let error = VmDefinition::from_toml(&text).expect_err("an unknown key").to_string();
        assert!(error.contains("unknown field"), "{error}");
    }
}

#[test]
fn a_wrong_file_is_told_in_one_sentence_with_line_and_column() {
    for (text, told) in [
        (
            "name = \"a\"\nmemory_mib = \"many\"\n",
            "line 2, column 14: invalid type: string \"many\", expected a whole number, in `memory_mib = \"many\"`",
        ),
        ("name = \"\u{fc}", "line 1, column 10: invalid basic string, expected `\"`, in `name = \"\u{fc}`"),
        ("name = \"a\"\n\n", "line 1, column 1: missing field `memory_mib`, in `name = \"a\"`"),
        ("name = \"a b\"\nmemory_mib = 64\n", "line 1, column 8: the VM name \"a b\" cannot be used"),
    ] {
        let error = VmDefinition::from_toml(text).expect_err("it is wrong").to_string();
        assert!(error.contains(told) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn relative_paths_count_from_the_file() {
    let mut vm = definition();
    vm.resolve(Path::new("/vms/web"));
    assert_eq!(vm.kernel.as_deref(), Some(Path::new("/vms/web/vmlinuz")));
    assert_eq!(vm.initrd.as_deref(), Some(Path::new("/boot/initrd")));
    assert_eq!(vm.disks[0].file, Path::new("/vms/web/root.qcow2"));
    assert_eq!(vm.disks[1].file, Path::new("/dev/vg/data"));
    let backing = vm.disks[0].backing.as_ref().expect("a backing");
    assert_eq!(backing.socket, Path::new("/vms/web/point.sock"));
    let nvram = vm.carried_files().into_iter().find(|(role, _)| *role == "nvram");
    assert_eq!(nvram, Some(("nvram", Path::new("/vms/web/vars.fd"))));
}

#[test]
fn what_is_out_of_range_is_refused_with_the_range() {
    assert!(refused(|vm| vm.memory_mib = 15).contains("16 to 1048576"));
    assert!(refused(|vm| vm.memory_mib = 1 << 40).contains("16 to 1048576"));
    assert!(refused(|vm| vm.vcpus = 0).contains("1 to 512"));
    assert!(refused(|vm| vm.vcpus = 513).contains("1 to 512"));
    assert!(refused(|vm| vm.disks[0].serial = Some("x".repeat(21))).contains("20"));
}

#[test]
fn duplicates_are_refused() {
    assert!(refused(|vm| vm.disks[1].name = vm.disks[0].name.clone()).contains("two disks"));
    assert!(refused(|vm| vm.disks[1].file = vm.disks[0].file.clone()).contains("another disk"));
    assert!(refused(|vm| vm.nics.push(vm.nics[0].clone())).contains("two network cards"));
}

#[test]
fn options_cannot_be_smuggled_into_a_value() {
    assert!(refused(|vm| vm.machine = "q35,accel=kvm".into()).contains("machine"));
    assert!(refused(|vm| vm.nics[0].model = "virtio,x=y".into()).contains("model"));
    let tap = NicKind::Tap { ifname: "tap0,script=/bin/sh".into() };
    assert!(refused(|vm| vm.nics[0].kind = tap).contains("interface"));
    assert!(refused(|vm| vm.extra_args.push("--daemonize".into())).contains("standin sets"));
    assert!(refused(|vm| vm.disks[0].file = "a\nb".into()).contains("control character"));
}

#[test]
fn parts_that_need_each_other_are_asked_for() {
    assert!(refused(|vm| vm.kernel = None).contains("need a kernel"));
    assert!(refused(|vm| vm.disks[0].format = DiskFormat::Raw).contains("cannot have a backing"));
    let text = FILE.replace("bridge = \"br0\"", "");
    assert!(VmDefinition::from_toml(&text).expect_err("no bridge").to_string().contains("takes `bridge`"));
    let many = |vm: &mut VmDefinition| {
        for n in 0..25 {
            let name = DiskName::new(format!("d{n}")).expect("a name");
            vm.disks.push(DiskDefinition::new(name, format!("/d{n}"), DiskFormat::Raw));
        }
    };
    assert!(refused(many).contains("scsi"));
}

#[test]
fn a_made_up_hardware_address_is_stable_and_differs_by_vm_and_card() {
    let vm = definition();
    let card = |name: &str| NicDefinition { name: name.into(), ..vm.nics[0].clone() };
    assert_eq!(card("lan").address(vm.uuid), card("lan").address(vm.uuid));
    assert_ne!(card("lan").address(vm.uuid), card("dmz").address(vm.uuid));
    assert_ne!(card("lan").address(vm.uuid), card("lan").address(VmId::random()));
    assert!(card("lan").address(vm.uuid).to_string().starts_with("52:54:00:"));
}

#[test]
fn a_hardware_address_is_read_strictly() {
    let mac: MacAddress = "52:54:00:Ab:cd:ef".parse().expect("a usual address");
    assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
    for bad in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "5:54:00:12:34:56", "01:00:5e:00:00:01"] {
        assert!(bad.parse::<MacAddress>().is_err(), "{bad:?} was accepted");
    }
}
