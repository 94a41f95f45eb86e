//! How fast the store is, beside `qemu-img convert` into qcow2 on the same file system in the same run.
//!
//! `cargo run --release -p standin-store --example storespeed -- [DIRECTORY]`

use standin_model::{BlockDigest, DiskName, Epoch, PointId, PointKind, VmId, VmName};
use standin_store::{
    DiskSpec, Kind, NewPoint, Replica, ReplicaSpec, Result, SealRequest, Store, StoreOptions,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;
const BLOCK: usize = 256 << 10;
const GRANULE: u32 = 65536;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let home = tempfile::tempdir_in(directory)?;
    let source = source();
    first_copy(home.path(), &source)?;
    peer(home.path(), &source)?;
    random_writes(home.path())?;
    long_chain(home.path(), 200)?;
    Ok(())
}

fn disk() -> Result<DiskName> {
    DiskName::new("vda").map_err(|e| standin_store::Error::Invalid(e.to_string()))
}

fn make(home: &Path, name: &str, size: u64, granule: u32) -> Result<(Store, Replica)> {
    let location = home.join(name);
    let options = StoreOptions { locations: vec![location.clone()], ..StoreOptions::default() };
    let store = Store::open(options)?;
    let name = VmName::new(name).map_err(|e| standin_store::Error::Invalid(e.to_string()))?;
    let disks = vec![DiskSpec { name: disk()?, size }];
    let replica = store.create(&location, ReplicaSpec { vm: VmId::random(), name, disks, granule })?;
    Ok((store, replica))
}

fn seal(point: bool) -> SealRequest {
    let created_at = jiff::Timestamp::now();
    let new = NewPoint { id: PointId::random(), created_at, kind: PointKind::Standard };
    SealRequest { point: point.then_some(new), config: Vec::new() }
}

/// 16 MiB that do not compress, used over and over.
fn source() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(2 << 20).flatten().collect()
}

fn show(what: &str, time: Duration, bytes: u64) {
    let rate = bytes as f64 / time.as_secs_f64() / f64::from(1 << 20);
    println!("{what:<58} {:>9.1} ms {rate:>8.0} MiB/s", time.as_secs_f64() * 1e3);
}

fn first_copy(home: &Path, source: &[u8]) -> Result<()> {
    let size = 2 * GIB;
    let (_store, replica) = make(home, "first", size, GRANULE)?;
    let digests: Vec<BlockDigest> = source.chunks(GRANULE as usize).map(BlockDigest::of).collect();
    let name = disk()?;
    let layer = replica.begin(Epoch(0), Kind::Base)?;
    let start = Instant::now();
    for at in (0..size).step_by(BLOCK) {
        let from = usize::try_from(at).unwrap_or(0) % source.len();
        let first = from / GRANULE as usize;
        let count = BLOCK / GRANULE as usize;
        layer.write(&name, at, &source[from..from + BLOCK], &digests[first..first + count])?;
        layer.checkpoint(&name, at + BLOCK as u64)?;
    }
    let written = start.elapsed();
    layer.seal(seal(false))?;
    show("2 GiB in 256 KiB writes, with checkpoints", written, size);
    show("  and sealed, durable", start.elapsed(), size);
    let layer = replica.begin(Epoch(1), Kind::Delta)?;
    let start = Instant::now();
    for at in (0..256 << 20).step_by(BLOCK) {
        let from = usize::try_from(at).unwrap_or(0) % source.len();
        let first = from / GRANULE as usize;
        layer.write(
            &name,
            at,
            &source[from..from + BLOCK],
            &digests[first..first + BLOCK / GRANULE as usize],
        )?;
    }
    show("256 MiB delta into the page cache", start.elapsed(), 256 << 20);
    let start = Instant::now();
    layer.seal(seal(true))?;
    show("  its seal", start.elapsed(), 256 << 20);
    Ok(())
}

