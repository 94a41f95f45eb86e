//! Why the local API refuses a request: what is wrong with it, who may not send it, and what it names that is not there.

use super::MAX_BODY;
use crate::config::DEFAULT_PORT;
use standin_model::reason::{Reason, Text};
use standin_model::{JobId, VmId, VmName, reasons};
use std::path::PathBuf;

reasons! {
    /// What is wrong with a request.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Request {
        /// The body of a request cannot be read, or is too long.
        Body { error: String } => "body_unreadable", InvalidParameter;
        /// The body of a request is not the JSON that the operation takes.
        Json { error: String } => "body_invalid", InvalidParameter;
        /// The query of a request is not what the operation takes.
        Query { error: String } => "query_invalid", InvalidParameter;
        /// The path of a request is not what the operation takes.
        Path { error: String } => "path_invalid", InvalidParameter;
        /// The operation does not take requests of that method.
        Method { method: String, path: String } => "http_method_invalid", InvalidParameter;
        /// There is nothing at that path: client and daemon may be of different versions.
        Route { method: String, path: String } => "no_such_route", FileNotFound;
        /// The name cannot be that of a VM.
        VmName { error: String } => "name_invalid", InvalidParameter;
        /// The name cannot be that of a disk.
        DiskName { error: String } => "disk_name_unusable", InvalidParameter;
        /// What should be the address of a host is none.
        Address { text: String } => "host_address_invalid", InvalidParameter;
        /// What should be the id of a host is none.
        HostId { text: String } => "host_id_invalid", InvalidParameter;
        /// A path is not an absolute one.
        Relative { field: &'static str, path: PathBuf } => "path_not_absolute", InvalidParameter;
        /// The directory that relative paths of a definition count from is not an absolute path.
        BaseDir { path: PathBuf } => "base_dir_not_absolute", InvalidParameter;
        /// A definition names files by relative paths, and nobody says from where they count.
        RelativeFiles { vm: VmName } => "definition_paths_relative", InvalidParameter;
        /// A definition is not valid.
        Definition(Text) => "definition_invalid", InvalidParameter;
        /// A definition is not valid JSON.
        DefinitionJson { error: String } => "definition_json_invalid", InvalidParameter;
        /// A definition is not text in UTF-8.
        DefinitionText => "definition_no_text", InvalidParameter;
        /// The guest is given longer than an hour to shut down.
        StopTimeout { seconds: u64 } => "stop_timeout_too_long", InvalidParameter;
        /// The latest recovery point is to be pinned by that word, which means another one in a moment.
        PinLatest => "pin_latest", InvalidParameter;
        /// A change of settings changes nothing.
        NoChange => "no_change", InvalidParameter;
        /// What is to be done while a peer is silent is none of the choices.
        WhenSilent { why: String } => "when_peer_is_silent_invalid", InvalidParameter;
    }
}

impl Reason for Request {
    fn text(&self) -> Text {
        match self {
            Self::Body { error } => Text::new(
                format!("the body of the request cannot be read: {error}"),
                format!("Send at most {MAX_BODY} bytes."),
            ),
            Self::Json { error } => Text::new(
                format!("the body of the request is not what this operation takes: {error}"),
                "Correct the JSON; fields are in snake_case and unknown ones are refused.",
            ),
            Self::Query { error } => Text::new(error, "Correct the query of the request."),
            Self::Path { error } => Text::new(error, "Correct the path of the request."),
            Self::Method { method, path } => Text::new(
                format!("{method} cannot be done at {path}"),
                "See the table of routes in the documentation.",
            ),
            Self::Route { method, path } => Text::new(
                format!("there is nothing at {method} {path}"),
                "The daemon may be of another version than this client; use the same for both.",
            ),
            Self::VmName { error } => {
                Text::new(error, "Correct the name; `standin vm list` shows the names of this host's VMs.")
            }
            Self::DiskName { error } => {
                Text::new(error, "Name disks as `standin vm show` does, separated by commas.")
            }
            Self::Address { text } => Text::new(
                format!("{:?} is no address of a host", cut(text)),
                format!(
                    "Write HOST or HOST:PORT, as in replica.example.org:{DEFAULT_PORT}; an IPv6 address with a port goes \
                     in brackets."
                ),
            ),
            Self::HostId { text } => {
                Text::new(format!("{text:?} is not the id of a host"), "`standin peer list` shows the ids.")
            }
            Self::Relative { field, path } => Text::new(
                format!("{field} {} is not an absolute path", path.display()),
                "Write the path from /.",
            ),
            Self::BaseDir { path } => {
                Text::new(format!("base_dir {} is not an absolute path", path.display()), "Give it from /.")
            }
            Self::RelativeFiles { vm } => Text::new(
                format!("the definition of {vm} names files by relative paths"),
                "Write absolute paths, or say with base_dir from which directory they count.",
            ),
            Self::Definition(text) => text.clone(),
            Self::DefinitionJson { error } => Text::new(
                format!("the definition is not valid: {error}"),
                "Correct the definition and define the VM again.",
            ),
            Self::DefinitionText => {
                Text::new("the definition is not text in UTF-8", "Send TOML or JSON in UTF-8.")
            }
            Self::StopTimeout { seconds } => Text::new(
                format!("{seconds} s is too long to wait for a guest to shut down"),
                "Wait for at most one hour; `--force` ends the VM at once.",
            ),
            Self::PinLatest => {
                Text::new("the latest point cannot be pinned by that word", "Name it by its epoch or id.")
            }
            Self::NoChange => {
                Text::new("nothing is to be changed", "Name at least one setting and its new value.")
            }
            Self::WhenSilent { why } => Text::new(
                format!("when_peer_is_silent: {why}"),
                "Write refuse, start-after and a time (as in \"start-after 2m\"), or default.",
            ),
        }
    }
}

