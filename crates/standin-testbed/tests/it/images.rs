//! The oracle on image files of every kind it must read.

use crate::judged::Pair;
use standin_testbed::oracle::{Format, judge_files, judge_images};
use std::path::Path;
use std::process::Command;

fn convert(from: &Path, to: &Path, format: &str) {
    let status =
        Command::new("qemu-img").args(["convert", "-f", "raw", "-O", format]).args([from, to]).status();
    assert!(status.unwrap().success());
}

#[test]
fn raw_qcow2_and_overlays_are_read_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let pair = Pair::with_records(21);
    std::fs::write(path("a.raw"), &pair.a.0).unwrap();
    std::fs::write(path("b.raw"), &pair.b.0).unwrap();
    convert(&path("a.raw"), &path("a.qcow2"), "qcow2");
    let overlay = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "a.qcow2"])
        .arg(path("over.qcow2"))
        .status();
    assert!(overlay.unwrap().success());
    for a in ["a.raw", "a.qcow2", "over.qcow2"] {
        let verdict = judge_files(&path(a), &path("b.raw")).unwrap();
        assert!(verdict.consistent && verdict.last_sequence == 21, "{a}: {verdict:?}");
    }
    let verdict = judge_files(&path("b.raw"), &path("a.qcow2")).unwrap();
    assert!(!verdict.consistent, "the disks are the wrong way round");
}

#[test]
fn what_cannot_be_read_is_an_error_and_not_a_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.raw");
    std::fs::write(&good, Pair::with_records(3).a.0).unwrap();
    assert!(judge_files(&good, &dir.path().join("none")).is_err());
    let broken = dir.path().join("broken.qcow2");
    std::fs::write(&broken, b"QFI\xfb but nothing more").unwrap();
    assert!(judge_files(&good, &broken).is_err());
    let good = good.to_string_lossy();
    assert!(judge_images(&good, "nbd+unix:///x?socket=/nonexistent", Format::Guess).is_err());
}

#[test]
fn the_command_prints_one_object_and_tells_the_verdict_by_its_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut pair = Pair::with_records(9);
    std::fs::write(path("a"), &pair.a.0).unwrap();
    std::fs::write(path("b"), &pair.b.0).unwrap();
    pair.write(4, 1);
    std::fs::write(path("b-later"), &pair.b.0).unwrap();
    let oracle = |a: &str, b: &str| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_standin-oracle")).args([path(a), path(b)]).output().unwrap();
        (output.status.code(), serde_json::from_slice::<serde_json::Value>(&output.stdout).ok())
    };
    let (status, verdict) = oracle("a", "b");
    let verdict = verdict.unwrap();
    assert_eq!(status, Some(0));
    assert_eq!((&verdict["consistent"], &verdict["last_sequence"]), (&true.into(), &9.into()));
    let (status, verdict) = oracle("a", "b-later");
    assert_eq!(status, Some(1));
    assert!(verdict.unwrap()["first_violation"].is_string());
    assert_eq!(oracle("a", "missing").0, Some(2));
}
