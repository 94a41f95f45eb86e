//! Hosts in namespaces. Needs root: elsewhere these tests say so and end.

use standin_testbed::hosts::SmallFs;
use standin_testbed::netns::{Network, Slowness, available};
use std::process::Command;
use std::time::{Duration, Instant};

fn ping(network: &Network, from: usize, to: usize) -> Option<Duration> {
    let target = network.host(to).unwrap().address.to_string();
    let connect = format!("exec 3<>/dev/tcp/{target}/9");
    let begun = Instant::now();
    // Nobody listens on the port: a refusal is an answer, a timeout is none.
    let status = Command::new("ip")
        .args([
            "netns",
            "exec",
            &network.host(from).unwrap().namespace,
            "timeout",
            "2",
            "bash",
            "-c",
            &connect,
        ])
        .output()
        .unwrap()
        .status;
    (status.code() == Some(1)).then(|| begun.elapsed())
}

/// How long 500 kB take.
fn transfer(network: &Network, from: usize, to: usize) -> Duration {
    let inside = |host: usize, line: &str| {
        let mut command = Command::new("ip");
        let namespace = &network.host(host).unwrap().namespace;
        command.args(["netns", "exec", namespace, "timeout", "20", "bash", "-c", line]);
        command
    };
    let target = network.host(to).unwrap().address;
    let mut receiver = inside(to, "exec busybox nc -l -p 7777 >/dev/null").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    let send = format!("head -c 500000 /dev/zero >/dev/tcp/{target}/7777");
    assert!(inside(from, &send).status().unwrap().success());
    assert!(receiver.wait().unwrap().success());
    begun.elapsed()
}

#[test]
fn links_are_cut_joined_slowed_and_everything_is_gone_at_the_end() {
    if !available() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let network = Network::new(3).unwrap();
    let names: Vec<String> = (0..3).map(|host| network.host(host).unwrap().namespace.clone()).collect();
    assert!(network.host(3).is_err());
    assert!(ping(&network, 0, 1).is_some() && ping(&network, 2, 0).is_some());
    network.cut(1).unwrap();
    assert!(ping(&network, 0, 1).is_none());
    assert!(ping(&network, 0, 2).is_some(), "the other link is not cut");
    network.join(1).unwrap();
    assert!(ping(&network, 0, 1).is_some());
    network.slow(1, Slowness { bits_per_s: 1_000_000, queue_ms: 400 }).unwrap();
    // 500 kB are 4 Mbit: four seconds, less what the bucket lets through at once.
    let there = transfer(&network, 0, 1);
    let back = transfer(&network, 1, 0);
    let least = Duration::from_millis(3300);
    assert!(there > least && back > least, "took {there:?} and {back:?}");
    network.unslow(1).unwrap();
    let again = transfer(&network, 0, 1);
    assert!(again < there.min(back), "took {again:?}");
    drop(network);
    let list = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(names.iter().all(|name| !list.contains(name)), "{list}");
}

#[test]
fn a_small_file_system_is_full_until_released() {
    if !available() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let small = SmallFs::mount(&dir.path().join("small"), 8 << 20).unwrap();
    let write = |bytes: usize| std::fs::write(small.path().join("data"), vec![1; bytes]);
    small.fill(1 << 20).unwrap();
    write(512 << 10).unwrap();
    assert!(write(4 << 20).is_err());
    small.release().unwrap();
    write(4 << 20).unwrap();
    let path = small.path().to_path_buf();
    drop(small);
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "unmounted, and nothing left below");
}
