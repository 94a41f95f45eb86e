//! The probe with scripts in place of QEMU.

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// A program in place of QEMU. It counts its runs under KVM in `runs`.
fn script(dir: &Path, body: &str) -> PathBuf {
    let (source, file) = (dir.join("source"), dir.join("qemu"));
    let text =
        format!("#!/bin/sh\n[ \"$2\" != kvm ] || echo run >> {}\n{body}\n", dir.join("runs").display());
    std::fs::write(&source, text).expect("write the script");
    // Copied by another process: a descriptor open for writing in this one could be inherited by the child
    // of another test, and Linux refuses to run a file that somebody can write to.
    let installed = std::process::Command::new("install").arg("-m755").args([&source, &file]).status();
    assert!(installed.expect("run install").success());
    file
}

fn runs(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("runs")).unwrap_or_default().lines().count()
}

/// A prober on a host where `/dev/kvm` can be opened.
fn prober(dir: &Path, qemu: &Path, timeout: Duration) -> Prober {
    Prober { device: "/dev/null".into(), ..Prober::new(qemu, dir, timeout) }
}

fn reason(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Tcg { reason } => reason,
        Accelerator::Kvm => panic!("KVM was believed"),
    }
}

#[test]
fn the_boot_sector_is_one_and_its_message_is_where_the_code_looks() {
    let sector = boot_sector();
    assert_eq!(sector.len(), 512);
    assert_eq!(&sector[510..], &[0x55, 0xaa]);
    let at = usize::from(u16::from_le_bytes([sector[5], sector[6]])) - 0x7c00;
    assert_eq!(&sector[at..at + WORD.len()], WORD);
    assert_eq!(sector[at + WORD.len()], 0, "the message ends");
}

#[tokio::test]
async fn a_guest_that_spoke_means_kvm_and_the_answer_is_kept_over_restarts() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), "echo SeaBIOS; echo standin-guest-ran; exec sleep 60");
    let first = prober(dir.path(), &qemu, SOON);
    assert_eq!(first.accelerator().await, Accelerator::Kvm);
    assert_eq!(first.accelerator().await, Accelerator::Kvm);
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    assert_eq!(runs(dir.path()), 1);
}

#[tokio::test]
async fn vms_that_start_together_cause_one_probe() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), "sleep 0.2; echo standin-guest-ran; exec sleep 60");
    let prober = prober(dir.path(), &qemu, SOON);
    let (one, two) = tokio::join!(prober.accelerator(), prober.accelerator());
    assert_eq!((one, two), (Accelerator::Kvm, Accelerator::Kvm));
    assert_eq!(runs(dir.path()), 1);
}

#[tokio::test]
async fn a_guest_that_is_faster_emulated_means_emulation() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), "[ $2 = tcg ] || sleep 2.5; echo standin-guest-ran");
    let said = reason(prober(dir.path(), &qemu, SOON).accelerator().await);
    assert!(said.contains("under KVM and"), "{said}");
}

#[tokio::test]
async fn a_host_that_is_slow_either_way_keeps_kvm() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), "sleep 1.2; echo standin-guest-ran");
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    // Emulation that does not work at all is no reason against KVM.
    let qemu = script(dir.path(), "[ $2 = kvm ] || exit 1; sleep 1.2; echo standin-guest-ran");
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
}

#[tokio::test]
async fn a_silent_guest_means_emulation_and_its_process_is_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), "echo $$ > \"$0.pid\"; exec sleep 60");
    let said = reason(prober(dir.path(), &qemu, Duration::from_millis(500)).accelerator().await);
    assert!(said.contains("first output") && said.contains(CACHE_FILE), "{said}");
    let pid = std::fs::read_to_string(dir.path().join("qemu.pid")).expect("it ran");
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the guest lives on");
}

#[tokio::test]
async fn words_of_a_qemu_that_ends_are_the_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), "echo 'failed to initialize kvm: no bees' >&2; exit 1");
    let said = reason(prober(dir.path(), &qemu, SOON).accelerator().await);
    assert!(said.contains("no bees"), "{said}");
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).expect("list").flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".img")), "{left:?}");
}

#[tokio::test]
async fn a_word_that_is_only_almost_right_is_not_believed() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), "echo standin-guest; yes x | head -c 100000");
    let said = reason(prober(dir.path(), &qemu, SOON).accelerator().await);
    assert!(said.contains("something else"), "{said}");
}

#[tokio::test]
async fn another_qemu_or_another_boot_or_a_broken_cache_is_probed_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().join(CACHE_FILE);
    let qemu = script(dir.path(), "echo no >&2");
    reason(prober(dir.path(), &qemu, SOON).accelerator().await);
    let qemu = script(dir.path(), "echo standin-guest-ran # upgraded");
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    let mut cached = read_cache(&cache).expect("a cache");
    cached.key.boot_id = "an earlier boot".to_owned();
    cached.accelerator = tcg("stale".to_owned());
    write_cache(&cache, &cached).expect("write");
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    for broken in ["", "{", "null", &"x".repeat(100_000)] {
        std::fs::write(&cache, broken).expect("write");
        assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    }
    assert_eq!(runs(dir.path()), 7);
}

#[tokio::test]
async fn a_host_without_the_device_or_without_qemu_is_not_probed() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), "echo standin-guest-ran");
    let closed = Prober { device: dir.path().join("kvm"), ..prober(dir.path(), &qemu, SOON) };
    assert!(reason(closed.accelerator().await).contains("cannot be opened"));
    assert_eq!(runs(dir.path()), 0);
    let missing = prober(dir.path(), Path::new("qemu-system-of-nobody"), SOON);
    assert!(reason(missing.accelerator().await).contains("in PATH"));
    assert!(!dir.path().join(CACHE_FILE).exists(), "such answers are not kept");
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_still_gives_an_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), "echo standin-guest-ran");
    let lost = prober(&dir.path().join("gone"), &qemu, SOON);
    assert!(reason(lost.accelerator().await).contains("write"));
}
