//! A hypervisor in memory, for the tests of the engine.