reasons! {
    /// What a request names that is not there, or not clear. A `list` is the command that shows what is there.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Select {
        /// What is given of an id is too short to mean one.
        TooShort { what: String, text: String, least: usize, list: String } => "id_too_short", InvalidParameter;
        /// No id begins so.
        NoId { what: String, text: String, list: String } => "unknown_id", FileNotFound;
        /// Several ids begin so.
        SeveralIds { what: String, text: String, list: String } => "id_ambiguous", InvalidParameter;
        /// There is no such authorization entry.
        NoEntry { text: String, there_is: String } => "no_such_entry", FileNotFound;
        /// Several authorization entries are meant by that.
        SeveralEntries { text: String, there_is: String } => "entry_ambiguous", InvalidParameter;
        /// The VM has no recovery point of that epoch.
        NoEpoch { vm: String, epoch: u64 } => "unknown_epoch", FileNotFound;
        /// The VM has no relationship on this host that could be shown.
        NoStatus { vm: String } => "no_replication_status", FileNotFound;
        /// The VM has no relationship on this host whose settings could be shown.
        NoSettings { id: VmId } => "no_replication_settings", InvalidState;
        /// A check or a repair has no verdict yet, or none any more.
        NoVerdict { job: JobId } => "job_without_verdict", InvalidState;
    }
}

impl Reason for Select {
    fn text(&self) -> Text {
        match self {
            Self::TooShort { what, text, least, list } => Text::new(
                format!("{:?} is too short to be the id of one {what}", cut(text)),
                format!("Give at least {least} characters of the id; `{list}` shows them."),
            ),
            Self::NoId { what, text, list } => Text::new(
                format!("there is no {what} {:?}", cut(text)),
                format!("`{list}` shows what there is."),
            ),
            Self::SeveralIds { what, text, list } => Text::new(
                format!("{:?} begins the ids of more than one {what}", cut(text)),
                format!("Give more of the id; `{list}` shows them in full."),
            ),
            Self::NoEntry { text, there_is } => Text::new(
                format!("there is no authorization entry {:?}; {there_is}", cut(text)),
                "Give the hosts of an entry as `standin auth list` shows them, or its id.",
            ),
            Self::SeveralEntries { text, there_is } => Text::new(
                format!("{:?} fits more than one authorization entry; {there_is}", cut(text)),
                "Give the whole id of the one that is meant.",
            ),
            Self::NoEpoch { vm, epoch } => Text::new(
                format!("{vm} has no recovery point of epoch {epoch}"),
                format!("`standin points {vm}` shows the points there are."),
            ),
            Self::NoStatus { vm } => Text::new(
                format!("{vm} does not replicate on this host"),
                format!("Replicate it with `standin replicate {vm} --to HOST`."),
            ),
            Self::NoSettings { id } => Text::new(
                format!("VM {id} does not replicate on this host"),
                "Replicate it with `standin replicate VM --to HOST`.",
            ),
            Self::NoVerdict { job } => Text::new(
                format!("job {job} has no verdict"),
                "Wait for its end (`standin jobs --watch`), or start it again.",
            ),
        }
    }
}

reasons! {
    /// Why the daemon does not do what a request asks for, beside what the engine says.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Daemon {
        /// The user may not use the local API.
        NotAllowed { uid: u32, group: Option<String> } => "user_not_allowed", AccessDenied;
        /// It is not known which user sent the request.
        UnknownUser => "user_unknown", AccessDenied;
        /// A defect of standin ended the operation.
        Defect => "request_defect", Failed;
        /// The daemon did not answer in time. A change goes on.
        Late { seconds: u64, change: bool } => "daemon_late", Timeout;
        /// The certificates cannot be read again.
        NotReloaded(Text) => "certificates_not_reloaded", Failed;
        /// A check of the store found damage.
        Damaged { points: usize, other: usize } => "store_check_found_damage", Failed;
    }
}

impl Reason for Daemon {
    fn text(&self) -> Text {
        match self {
            Self::NotAllowed { uid, group } => Text::new(
                format!("the user {uid} may not use standin"),
                match group {
                    Some(group) => {
                        format!("Run it as root, or have an administrator add this user to the group {group}.")
                    }
                    None => "Run it as root, or have an administrator set socket_group in the configuration to a group \
                             of yours."
                        .to_owned(),
                },
            ),
            Self::UnknownUser => Text::new("it is not known who asks", "Try again."),
            Self::Defect => Text::new(
                "the operation ended without an answer",
                "This is a defect: look at the daemon's log and report it.",
            ),
            Self::Late { seconds, change } => Text::new(
                format!("the daemon did not answer within {seconds} s"),
                match change {
                    true => "It goes on; look at `standin jobs` and `standin status`.",
                    false => "Try again; if it stays so, look at the daemon's log.",
                },
            ),
            Self::NotReloaded(text) => text.clone(),
            Self::Damaged { points, other } => Text::new(
                format!("{points} recovery points are damaged, {other} other problems were found"),
                "Fail over only to points that are good. `standin resync VM` on the primary mends the newest state; see \
                 to the storage below the replica.",
            ),
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}
