//! Whether KVM works on this host.
