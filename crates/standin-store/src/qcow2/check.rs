//! Looks for damage in a file's structure, as `qemu-img check` does: every cluster is referenced once and
//! counted once. Called by the scrub, and by tests beside `qemu-img check` itself.

use super::format::{CLUSTER, Header, REFS_PER_BLOCK, l1_clusters};
use super::image::Image;
use crate::error::{Error, Result, to_usize};
use crate::io::Handle;

/// Host offsets of the refcount blocks that cover the file up to `end`.
pub(super) fn read_refcount_table(file: &Handle, header: &Header, end: u64) -> Result<Vec<u64>> {
    let blocks = (end / CLUSTER).div_ceil(REFS_PER_BLOCK);
    if blocks * 8 > u64::from(header.refcount_table_clusters) * CLUSTER {
        return Err(Error::corrupt(file.path(), "its refcount table does not cover the file"));
    }
    let mut bytes = vec![0; to_usize(blocks * 8, "refcount table")?];
    file.read_padded(&mut bytes, header.refcount_table)?;
    let mut hosts = Vec::with_capacity(bytes.len() / 8);
    for raw in bytes.chunks_exact(8) {
        let mut word = [0; 8];
        word.copy_from_slice(raw);
        let host = u64::from_be_bytes(word);
        if host == 0 || !super::format::host_is_inside(host, end) {
            return Err(Error::corrupt(
                file.path(),
                format!("its refcount table has the impossible entry {host:#x}"),
            ));
        }
        hosts.push(host);
    }
    Ok(hosts)
}

/// What is wrong with the structure of an image; empty when nothing is. At most a few lines.
pub(crate) fn structure(image: &Image) -> Result<Vec<String>> {
    const MAX_LINES: usize = 16;
    let end = image.file().len()?.next_multiple_of(CLUSTER);
    let mut references = vec![0_u8; to_usize(end / CLUSTER, "cluster count")?];
    let mut problems = Vec::new();
    let mut claim = |host: u64, what: &str| {
        let slot = usize::try_from(host / CLUSTER).ok().and_then(|at| references.get_mut(at));
        match slot {
            Some(count) => *count = count.saturating_add(1),
            None => problems.push(format!("{what} at {host} lies outside the file")),
        }
    };
    let header = image.header();
    claim(0, "header");
    (0..l1_clusters(header.size)).for_each(|n| claim(header.l1_offset + n * CLUSTER, "L1 table"));
    let table = header.refcount_table;
    (0..u64::from(header.refcount_table_clusters)).for_each(|n| claim(table + n * CLUSTER, "refcount table"));
    let blocks = read_refcount_table(image.file(), header, end)?;
    blocks.iter().for_each(|host| claim(*host, "refcount block"));
    for (index, host) in image.tables() {
        claim(*host, "L2 table");
        for entry in image.table(*index)?.unwrap_or_default().iter().filter(|entry| entry.host != 0) {
            claim(entry.host, "data cluster");
        }
    }
    let mut cluster = 0;
    let mut counts = vec![0; to_usize(CLUSTER, "refcount block")?];
    for block in blocks {
        image.file().read_padded(&mut counts, block)?;
        for count in counts.chunks_exact(2) {
            let stored = u16::from_be_bytes([count[0], count[1]]);
            let found = references.get(cluster).copied().unwrap_or(0);
            if stored != u16::from(found) && problems.len() < MAX_LINES {
                problems.push(format!(
                    "the cluster at {} is used {found} times and counted {stored} times",
                    cluster as u64 * CLUSTER
                ));
            } else if found > 1 && problems.len() < MAX_LINES {
                problems.push(format!("the cluster at {} is used {found} times", cluster as u64 * CLUSTER));
            }
            cluster += 1;
        }
    }
    Ok(problems)
}
