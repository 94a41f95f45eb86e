//! The classes and methods of root/virtualization/v2 in terms of the engine.

#![forbid(unsafe_code)]
