//! VMs that somebody else started, with the command lines that people use.

use crate::qemu_harness::*;
use standin_hypervisor::{Error, Hypervisor, PowerState, StartOptions, VmEvent};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Foreign(Child);

impl Foreign {
    fn start(host: &Host, arguments: &[&str]) -> Self {
        let monitor = |name: &str| format!("unix:{},server=on,wait=off", host.path(name).display());
        let child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-display", "none", "-accel", "tcg", "-m", "64", "-S"])
            .args(["-qmp", &monitor("foreign.qmp"), "-qmp", &monitor("test.qmp")])
            .args(arguments)
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("start QEMU"))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn drive(path: &Path, options: &str) -> String {
    format!("file={},{options}", path.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_started_by_hand_is_described_tracked_and_cut() {
    let mut host = Host::new().await;
    let (one, two) = (host.path("one"), host.path("two"));
    create_image(&one, "qcow2", 16 * MIB);
    create_image(&two, "raw", 8 * MIB);
    let uuid = "6f0b1f1e-6a43-4ad3-9d2c-0e1f5c7f2f10";
    let line = [
        "-uuid",
        uuid,
        "-name",
        "their vm",
        "-smp",
        "2",
        "-drive",
        &drive(&one, "format=qcow2,if=none,id=root"),
        "-device",
        "virtio-blk-pci,drive=root,id=dev-a",
        "-drive",
        &drive(&two, "format=raw,if=virtio"),
    ];
    let _foreign = Foreign::start(&host, &line);
    let socket = host.path("foreign.qmp");
    eventually("QEMU listens", async || socket.exists()).await;
    let vm = host.driver().adopt(socket.clone(), None).await.expect("adopt");
    assert_eq!(vm.to_string(), uuid);
    let info = host.driver().inspect(vm).await.expect("inspect");
    assert_eq!((info.name.as_str(), info.adopted, info.power), ("their-vm", true, PowerState::Paused));
    assert_eq!((info.definition.memory_mib, info.definition.vcpus), (64, 2));
    let disks: Vec<_> =
        info.disks.iter().map(|disk| (disk.name.as_str(), disk.path.clone(), disk.size)).collect();
    assert_eq!(disks, [("a", one, 16 * MIB), ("virtio0", two, 8 * MIB)]);
    let refused = host.driver().start(vm, StartOptions::default()).await.expect_err("it is not ours");
    assert!(matches!(refused, Error::Adopted { .. }), "{refused}");
    assert!(matches!(host.driver().power_off(vm).await, Err(Error::Adopted { .. })));
    host.first_mark(vm, &["a", "virtio0"]).await;
    write(&host.monitor().await, "a", 1, MIB, 4 * KIB).await;
    // The image is found below the filter of the cut that is open.
    let view = host.driver().cut(vm, host.cut(&["a", "virtio0"], 0, 1)).await.expect("cut");
    assert_eq!(host.driver().inspect(vm).await.expect("inspect").disks, info.disks);
    assert_eq!(dirty(&*view, "a").await, [(MIB, 4 * KIB)]);
    view.close().await.expect("close");
    host.reopen().await;
    let again = host.driver().inspect(vm).await.expect("inspect");
    assert_eq!((again.power, again.name, again.disks), (PowerState::Paused, info.name, info.disks));
    let marks = host.driver().marks(vm, &tracker(), &names(&["a", "virtio0"])).await.expect("marks");
    assert_eq!(marks.iter().filter(|mark| mark.complete).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_vm_is_read_on_after_an_upgrade_and_under_a_new_name() {
    let mut host = Host::new().await;
    let disk = host.path("one");
    create_image(&disk, "qcow2", 16 * MIB);
    let line =
        ["-drive", &drive(&disk, "format=qcow2,if=none,id=a"), "-device", "virtio-blk-pci,drive=a,id=dev-a"];
    let _foreign = Foreign::start(&host, &line);
    let socket = host.path("foreign.qmp");
    eventually("QEMU listens", async || socket.exists()).await;
    let vm = host.driver().adopt(socket.clone(), None).await.expect("adopt");
    // Its one NBD server is on a socket that the release before named.
    host.first_mark(vm, &["a"]).await;
    host.close().await;
    host.shorten_runtime_names(vm);
    assert!(host.short_runtime_file(vm, "nbd").exists());
    host.reopen().await;
    let name = standin_model::VmName::new("ours").expect("a name");
    host.driver().rename(vm, name.clone()).await.expect("renamed");
    let view = host.driver().cut(vm, host.cut(&["a"], 0, 1)).await.expect("its disks can be read");
    view.close().await.expect("close");
    host.reopen().await;
    assert_eq!(host.driver().inspect(vm).await.expect("inspect").name, name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_vm_may_come_and_go() {
    let host = Host::new().await;
    let disk = host.path("one");
    create_image(&disk, "qcow2", 16 * MIB);
    let line =
        ["-drive", &drive(&disk, "format=qcow2,if=none,id=a"), "-device", "virtio-blk-pci,drive=a,id=dev-a"];
    let foreign = Foreign::start(&host, &line);
    let socket = host.path("foreign.qmp");
    eventually("QEMU listens", async || socket.exists()).await;
    let name = Some(standin_model::VmName::new("theirs").expect("a name"));
    let vm = host.driver().adopt(socket.clone(), name).await.expect("adopt");
    let mut events = host.driver().events();
    host.first_mark(vm, &["a"]).await;
    drop(foreign);
    assert_eq!(event(&mut events).await, VmEvent::Stopped { vm, clean: false });
    let off = host.driver().inspect(vm).await.expect("inspect");
    assert_eq!((off.power, off.name.as_str()), (PowerState::Off, "theirs"));
    assert!(matches!(host.driver().cut(vm, host.cut(&["a"], 0, 1)).await, Err(Error::NotRunning(_))));
    let _foreign = Foreign::start(&host, &line);
    assert_eq!(event(&mut events).await, VmEvent::Started(vm));
    host.first_mark(vm, &["a"]).await;
    host.monitor().await.execute("quit", serde_json::Value::Null).await.expect("quit");
    assert_eq!(event(&mut events).await, VmEvent::Stopped { vm, clean: true });
    host.driver().undefine(vm).await.expect("forget it");
    assert_eq!(host.driver().list().await.expect("list").len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_no_monitor_of_a_qemu_is_refused() {
    let host = Host::new().await;
    let missing = host.driver().adopt(host.path("nowhere"), None).await.expect_err("no socket");
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
    let socket = host.path("other");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    let talker = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().expect("accept");
        stream.write_all(b"SSH-2.0-nothing\n").expect("write");
    });
    let foreign = host.driver().adopt(socket, None).await.expect_err("no monitor");
    talker.join().expect("the talker");
    assert!(matches!(foreign, Error::Connection { .. }), "{foreign}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_that_somebody_else_holds_is_said_to_be_held() {
    let host = Host::new().await;
    let _foreign = Foreign::start(&host, &[]);
    let socket = host.path("foreign.qmp");
    eventually("QEMU listens", async || socket.exists()).await;
    let connect = standin_hypervisor::qmp::Qmp::connect(&socket, Duration::from_secs(5));
    let _holder = connect.await.expect("the first client");
    let held = host.driver().adopt(socket, None).await.expect_err("the second client");
    assert!(held.to_string().contains("another program holds this monitor"), "{held}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_monitor_of_a_vm_that_is_forgotten_is_free_for_others() {
    let host = Host::new().await;
    let disk = host.path("one");
    create_image(&disk, "qcow2", 16 * MIB);
    let _foreign = Foreign::start(&host, &["-drive", &drive(&disk, "format=qcow2,if=virtio")]);
    let socket = host.path("foreign.qmp");
    eventually("QEMU listens", async || socket.exists()).await;
    for _ in 0..2 {
        let vm = host.driver().adopt(socket.clone(), None).await.expect("adopt");
        host.driver().undefine(vm).await.expect("forgotten");
        let connect = standin_hypervisor::qmp::Qmp::connect(&socket, Duration::from_secs(5));
        connect.await.expect("somebody else's client");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_nbd_server_in_the_process_is_said_to_be_in_the_way() {
    let host = Host::new().await;
    let disk = host.path("one");
    create_image(&disk, "qcow2", 16 * MIB);
    let _foreign = Foreign::start(&host, &["-drive", &drive(&disk, "format=qcow2,if=virtio")]);
    let socket = host.path("foreign.qmp");
    eventually("QEMU listens", async || socket.exists()).await;
    let vm = host.driver().adopt(socket, None).await.expect("adopt");
    let address = serde_json::json!({ "type": "unix", "data": { "path": host.path("their.nbd") } });
    let started =
        host.monitor().await.execute("nbd-server-start", serde_json::json!({ "addr": address })).await;
    started.expect("their server");
    let refused = host.driver().live(vm, live(&["virtio0"], None, 0)).await.err().expect("no server for us");
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
    let marks = host.driver().marks(vm, &tracker(), &names(&["virtio0"])).await.expect("marks");
    assert_eq!(marks, [], "nothing was begun");
}
