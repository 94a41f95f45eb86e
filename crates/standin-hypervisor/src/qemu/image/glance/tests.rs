use super::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn made(dir: &TempDir, name: &str, arguments: &[&str]) -> PathBuf {
    let path = dir.path().join(name);
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]);
    let (size, options) = arguments.split_last().expect("a size at least");
    let status = command.args(options).arg(&path).arg(size).status().expect("run qemu-img");
    assert!(status.success(), "create {name}");
    path
}

fn look(path: &Path, format: DiskFormat) -> Glance {
    glance(&mut File::open(path).expect("open"), format)
}

/// The size that `qemu-img` reports, if it opens the image.
fn judge(path: &Path, format: &str) -> Option<u64> {
    let mut command = Command::new("qemu-img");
    let output =
        command.args(["info", "--output=json", "-f", format]).arg(path).output().expect("run qemu-img");
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    output.status.success().then(|| info["virtual-size"].as_u64()).flatten()
}

#[test]
fn ordinary_images_are_told_without_qemu_and_as_it_tells_them() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, options) in [
        ("plain", &["10M"][..]),
        ("empty", &["0"]),
        ("small-clusters", &["-o", "cluster_size=512", "3M"]),
        ("large-clusters", &["-o", "cluster_size=2M", "1T"]),
        ("subclusters", &["-o", "extended_l2=on", "40G"]),
        ("reserved", &["-o", "preallocation=metadata", "64M"]),
        ("wide-refcounts", &["-o", "refcount_bits=64", "10M"]),
    ] {
        let path = made(&dir, name, options);
        let size = judge(&path, "qcow2").expect("qemu-img opens it");
        assert_eq!(look(&path, DiskFormat::Qcow2), Glance::Size(size), "{name}");
    }
    for length in [0_usize, 1, 511, 512, 5000] {
        let path = dir.path().join("raw");
        fs::write(&path, vec![7; length]).expect("write");
        let size = judge(&path, "raw").expect("qemu-img opens it");
        assert_eq!(look(&path, DiskFormat::Raw), Glance::Size(size), "{length} bytes");
    }
}

#[test]
fn an_image_with_marks_is_ordinary_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = made(&dir, "marked", &["64M"]);
    let mut command = Command::new("qemu-img");
    assert!(
        command.args(["bitmap", "--add"]).arg(&path).arg("mark").status().expect("run qemu-img").success()
    );
    assert_eq!(look(&path, DiskFormat::Qcow2), Glance::Size(64 << 20));
}

#[test]
fn whatever_is_not_ordinary_is_left_to_qemu() {
    let dir = tempfile::tempdir().expect("a directory");
    let below = made(&dir, "below", &["10M"]);
    let below = below.to_str().expect("a path in UTF-8");
    let data = dir.path().join("outside");
    let outside = format!("data_file={}", data.display());
    for (name, options) in [
        ("old", &["-o", "compat=0.10", "10M"][..]),
        ("backed", &["-b", below, "-F", "qcow2", "10M"]),
        ("zstd", &["-o", "compression_type=zstd", "10M"]),
        ("elsewhere", &["-o", &outside, "10M"]),
    ] {
        assert_eq!(look(&made(&dir, name, options), DiskFormat::Qcow2), Glance::AskQemu, "{name}");
    }
    let other = dir.path().join("other");
    fs::write(&other, "not an image").expect("write");
    assert_eq!(look(&other, DiskFormat::Qcow2), Glance::OtherFormat);
}

#[test]
fn a_damaged_header_is_never_told_otherwise_than_qemu_tells_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = made(&dir, "image", &["-o", "extended_l2=on", "10G"]);
    let whole = fs::read(&path).expect("read");
    let (mut told, mut declined) = (0, 0);
    // The fields, and the beginning of the extensions.
    for at in 0..120 {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).expect("write");
        match look(&path, DiskFormat::Qcow2) {
            Glance::Size(size) => {
                assert_eq!(judge(&path, "qcow2"), Some(size), "byte {at}");
                told += 1;
            }
            Glance::OtherFormat | Glance::AskQemu => declined += 1,
        }
    }
    assert!(told > 0 && declined > 60, "{told} told, {declined} declined");
    for cut in [0, 3, 4, 71, 103, 104, 111, 200] {
        fs::write(&path, &whole[..cut]).expect("write");
        assert!(!matches!(look(&path, DiskFormat::Qcow2), Glance::Size(_)), "cut at {cut}");
    }
}
