//! Every reason for which a method of the management API is refused before the engine is asked: for `docs/reasons.md`,
//! and the test that keeps it true.

use crate::methods::reason::argument::Argument;
use crate::methods::reason::{Method, Missing};
use standin_model::reason::Room;

/// The rooms of this crate.
pub const ROOMS: &[Room] = &[
    Room { title: "CIM: methods", reasons: Method::ALL },
    Room { title: "CIM: what is not here", reasons: Missing::ALL },
    Room { title: "CIM: arguments", reasons: Argument::ALL },
];
