//! Every reason for which standin refuses something, by room, from all crates: for `docs/reasons.md`, and the test that
//! keeps it true.

use crate::api::reason::{Daemon, Request, Select};
use crate::cli::reason::Local;
use standin_model::reason::Room;

const OWN: &[Room] = &[
    Room { title: "Requests to the local API", reasons: Request::ALL },
    Room { title: "What a request names", reasons: Select::ALL },
    Room { title: "The daemon", reasons: Daemon::ALL },
    Room { title: "The command line without a daemon", reasons: Local::ALL },
];

/// The rooms of all crates.
#[must_use]
pub fn rooms() -> Vec<Room> {
    [OWN, standin_engine::reasons::ROOMS, standin_model::reason::ROOMS, standin_provider::reasons::ROOMS]
        .concat()
}
