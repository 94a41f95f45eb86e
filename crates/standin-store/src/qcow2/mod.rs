//! qcow2, as far as the store's own files use it: version 3, clusters of 64 KiB, extended L2 entries with 32
//! subclusters of 2 KiB, 16-bit refcounts, no snapshots, no compression, no encryption.
//!
//! ```text
//! guest offset   | L1 index (256 MiB each) | L2 index (64 KiB each) | subcluster (2 KiB each) |
//! file           | header | L1 table | data clusters and L2 tables as they come | refcount blocks, table |
//! L2 entry       | 64 bits: host offset, bit 63 "refcount is one" | 32 bits zero | 32 bits allocated |
//! ```
//!
//! A change of 4 KiB fills two subclusters of a host cluster; the rest of that cluster is a hole in the file.
//! Facts are from QEMU's `docs/interop/qcow2.txt`. [`Writer`] writes, [`Image`] reads, [`check`] looks for
//! damage the way `qemu-img check` does.

pub(crate) mod check;
mod edit;
pub(crate) mod format;
mod image;
mod writer;

pub(crate) use edit::read_header;
pub(crate) use image::{Image, Mapped, State};
pub(crate) use writer::{Piece, Writer, write_pieces};
