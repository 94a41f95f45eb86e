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

/// What a guest does whose rounds are short under KVM and long emulated.
const HEALTHY: &str = "[ $2 = kvm ] || pause=0.2; echo standin-guest-ready\n\
                       while read -r order; do ${pause:+sleep $pause}; echo standin-guest-round; done";

/// A guest whose rounds last that many seconds, and that first runs `before`.
fn rounds(kvm: &str, tcg: &str, before: &str) -> String {
    format!(
        "{before}\n[ $2 = kvm ] && pause={kvm} || pause={tcg}; echo standin-guest-ready\n\
         while read -r order; do sleep $pause; echo standin-guest-round; done"
    )
}

#[tokio::test]
async fn a_guest_that_is_faster_under_kvm_means_kvm_and_the_answer_is_kept_over_restarts() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), &format!("echo SeaBIOS; {HEALTHY}"));
    let first = prober(dir.path(), &qemu, SOON);
    assert_eq!(first.accelerator().await, Accelerator::Kvm);
    assert_eq!(first.accelerator().await, Accelerator::Kvm);
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    assert_eq!(runs(dir.path()), 1);
}

#[tokio::test]
async fn vms_that_start_together_cause_one_probe() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), HEALTHY);
    let prober = prober(dir.path(), &qemu, SOON);
    let (one, two) = tokio::join!(prober.accelerator(), prober.accelerator());
    assert_eq!((one, two), (Accelerator::Kvm, Accelerator::Kvm));
    assert_eq!(runs(dir.path()), 1);
}

#[tokio::test]
async fn a_guest_that_is_not_clearly_faster_under_kvm_means_emulation() {
    let dir = tempfile::tempdir().expect("a directory");
    for (kvm, tcg) in [("0.5", "0.1"), ("0.3", "0.3"), ("0.4", "0.5")] {
        let qemu = script(dir.path(), &rounds(kvm, tcg, &format!("# {kvm}")));
        let said = reason(prober(dir.path(), &qemu, SOON).accelerator().await);
        assert!(said.contains("under KVM and") && said.contains("emulated"), "{said}");
    }
}

#[tokio::test]
async fn one_round_that_a_busy_host_held_up_does_not_count() {
    let dir = tempfile::tempdir().expect("a directory");
    let held_up =
        "[ $2 = kvm ] && echo standin-guest-ready && read -r order && sleep 1 && echo standin-guest-round";
    let qemu = script(dir.path(), &format!("{held_up}\n{HEALTHY}"));
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
}

#[tokio::test]
async fn a_slow_boot_is_not_slow_work() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), &format!("[ $2 = tcg ] || sleep 1\n{HEALTHY}"));
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
}

#[tokio::test]
async fn a_boot_that_is_well_and_work_that_hangs_means_emulation_with_both_times() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), &rounds("60", "0.3", ""));
    let begin = std::time::Instant::now();
    let said = reason(prober(dir.path(), &qemu, SOON).accelerator().await);
    assert!(said.contains("needs 9") || said.contains("needs 1."), "emulation's time: {said}");
    assert!(said.contains("round 1 of 3") && said.contains("within 2"), "KVM's: {said}");
    assert!(said.contains(CACHE_FILE), "how to ask again: {said}");
    assert!(begin.elapsed() < SOON, "KVM has only the time that it needs: {:?}", begin.elapsed());
}

#[tokio::test]
async fn without_emulation_to_compare_with_kvm_has_to_be_done_in_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), &format!("[ $2 = kvm ] || exit 1\n{HEALTHY}"));
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    // Emulation is not done in a second.
    let second = Duration::from_secs(1);
    let qemu = script(dir.path(), &rounds("0.01", "60", ""));
    assert_eq!(prober(dir.path(), &qemu, second).accelerator().await, Accelerator::Kvm);
}

#[tokio::test]
async fn an_answer_of_a_host_too_busy_to_compare_is_not_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), &rounds("0.4", "60", ""));
    let prober = prober(dir.path(), &qemu, Duration::from_secs(1));
    let said = reason(prober.accelerator().await);
    assert!(said.contains("too busy") && said.contains("asks again"), "{said}");
    assert!(!dir.path().join(CACHE_FILE).exists());
    reason(prober.accelerator().await);
    assert_eq!(runs(dir.path()), 2);
}

#[tokio::test]
async fn memory_that_keeps_nothing_means_emulation() {
    let dir = tempfile::tempdir().expect("a directory");
    let broken =
        "[ $2 = tcg ] || { echo standin-guest-ready; read -r order; echo standin-guest-wrong; sleep 60; }";
    let qemu = script(dir.path(), &format!("{broken}\n{HEALTHY}"));
    let said = reason(prober(dir.path(), &qemu, SOON).accelerator().await);
    assert!(said.contains("does not keep"), "{said}");
}

#[tokio::test]
async fn a_silent_guest_means_emulation_and_its_process_is_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), "echo $$ > \"$0.pid\"; exec sleep 60");
    let said = reason(prober(dir.path(), &qemu, Duration::from_millis(500)).accelerator().await);
    assert!(said.contains("guest's boot"), "{said}");
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
async fn another_qemu_or_boot_or_probe_or_a_broken_cache_is_probed_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().join(CACHE_FILE);
    let qemu = script(dir.path(), "echo no >&2");
    reason(prober(dir.path(), &qemu, SOON).accelerator().await);
    let qemu = script(dir.path(), &format!("{HEALTHY} # upgraded"));
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    let mut cached = read_cache(&cache).expect("a cache");
    cached.key.boot_id = "an earlier boot".to_owned();
    cached.accelerator = tcg("stale".to_owned());
    write_cache(&cache, &cached).expect("write");
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    cached.key = Key { probe: PROBE - 1, ..read_cache(&cache).expect("a cache").key };
    write_cache(&cache, &cached).expect("write");
    assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    for broken in ["", "{", "null", &"x".repeat(100_000)] {
        std::fs::write(&cache, broken).expect("write");
        assert_eq!(prober(dir.path(), &qemu, SOON).accelerator().await, Accelerator::Kvm);
    }
    assert_eq!(runs(dir.path()), 8);
}

#[tokio::test]
async fn a_host_without_the_device_or_without_qemu_is_not_probed() {
    let dir = tempfile::tempdir().expect("a directory");
    let qemu = script(dir.path(), HEALTHY);
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
    let qemu = script(dir.path(), HEALTHY);
    let lost = prober(&dir.path().join("gone"), &qemu, SOON);
    assert!(reason(lost.accelerator().await).contains("write"));
}
