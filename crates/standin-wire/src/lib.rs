//! Frames, compression, checksums, mutual TLS, certificates and protocol versions.
