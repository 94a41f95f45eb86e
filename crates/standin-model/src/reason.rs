//! Reasons: why something is refused, as values.
//!
//! A room says *why* by a variant of its own enum, which carries the data. What people and programs get to see of it
//! (return code, stable name, message, remedy) is written once, at the edge of the room: in its `reason.rs`. From there
//! a reason becomes a [`Refusal`] by `?` or `.into()`, and there is no other way to make one.
//!
//! ```text
//!  room:  Err(reason::Entry::Unknown { id })      what happened, as data
//!  edge:  name, code, message, remedy             reasons! { ... } and impl Reason
//!  out:   Refusal { code, reason, message, .. }   API, command line, jobs, the wire
//! ```
//!
//! Names are a contract: a script branches on them. One is never changed and never used for anything else.
//! `docs/reasons.md` lists them all, from [`Room`]s; a test compares.

use crate::codes::{Refusal, ReturnCode};

/// The stable part of a reason. [`reasons!`](crate::reasons) implements it.
pub trait Named {
    /// The name for programs: `snake_case`, unique in all of standin, never changed.
    fn name(&self) -> &'static str;

    /// The return code that the API gives.
    fn code(&self) -> ReturnCode;
}

/// A reason that carries all that people are told about it.
pub trait Reason: Named {
    /// What happened, and what to do now.
    fn text(&self) -> Text;

    /// The refusal, of a reason that is needed further.
    fn refusal(&self) -> Refusal {
        Refusal::of(self, self.text())
    }
}

impl<R: Reason> From<R> for Refusal {
    fn from(reason: R) -> Self {
        reason.refusal()
    }
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What happened, to which VM and disk.
    pub message: String,
    /// What to do now. A full sentence.
    pub remedy: String,
}

impl Text {
    /// A message with its remedy.
    #[must_use]
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

/// One reason in the list of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name for programs.
    pub name: &'static str,
    /// Its return code.
    pub code: ReturnCode,
    /// When it happens: the doc comment of its variant.
    pub says: &'static str,
}

/// The reasons of one room.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// What the room is about, for people.
    pub title: &'static str,
    /// Its reasons.
    pub reasons: &'static [Entry],
}

/// Declares the reasons of a room: an enum whose variants have a name for programs and a return code.
///
/// It gives the enum [`Named`] and the list `ALL`, both from the same lines, so that neither can miss a variant. A variant
/// needs a doc comment that says when it happens: that is its line in `docs/reasons.md`.
///
/// ```
/// standin_model::reasons! {
///     /// Why a door does not open.
///     #[derive(Debug)]
///     pub(crate) enum Door {
///         /// It is locked.
///         Locked { key: String } => "door_locked", AccessDenied;
///         /// There is none.
///         Missing => "door_missing", FileNotFound;
///     }
/// }
/// ```
#[macro_export]
macro_rules! reasons {
    (
        $(#[$about:meta])*
        $seen:vis enum $room:ident {
            $(
                $(#[doc = $says:literal])+
                $(#[error($($error:tt)*)])?
                $reason:ident $({ $($field:tt)* })? $(( $($inner:tt)* ))? => $name:literal, $code:ident;
            )+
        }
    ) => {
        $(#[$about])*
        $seen enum $room {
            $(
                $(#[doc = $says])+
                $(#[error($($error)*)])?
                $reason $({ $($field)* })? $(( $($inner)* ))?,
            )+
        }

        impl $crate::reason::Named for $room {
            fn name(&self) -> &'static str {
                match self {
                    $( Self::$reason { .. } => $name, )+
                }
            }

            fn code(&self) -> $crate::ReturnCode {
                match self {
                    $( Self::$reason { .. } => $crate::ReturnCode::$code, )+
                }
            }
        }

        impl $room {
            /// Every reason of this room.
            $seen const ALL: &'static [$crate::reason::Entry] = &[
                $( $crate::reason::Entry {
                    name: $name,
                    code: $crate::ReturnCode::$code,
                    says: concat!($($says),+),
                } ),+
            ];
        }
    };
}

/// The rooms of this crate.
pub const ROOMS: &[Room] = &[
    Room { title: "Authorization entries: what they say", reasons: crate::auth::reason::Entry::ALL },
    Room { title: "Settings of a relationship", reasons: crate::settings::reason::Setting::ALL },
    Room { title: "Retention policies", reasons: crate::retention::reason::Retention::ALL },
    Room { title: "Settings of the service", reasons: crate::service::reason::Service::ALL },
    Room { title: "Network settings: what they say", reasons: crate::network::reason::Network::ALL },
    Room { title: "What a state allows", reasons: crate::request::reason::NotNow::ALL },
    Room { title: "Transitions", reasons: crate::transition::reason::NoStep::ALL },
    Room { title: "Jobs: their states", reasons: crate::job::reason::Job::ALL },
    Room { title: "Who may run a VM", reasons: crate::fence::Reason::ALL },
];

#[cfg(test)]
mod tests;
