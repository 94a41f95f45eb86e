//! A thin client of QEMU's monitor.
