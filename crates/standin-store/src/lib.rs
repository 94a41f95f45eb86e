//! The replica's disks: layers, chains, recovery points, merging and scrubbing.
