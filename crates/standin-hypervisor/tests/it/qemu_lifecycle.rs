//! Defining, starting, ending and finding VMs again.

use crate::qemu_harness::*;
use standin_hypervisor::{
    Accelerator, DiskFormat, Error, Hypervisor, NicDefinition, NicKind, PowerState, StartOptions,
    VmDefinition, VmEvent,
};
use standin_model::{VmId, VmName};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ONE: [(&str, DiskFormat, u64); 1] = [("a", DiskFormat::Qcow2, 16 * MIB)];

/// A `qemu-nbd` that serves an image as long as this lives.
struct Server(Child);

impl Server {
    async fn start(image: &Path, socket: &Path, options: &[&str]) -> Self {
        let child = Command::new("qemu-nbd")
            .args(options)
            .args(["--persistent", "--socket"])
            .args([socket, image])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let server = Self(child.expect("start qemu-nbd"));
        eventually("qemu-nbd listens", async || socket.exists()).await;
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn refusal(host: &Host, vm: VmDefinition) -> Error {
    let id = host.driver().define(vm).await.expect("define");
    let refused = host.driver().start(id, StartOptions::default()).await.expect_err("it cannot start");
    assert_eq!(host.driver().inspect(id).await.expect("inspect").power, PowerState::Off);
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_is_not_allowed_is_refused_with_what_allows_it() {
    let host = Host::new().await;
    let mut vm = host.definition(&ONE);
    let kind = NicKind::Bridge { bridge: "standin-none".into() };
    vm.nics.push(NicDefinition { name: "lan".into(), mac: None, model: "virtio".into(), kind });
    let refused = refusal(&host, vm).await;
    assert!(refused.remedy().contains("/etc/qemu/bridge.conf"), "{refused}: {}", refused.remedy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_starts_pauses_resumes_and_ends() {
    let host = Host::new().await;
    let vm = host.definition(&ONE);
    let id = host.driver().define(vm.clone()).await.expect("define");
    let off = host.driver().inspect(id).await.expect("inspect");
    assert_eq!((off.power, off.disks[0].size, off.pid), (PowerState::Off, 16 * MIB, None));
    let mut events = host.driver().events();
    host.driver().start(id, StartOptions::default()).await.expect("start");
    assert_eq!(event(&mut events).await, VmEvent::Started(id));
    let on = host.driver().inspect(id).await.expect("inspect");
    assert_eq!((on.power, on.adopted, on.disks.len()), (PowerState::Running, false, 1));
    assert_eq!(on.disks[0].problem, None);
    assert!(
        matches!(on.accelerator, Some(Accelerator::Tcg { ref reason }) if reason.contains("switched off"))
    );
    assert!(matches!(host.driver().start(id, StartOptions::default()).await, Err(Error::AlreadyRunning(_))));
    assert!(matches!(host.driver().define(vm).await, Err(Error::AlreadyRunning(_))));
    assert!(matches!(host.driver().undefine(id).await, Err(Error::AlreadyRunning(_))));
    host.driver().pause(id).await.expect("pause");
    assert_eq!(host.driver().inspect(id).await.expect("inspect").power, PowerState::Paused);
    host.driver().resume(id).await.expect("resume");
    assert_eq!(host.driver().inspect(id).await.expect("inspect").power, PowerState::Running);
    host.driver().power_off(id).await.expect("power off");
    assert_eq!(event(&mut events).await, VmEvent::Stopped { vm: id, clean: true });
    assert!(matches!(host.driver().power_off(id).await, Err(Error::NotRunning(_))));
    host.driver().undefine(id).await.expect("undefine");
    assert!(matches!(host.driver().inspect(id).await, Err(Error::UnknownVm(_))));
    assert!(host.path("a.img").exists(), "the disk stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_ignores_the_power_button_runs_on() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&ONE)).await;
    let late = host.driver().shutdown(vm, Duration::from_millis(300)).await.expect_err("nobody listens");
    assert!(matches!(late, Error::Timeout { .. }), "{late}");
    assert!(host.driver().inspect(vm).await.expect("inspect").pid.is_some());
    assert!(matches!(host.driver().shutdown(VmId::random(), Duration::ZERO).await, Err(Error::UnknownVm(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_is_an_unclean_end() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&ONE)).await;
    let mut events = host.driver().events();
    host.kill(vm).await;
    assert_eq!(event(&mut events).await, VmEvent::Stopped { vm, clean: false });
    assert_eq!(host.driver().inspect(vm).await.expect("inspect").power, PowerState::Off);
    host.start_again(vm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vms_and_definitions_outlive_the_daemon() {
    let mut host = Host::new().await;
    let definition = host.definition(&ONE);
    let vm = host.start(&definition).await;
    let pid = host.driver().inspect(vm).await.expect("inspect").pid;
    host.reopen().await;
    let found = host.driver().inspect(vm).await.expect("inspect");
    assert_eq!((found.pid, found.power, &found.definition), (pid, PowerState::Paused, &definition));
    assert!(found.accelerator.is_some());
    let mut events = host.driver().events();
    host.driver().power_off(vm).await.expect("power off");
    assert_eq!(event(&mut events).await, VmEvent::Stopped { vm, clean: true });
    host.reopen().await;
    let found = host.driver().list().await.expect("list");
    assert_eq!((found.len(), found[0].power), (1, PowerState::Off));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_runs_since_before_an_upgrade_is_found_and_managed() {
    let mut host = Host::new().await;
    let vm = host.start(&host.definition(&ONE)).await;
    let pid = host.driver().inspect(vm).await.expect("inspect").pid;
    host.first_mark(vm, &["a"]).await;
    let left = host.scratch().join(format!("standin-t1-{}-0.scratch", &vm.0.simple().to_string()[..12]));
    std::fs::write(&left, "of a cut that was open at the upgrade").expect("write");
    host.close().await;
    host.shorten_runtime_names(vm);
    assert!(host.short_runtime_file(vm, "nbd").exists(), "its disks were read before the upgrade");
    host.reopen().await;
    let found = host.driver().inspect(vm).await.expect("inspect");
    assert_eq!((found.pid, found.power), (pid, PowerState::Paused));
    assert!(matches!(host.driver().start(vm, StartOptions::default()).await, Err(Error::AlreadyRunning(_))));
    let view = host.driver().cut(vm, host.cut(&["a"], 0, 1)).await.expect("its disks can be read");
    assert_eq!(pattern(&*view, "a", 0, 4096).await, 0);
    view.close().await.expect("close");
    assert!(!left.exists(), "what the release before left of a cut is gone");
    // Once more: nothing of it depends on what the first daemon after the upgrade remembers.
    host.reopen().await;
    assert_eq!(host.driver().inspect(vm).await.expect("inspect").pid, pid);
    host.driver().power_off(vm).await.expect("power off");
    host.start_again(vm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_vms_whose_identities_begin_alike_run_side_by_side() {
    let host = Host::new().await;
    let one = host.definition(&ONE);
    let mut bytes = *one.uuid.0.as_bytes();
    bytes[15] ^= 1;
    let mut other = host.definition(&[("b", DiskFormat::Qcow2, 16 * MIB)]);
    other.uuid = VmId(uuid::Uuid::from_bytes(bytes));
    other.name = VmName::new("other").expect("a name");
    // One monitor of the test's own is enough.
    other.extra_args.clear();
    let (one, other) = (host.start(&one).await, host.start(&other).await);
    let of = async |vm| host.driver().inspect(vm).await.expect("inspect").pid.expect("it runs");
    assert_ne!(of(one).await, of(other).await);
    host.driver().power_off(other).await.expect("power off");
    assert_eq!(host.driver().inspect(one).await.expect("inspect").power, PowerState::Paused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_must_be_new_never_replaces_another() {
    let host = Host::new().await;
    let first = host.definition(&ONE);
    let id = host.driver().define_new(first.clone()).await.expect("define");
    let mut second = first.clone();
    second.memory_mib = 64;
    second.name = VmName::new("second").expect("a name");
    let refused = host.driver().define_new(second.clone()).await.expect_err("it exists");
    assert!(matches!(refused, Error::VmExists(vm) if vm == id), "{refused}");
    assert_eq!(host.driver().inspect(id).await.expect("inspect").definition, first);
    second.uuid = VmId::random();
    second.name = first.name;
    let refused = host.driver().define_new(second).await.expect_err("the name is taken");
    assert!(matches!(refused, Error::AlreadyDefined { owner, .. } if owner == id), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_is_renamed_while_it_runs_and_keeps_the_name() {
    let mut host = Host::new().await;
    let vm = host.start(&host.definition(&ONE)).await;
    let mut other = host.definition(&[("b", DiskFormat::Qcow2, 16 * MIB)]);
    other.name = VmName::new("other").expect("a name");
    host.driver().define(other).await.expect("define");
    let name = |text: &str| VmName::new(text).expect("a name");
    host.driver().rename(vm, name("new")).await.expect("renamed");
    let refused = host.driver().rename(vm, name("other")).await.expect_err("the name is taken");
    assert!(matches!(refused, Error::AlreadyDefined { .. }), "{refused}");
    host.driver().rename(vm, name("new")).await.expect("its own name is free to it");
    host.reopen().await;
    let found = host.driver().inspect(vm).await.expect("inspect");
    assert_eq!((found.name.as_str(), found.power), ("new", PowerState::Paused));
    assert!(matches!(host.driver().rename(VmId::random(), name("x")).await, Err(Error::UnknownVm(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_used_is_refused_with_the_reason() {
    let host = Host::new().await;
    let of = |change: fn(&mut VmDefinition, &Host)| {
        let mut vm = host.definition(&ONE);
        vm.name = VmName::new(format!("vm-{}", vm.uuid)).expect("a name");
        change(&mut vm, &host);
        vm
    };
    let missing = refusal(&host, of(|vm, host| vm.disks[0].file = host.path("nowhere"))).await;
    assert!(missing.to_string().contains("does not exist"), "{missing}");
    let mistaken = refusal(&host, of(|vm, _| vm.disks[0].format = DiskFormat::Raw)).await;
    assert!(mistaken.to_string().contains("is a qcow2 image"), "{mistaken}");
    let empty = of(|vm, host| {
        vm.disks[0].file = host.path("text");
        std::fs::write(&vm.disks[0].file, "no image at all").expect("write");
    });
    let foreign = refusal(&host, empty).await;
    assert!(foreign.to_string().contains("is not a qcow2 image"), "{foreign}");
    let directory = refusal(&host, of(|vm, host| vm.disks[0].file = host.path("scratch"))).await;
    assert!(directory.to_string().contains("neither a file nor"), "{directory}");
    let kernel = refusal(&host, of(|vm, host| vm.kernel = Some(host.path("vmlinuz")))).await;
    assert!(kernel.to_string().contains("open the kernel"), "{kernel}");
    let relative = of(|vm, _| vm.disks[0].file = "a.img".into());
    assert!(matches!(host.driver().define(relative).await, Err(Error::Definition(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_another_process_writes_is_refused() {
    let host = Host::new().await;
    let definition = host.definition(&ONE);
    let socket = host.path("nbd");
    let other = Server::start(&definition.disks[0].file, &socket, &["--format=qcow2"]).await;
    let refused = refusal(&host, definition).await;
    drop(other);
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_qemu_complains_about_is_reported() {
    let host = Host::new().await;
    let mut vm = host.definition(&ONE);
    vm.extra_args = vec!["-device".into(), "no-such-device".into()];
    let refused = refusal(&host, vm).await;
    assert!(matches!(refused, Error::StartFailed { .. }), "{refused}");
    assert!(refused.to_string().contains("no-such-device"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_belongs_to_one_vm() {
    let host = Host::new().await;
    let first = host.driver().define(host.definition(&[])).await.expect("define");
    let taken = host.driver().define(host.definition(&[])).await.expect_err("the name is taken");
    assert!(matches!(taken, Error::AlreadyDefined { owner, .. } if owner == first), "{taken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overlay_is_filled_until_it_stands_alone() {
    let host = Host::new().await;
    let mut vm = host.definition(&ONE);
    let base = host.path("base.img");
    create_image(&base, "raw", 16 * MIB);
    std::fs::write(&base, vec![0x5a; 16 * 1024 * 1024]).expect("write");
    let overlay = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([&base, &vm.disks[0].file])
        .status();
    assert!(overlay.expect("qemu-img").success());
    let socket = host.path("nbd");
    let options = ["--format=raw", "--read-only", "--shared=4", "--export-name=point"];
    let server = Server::start(&base, &socket, &options).await;
    vm.disks[0].backing = Some(standin_hypervisor::NbdBacking { socket, export: "point".to_owned() });
    let id = host.start(&vm).await;
    host.driver().flatten(id, &name("a"), 0).await.expect("flatten");
    drop(server);
    let info = host.driver().inspect(id).await.expect("inspect");
    assert_eq!(info.definition.disks[0].backing, None, "the next start needs no server");
    host.first_mark(id, &["a"]).await;
    let view = host.driver().cut(id, host.cut(&["a"], 0, 1)).await.expect("cut");
    assert_eq!(pattern(&*view, "a", 15 * MIB, 64 << 10).await, 0x5a);
    view.close().await.expect("close");
    host.driver().power_off(id).await.expect("power off");
    std::fs::remove_file(&base).expect("remove");
    host.start_again(id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_are_filled_at_the_same_time_all_stand_alone_afterwards() {
    let host = Host::new().await;
    let disks = ["a", "b", "c", "d"];
    let mut vm = host.definition(&disks.map(|disk| (disk, DiskFormat::Qcow2, 4 * MIB)));
    let base = host.path("base.img");
    create_image(&base, "raw", 4 * MIB);
    let socket = host.path("nbd");
    let options = ["--format=raw", "--read-only", "--shared=8", "--export-name=point"];
    let server = Server::start(&base, &socket, &options).await;
    for disk in &mut vm.disks {
        let export = "point".to_owned();
        disk.backing = Some(standin_hypervisor::NbdBacking { socket: socket.clone(), export });
    }
    let id = host.start(&vm).await;
    let fills = disks.map(|disk| {
        let driver = std::sync::Arc::clone(host.driver());
        tokio::spawn(async move { driver.flatten(id, &name(disk), 0).await })
    });
    for fill in fills {
        fill.await.expect("the task").expect("flatten");
    }
    let info = host.driver().inspect(id).await.expect("inspect");
    assert!(info.definition.disks.iter().all(|disk| disk.backing.is_none()), "{:?}", info.definition.disks);
    drop(server);
    host.driver().power_off(id).await.expect("power off");
    host.start_again(id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impatient_power_off_need_not_wait_for_a_shutdown() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&ONE)).await;
    let driver = std::sync::Arc::clone(host.driver());
    let asking = tokio::spawn(async move { driver.shutdown(vm, Duration::from_secs(60)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    host.driver().power_off(vm).await.expect("power off");
    let ended =
        tokio::time::timeout(Duration::from_secs(5), asking).await.expect("in time").expect("the task");
    ended.expect("it is off, as was asked");
}
