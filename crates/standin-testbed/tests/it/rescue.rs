//! The page docs/rescue.md, done by script: its own commands are run on a replica of which only the directory is
//! left, without its database and without standin.

use crate::rig::{PATIENCE, Rig, text};
use crate::uefi;
use serde_json::Value;
use standin_testbed::guest::{SerialLog, checkout};
use standin_testbed::oracle::{self, Verdict};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The page speaks of a VM with one disk of this name, of this epoch, and of this directory.
const DISK: &str = "root";
const EPOCH: &str = "000000000042";
const ELSEWHERE: &str = "/srv/rescue";

/// The commands of the page, each as one line.
struct Page {
    info: String,
    overlay: String,
    copy: String,
    from_disk: String,
    variables: String,
    from_kernel: String,
}

/// Lines of the page that are set as code, with those joined that go on.
fn commands(page: &str) -> Vec<String> {
    let (_, by_hand) = page.split_once("\n## By hand\n").unwrap();
    let joined = by_hand.replace("\\\n", " ");
    let code = joined.lines().filter_map(|line| line.strip_prefix("    "));
    let starts = ["qemu-img ", "qemu-system-x86_64 ", "cp "];
    code.filter(|line| starts.iter().any(|start| line.starts_with(start))).map(str::to_owned).collect()
}

impl Page {
    fn read() -> Self {
        let page = std::fs::read_to_string(checkout().join("docs/rescue.md")).unwrap();
        let found = commands(&page);
        let Ok([info, overlay, copy, from_disk, variables, from_kernel]) =
            <[String; 6]>::try_from(found.clone())
        else {
            panic!("the page has other commands than this test runs: {found:#?}")
        };
        assert!(info.contains(" info ") && overlay.contains(" create ") && copy.contains(" convert "));
        assert!(from_disk.contains(" -drive ") && !from_disk.contains(" -kernel "), "{from_disk}");
        assert!(variables.starts_with("cp ") && from_kernel.contains(" -kernel "), "{from_kernel}");
        Self { info, overlay, copy, from_disk, variables, from_kernel }
    }
}

/// A replica's directory that was carried to a machine without standin.
struct Rescue {
    replica: PathBuf,
    elsewhere: PathBuf,
}

impl Rescue {
    /// Puts this case's names into a command of the page. Every one that is to be replaced has to be there.
    fn fill(&self, command: &str, names: &[(&str, &str)]) -> String {
        let elsewhere = text(&self.elsewhere);
        names.iter().chain([&(ELSEWHERE, elsewhere)]).fold(command.to_owned(), |line, (from, to)| {
            assert!(line.contains(from) || *from == ELSEWHERE, "no {from:?} in {line:?}");
            line.replace(from, to)
        })
    }

    /// Runs a command in the replica's directory, by a shell, as a person would.
    fn run(&self, command: &str) -> String {
        eprintln!("$ {command}");
        let output = Command::new("sh").args(["-euc", command]).current_dir(&self.replica).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn json(&self, file: &Path) -> Value {
        let bytes = std::fs::read(self.replica.join(file)).unwrap();
        // Behind the JSON of a manifest comes a line with its digest.
        serde_json::Deserializer::from_slice(&bytes).into_iter().next().unwrap().unwrap()
    }

    /// One disk of a point, by a command of the page; where it is then.
    fn disk(&self, command: &str, disk: &str, epoch: &str) -> PathBuf {
        let made = format!("{DISK}.qcow2");
        let command =
            self.fill(command, &[(&format!("disks/{DISK}/"), &format!("disks/{disk}/")), (EPOCH, epoch)]);
        self.run(&command.replace(&made, &format!("{disk}.qcow2")));
        self.elsewhere.join(format!("{disk}.qcow2"))
    }

    fn judged(&self, command: &str, epoch: &str) -> Verdict {
        let [a, b] = ["log-a", "log-b"].map(|disk| self.disk(command, disk, epoch));
        let verdict = oracle::judge_files(&a, &b).unwrap();
        assert!(verdict.consistent && verdict.records > 0, "{epoch}: {verdict:?}");
        verdict
    }
}

/// A QEMU of the page, ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is what we want.
        let _ = self.0.kill().and_then(|()| self.0.wait().map(drop));
    }
}

fn replica_below(dir: &Path) -> PathBuf {
    let mut found = std::fs::read_dir(dir.join("data/replicas")).unwrap().map(|entry| entry.unwrap().path());
    let replica = found.find(|path| path.join("manifest.json").is_file());
    replica.expect("a directory with a manifest")
}

/// Every file of a directory with its bytes.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(content(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            all.insert(path, bytes);
        }
    }
    all
}

