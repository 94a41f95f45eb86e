//! Real guests, namespaces, faults and oracles for tests and benchmarks.
