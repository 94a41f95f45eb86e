//! The probe guest with the real QEMU.

use standin_hypervisor::probe::{CACHE_FILE, kvm_usable, run_guest};
use standin_hypervisor::{Accelerator, Error};
use std::path::Path;
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";

#[tokio::test]
async fn the_probe_guest_works_when_its_cpu_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let ran = run_guest(Path::new(QEMU), "tcg", dir.path(), Duration::from_secs(60)).await;
    let ran = ran.expect("emulation works");
    assert!(ran.round > Duration::from_millis(20), "tens of millions of instructions in {ran:?}");
    assert!(ran.whole > 3 * ran.round, "three rounds: {ran:?}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0, "nothing is left");
}

#[tokio::test]
async fn an_accelerator_that_does_not_exist_is_refused_with_qemus_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let outcome = run_guest(Path::new(QEMU), "abacus", dir.path(), Duration::from_secs(30)).await;
    match outcome {
        Err(Error::Unsupported { detail, .. }) => assert!(detail.contains("abacus"), "{detail}"),
        other => panic!("{other:?}"),
    }
}

/// Whatever this host can do: the answer comes in time, KVM is only praised where a guest really ran under it, and
/// the answer is kept.
#[tokio::test]
async fn this_hosts_answer_is_what_a_guest_really_did() {
    let dir = tempfile::tempdir().expect("a directory");
    let limit = Duration::from_secs(5);
    let begin = Instant::now();
    let answer = kvm_usable(Path::new(QEMU), dir.path(), limit).await;
    assert!(begin.elapsed() < 2 * limit + Duration::from_secs(3), "{:?}", begin.elapsed());
    println!("{answer:?}");
    match &answer {
        Accelerator::Kvm => {
            let by_kvm = run_guest(Path::new(QEMU), "kvm", dir.path(), 2 * limit).await;
            let emulated = run_guest(Path::new(QEMU), "tcg", dir.path(), 6 * limit).await;
            let (by_kvm, emulated) = (by_kvm.expect("a guest under KVM"), emulated.expect("emulation works"));
            assert!(by_kvm.round < emulated.round, "{by_kvm:?} {emulated:?}");
        }
        Accelerator::Tcg { reason } => assert!(reason.contains("/dev/kvm"), "{reason}"),
    }
    if dir.path().join(CACHE_FILE).exists() {
        let begin = Instant::now();
        assert_eq!(kvm_usable(Path::new(QEMU), dir.path(), limit).await, answer);
        assert!(begin.elapsed() < Duration::from_secs(1), "the kept answer took {:?}", begin.elapsed());
    }
}