/// The same data with qemu-img into a qcow2 file, flushed as it does by itself and synced after.
fn peer(home: &Path, source: &[u8]) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let raw = home.join("peer.raw");
    let mut data = Vec::new();
    for _ in 0..2 * GIB / source.len() as u64 {
        data.extend_from_slice(source);
    }
    std::fs::write(&raw, &data)?;
    std::fs::File::open(&raw)?.sync_all()?;
    drop(data);
    let target = home.join("peer.qcow2");
    let start = Instant::now();
    let status =
        Command::new("qemu-img").args(["convert", "-O", "qcow2", "-W"]).arg(&raw).arg(&target).status()?;
    std::fs::File::open(&target)?.sync_all()?;
    assert!(status.success(), "qemu-img convert failed");
    show("qemu-img convert of the same 2 GiB into qcow2, durable", start.elapsed(), 2 * GIB);
    std::fs::remove_file(raw)?;
    std::fs::remove_file(target)?;
    Ok(())
}

fn random_writes(home: &Path) -> Result<()> {
    const COUNT: u64 = 25_000;
    let (_store, replica) = make(home, "random", 8 * GIB, 4096)?;
    let name = disk()?;
    replica.begin(Epoch(0), Kind::Base)?.seal(seal(false))?;
    let layer = replica.begin(Epoch(1), Kind::Delta)?;
    let blocks = 8 * GIB / 4096;
    let mut places: Vec<u64> = (0..COUNT).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % blocks).collect();
    places.sort_unstable();
    let data = vec![0x5a; 4096];
    let digest = [BlockDigest::of(&data)];
    let start = Instant::now();
    for place in &places {
        layer.write(&name, place * 4096, &data, &digest)?;
    }
    show("25,000 random 4 KiB writes on 8 GiB, granule 4 KiB", start.elapsed(), COUNT * 4096);
    let start = Instant::now();
    layer.seal(seal(true))?;
    show("  their seal", start.elapsed(), COUNT * 4096);
    let stored = replica.points().first().map_or(0, |point| point.stored_bytes);
    println!("  stored / written: {:.3}", stored as f64 / (COUNT * 4096) as f64);
    Ok(())
}

fn long_chain(home: &Path, layers: u64) -> Result<()> {
    let size = 1 << 40;
    let (store, replica) = make(home, "chain", size, GRANULE)?;
    let name = disk()?;
    let data = vec![0xa5; GRANULE as usize];
    let digest = [BlockDigest::of(&data)];
    let base = replica.begin(Epoch(0), Kind::Base)?;
    base.write(&name, 0, &data, &digest)?;
    base.seal(seal(false))?;
    let mut idle = Duration::ZERO;
    for epoch in 1..=layers {
        let layer = replica.begin(Epoch(epoch), Kind::Delta)?;
        if epoch % 2 == 0 {
            for n in 0..64 {
                layer.write(&name, (epoch * 64 + n) * 131_072 % size, &data, &digest)?;
            }
        }
        let start = Instant::now();
        layer.seal(seal(true))?;
        idle += if epoch % 2 == 1 { start.elapsed() } else { Duration::ZERO };
    }
    show("seal of an idle layer on a 1 TiB disk, mean", idle / u32::try_from(layers / 2).unwrap_or(1), 0);
    let (vm, last) = (replica.vm(), replica.points().last().map(|point| point.id));
    drop(replica);
    drop(store);
    let start = Instant::now();
    let location = home.join("chain");
    let store = Store::open(StoreOptions { locations: vec![location], ..StoreOptions::default() })?;
    show(&format!("opening a store with {layers} layers"), start.elapsed(), 0);
    let Some((replica, point)) = store.get(vm).zip(last) else { return Ok(()) };
    let start = Instant::now();
    let reader = replica.reader(point)?;
    show("  a reader of its newest point", start.elapsed(), 0);
    let start = Instant::now();
    reader.read(&name, 1 << 20, 4096)?;
    show("  its first read (maps 256 MiB over all layers)", start.elapsed(), 0);
    let start = Instant::now();
    let request =
        standin_store::OverlayRequest { id: "f".into(), point, purpose: standin_store::Purpose::Failover };
    replica.overlay(request)?;
    show("  an overlay on it", start.elapsed(), 0);
    Ok(())
}
