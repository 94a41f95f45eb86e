use super::*;
use crate::definition::DiskFormat;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

fn qemu_img(arguments: &[&str]) {
    let status = Command::new("qemu-img").args(arguments).status().expect("run qemu-img");
    assert!(status.success(), "qemu-img {arguments:?}");
}

/// An overlay, which only `qemu-img` can tell, and the image below it.
fn overlay(dir: &TempDir) -> (DiskDefinition, PathBuf) {
    let (below, top) = (dir.path().join("below.qcow2"), dir.path().join("top.qcow2"));
    let text = |path: &PathBuf| path.to_str().expect("UTF-8").to_owned();
    qemu_img(&["create", "-q", "-f", "qcow2", &text(&below), "8M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", &text(&below), "-F", "qcow2", &text(&top)]);
    let name = DiskName::new("root").expect("a name");
    (DiskDefinition::new(name, top, DiskFormat::Qcow2), below)
}

async fn look_once(disk: &DiskDefinition, memory: &Memory) -> Result<u64, Error> {
    look(disk, memory, &Arc::default(), &Semaphore::new(1)).await
}

fn settle() {
    std::thread::sleep(SETTLED + Duration::from_secs(1));
}

#[tokio::test]
async fn what_qemu_said_is_remembered_until_a_file_below_it_or_the_definition_differs() {
    let dir = tempfile::tempdir().expect("a directory");
    let (disk, below) = overlay(&dir);
    let memory = Memory::default();
    assert_eq!(look_once(&disk, &memory).await.expect("look"), 8 << 20);
    assert_eq!(memory.size(&disk), None, "a file that is this young may change without a new time");
    settle();
    assert_eq!(look_once(&disk, &memory).await.expect("look"), 8 << 20);
    assert_eq!(memory.size(&disk), Some(8 << 20));
    let other = DiskDefinition { read_only: true, ..disk.clone() };
    assert_eq!(memory.size(&other), None, "another definition");
    // The same bytes under the same time of change: only the inode's own time differs.
    let modified = fs::metadata(&below).and_then(|found| found.modified()).expect("a time");
    let file = fs::File::options().write(true).open(&below).expect("open");
    file.set_modified(modified).expect("set the time");
    assert_eq!(memory.size(&disk), None, "the image below was touched");
    settle();
    look_once(&disk, &memory).await.expect("look");
    assert_eq!(memory.size(&disk), Some(8 << 20));
    memory.clear();
    assert_eq!(memory.size(&disk), None);
}

#[tokio::test]
async fn a_resized_image_shows_its_new_size_and_a_lost_one_below_is_a_problem() {
    let dir = tempfile::tempdir().expect("a directory");
    let (disk, below) = overlay(&dir);
    settle();
    let memory = Memory::default();
    assert_eq!(look_once(&disk, &memory).await.expect("look"), 8 << 20);
    qemu_img(&["resize", "-q", disk.file.to_str().expect("UTF-8"), "16M"]);
    assert_eq!(look_once(&disk, &memory).await.expect("look"), 16 << 20);
    fs::remove_file(below).expect("remove");
    let error = look_once(&disk, &memory).await.expect_err("the image below is gone");
    assert!(matches!(error, Error::DiskProblem { .. }), "{error}");
}

#[tokio::test]
async fn a_written_image_is_a_problem_though_its_header_tells_its_size() {
    let dir = tempfile::tempdir().expect("a directory");
    let (disk, below) = overlay(&dir);
    let disk = DiskDefinition { file: below, ..disk };
    let memory = Memory::default();
    assert_eq!(look_once(&disk, &memory).await.expect("look"), 8 << 20);
    let monitor = format!("socket,id=m,path={},server=on,wait=off", dir.path().join("m").display());
    let mut holder = Command::new("qemu-storage-daemon")
        .args(["--chardev", &monitor, "--monitor", "chardev=m"])
        .args(["--blockdev", &format!("driver=file,node-name=f,filename={}", disk.file.display())])
        .args(["--nbd-server", &format!("addr.type=unix,addr.path={}", dir.path().join("n").display())])
        .args(["--export", "type=nbd,id=e,node-name=f,writable=on"])
        .spawn()
        .expect("run qemu-storage-daemon");
    let mut said = String::new();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let locks = Arc::new(Locks::read());
        if let Err(error) = look(&disk, &memory, &locks, &Semaphore::new(1)).await {
            said = error.to_string();
            break;
        }
    }
    holder.kill().and_then(|()| holder.wait()).expect("end it");
    assert!(said.contains("in use by another process"), "{said:?}");
}