/// Both hosts are lost; the replica's directory is all there is.
fn lost() -> (Rescue, tempfile::TempDir) {
    let mut rig = Rig::new();
    // With firmware, a kernel and two disks: everything the page speaks of.
    let (guest, _) = uefi::boot(&rig, "writer", 50);
    rig.replicate("writer", "2s");
    let first = rig.wait_point_beyond("writer", 1);
    let written = guest.serial.last_written().unwrap();
    guest.serial.wait_written_beyond(written + 100, PATIENCE).unwrap();
    rig.wait_point_beyond("writer", first + 1);
    rig.a.lose_power().unwrap();
    rig.b.lose_power().unwrap();
    let machine = crate::rig::workdir();
    let rescue = Rescue { replica: machine.path().join("replica"), elsewhere: machine.path().join("srv") };
    std::fs::create_dir(&rescue.elsewhere).unwrap();
    let copied = Command::new("cp").arg("-a").arg(replica_below(rig.b.dir())).arg(&rescue.replica).status();
    assert!(copied.unwrap().success());
    (rescue, machine)
}

/// The command line with which the kernel was started, from the point's `vm.toml`.
fn cmdline(vm_toml: &str) -> String {
    let line = vm_toml.lines().find_map(|line| line.strip_prefix("cmdline = ")).unwrap();
    line.trim_matches('"').to_owned()
}

#[test]
fn the_rescue_page_brings_the_latest_and_an_older_point_back_without_standin() {
    let page = Page::read();
    let (rescue, machine) = lost();
    let before = content(&rescue.replica);

    let manifest = rescue.json(Path::new("manifest.json"));
    let points = manifest["points"].as_array().unwrap();
    let mut epochs: Vec<u64> = points.iter().map(|point| point["epoch"].as_u64().unwrap()).collect();
    epochs.sort_unstable();
    let (oldest, newest) = (epochs[0], epochs[epochs.len() - 1]);
    assert!(oldest < newest, "two points at least: {epochs:?}");
    let [older, latest] = [oldest, newest].map(|epoch| format!("{epoch:012}"));

    let chain = rescue.fill(&page.info, &[(&format!("disks/{DISK}/"), "disks/log-a/"), (EPOCH, &latest)]);
    let chain = rescue.run(&chain);
    assert!(chain.matches("file format: qcow2").count() >= 2, "{chain}");
    let copied = rescue.judged(&page.copy, &older);
    // What was the older point is the overlay of the latest from here on.
    assert_eq!(rescue.judged(&page.overlay, &older), copied, "a copy and an overlay of one point");
    let verdict = rescue.judged(&page.overlay, &latest);
    assert!(verdict.last_sequence > copied.last_sequence, "{copied:?} {verdict:?}");

    let point = points.iter().find(|point| point["epoch"] == newest).unwrap();
    let config = PathBuf::from(format!("config/{:012}", point["config_epoch"].as_u64().unwrap()));
    let vm_toml = std::fs::read_to_string(rescue.replica.join(&config).join("vm.toml")).unwrap();
    let files = rescue.json(&config.join("files.json"));
    let hash = |role: &str| {
        let file = files.as_array().unwrap().iter().find(|file| file["role"] == role);
        file.unwrap()["hash"].as_str().unwrap().to_owned()
    };
    rescue.run(&rescue.fill(&page.variables, &[("HASH_OF_NVRAM", &hash("nvram"))]));
    // One `-drive` a disk; and nobody looks at a screen here.
    let disk = page.from_kernel.split(" -drive ").last().unwrap().to_owned();
    let second = disk.replace(&format!("{DISK}.qcow2"), "log-b.qcow2");
    let first = disk.replace(&format!("{DISK}.qcow2"), "log-a.qcow2");
    assert!(first != disk && page.from_disk.ends_with(&disk), "the disk's option: {disk:?}");
    let command = page.from_kernel.replace(&disk, &format!("{first} -drive {second}"));
    let command = rescue.fill(
        &command,
        &[
            ("-accel kvm", "-accel tcg"),
            ("-m 2048 -smp 2", "-m 256 -smp 1"),
            ("HASH_OF_FIRMWARE", &hash("firmware")),
            ("HASH_OF_KERNEL", &hash("kernel")),
            ("HASH_OF_INITRD", &hash("initrd")),
            ("CMDLINE OF vm.toml", &cmdline(&vm_toml)),
        ],
    );
    let serial = SerialLog::new(machine.path().join("serial"));
    let command = format!("exec {command} -display none -serial file:{}", text(serial.path()));
    eprintln!("$ {command}");
    let shell =
        Command::new("sh").args(["-euc", &command]).current_dir(&rescue.replica).stdin(Stdio::null()).spawn();
    let running = Running(shell.unwrap());
    let found = serial.wait_verified(0, PATIENCE).unwrap();
    assert_eq!(found, (verdict.records, verdict.last_sequence), "what the guest itself reads");
    serial.wait_written_beyond(verdict.last_sequence, PATIENCE).unwrap();
    assert!(serial.faults().is_empty(), "{:?}", serial.faults());
    drop(running);
    assert!(content(&rescue.replica) == before, "something in the replica's directory was changed");
}
