//! Processes that go on when what is known of their VMs is lost.

use crate::qemu_harness::*;
use standin_hypervisor::{DiskFormat, Error, Hypervisor, PowerState, StartOptions, VmDefinition};
use standin_model::VmId;
use std::path::PathBuf;

const ONE: [(&str, DiskFormat, u64); 1] = [("a", DiskFormat::Qcow2, 16 * MIB)];

fn definition_file(host: &Host, vm: VmId) -> PathBuf {
    host.path("state").join("vms").join(format!("{vm}.toml"))
}

/// The state directory is put back from a backup that is older than the VM.
async fn forget(host: &mut Host, vm: VmId) {
    host.close().await;
    std::fs::remove_file(definition_file(host, vm)).expect("remove");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_runs_is_known_again_by_its_process_and_can_be_stopped() {
    let mut host = Host::new().await;
    let definition = host.definition(&ONE);
    let vm = host.start(&definition).await;
    let before = host.driver().inspect(vm).await.expect("inspect");
    forget(&mut host, vm).await;
    host.reopen().await;
    let found = host.driver().inspect(vm).await.expect("it is known");
    assert_eq!((found.pid, found.power, &found.name), (before.pid, before.power, &before.name));
    assert_eq!(found.definition, definition);
    assert!(definition_file(&host, vm).exists(), "it stays known");
    assert!(matches!(host.driver().start(vm, StartOptions::default()).await, Err(Error::AlreadyRunning(_))));
    assert!(matches!(host.driver().define_new(definition).await, Err(Error::VmExists(_))));
    host.driver().power_off(vm).await.expect("power off");
    // A process that has ended makes nothing known.
    forget(&mut host, vm).await;
    host.reopen().await;
    assert!(matches!(host.driver().inspect(vm).await, Err(Error::UnknownVm(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_not_take_the_name_that_another_vm_got_meanwhile() {
    let mut host = Host::new().await;
    let vm = host.start(&host.definition(&ONE)).await;
    forget(&mut host, vm).await;
    let other =
        VmDefinition { uuid: VmId::random(), ..host.definition(&[("b", DiskFormat::Qcow2, 16 * MIB)]) };
    std::fs::write(definition_file(&host, other.uuid), other.to_toml().expect("text")).expect("write");
    host.reopen().await;
    let found = host.driver().inspect(vm).await.expect("it is known");
    assert_eq!((found.name.as_str(), found.power), (vm.to_string().as_str(), PowerState::Paused));
    assert_eq!(host.driver().inspect(other.uuid).await.expect("inspect").name, other.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_an_earlier_release_started_is_known_again_too_and_by_its_newest_name() {
    let mut host = Host::new().await;
    let vm = host.start(&host.definition(&ONE)).await;
    host.close().await;
    host.shorten_runtime_names(vm);
    host.reopen().await;
    let name = standin_model::VmName::new("renamed").expect("a name");
    host.driver().rename(vm, name.clone()).await.expect("rename");
    forget(&mut host, vm).await;
    host.reopen().await;
    assert_eq!(host.driver().inspect(vm).await.expect("it is known").name, name);
}
