//! Who is on the other end of the unix socket. The socket's mode lets in its owner and its group; this is the
//! second look, at the credentials that the kernel took when the client connected, in case the mode was changed
//! or the directory replaced.

use super::reason::Daemon;
use standin_model::Refusal;
use std::path::Path;
use tokio::net::unix::UCred;

/// Who may use the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Admission {
    /// The daemon's own user.
    pub own_uid: u32,
    /// The configured group.
    pub group: Option<Group>,
}

/// A group of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// As configured.
    pub name: String,
    /// Its number.
    pub gid: u32,
}

/// What is known of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group and, where its process could be looked at, its supplementary groups.
    pub gids: Vec<u32>,
}

impl Peer {
    /// The peer of a connection; the supplementary groups are those of its process now.
    pub fn of(credentials: &UCred) -> Self {
        let mut gids = vec![credentials.gid()];
        if let Some(status) =
            credentials.pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok())
        {
            gids.extend(supplementary(&status, credentials.uid()));
        }
        Self { uid: credentials.uid(), gids }
    }
}

/// The `Groups:` of a `/proc/PID/status`, if the process still is one of `uid`: the number may have been given
/// to another process since.
fn supplementary(status: &str, uid: u32) -> Vec<u32> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let numbers = |text: &str| text.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<u32>>();
    let same_user = field("Uid:").is_some_and(|uids| numbers(uids).get(1) == Some(&uid));
    if same_user { field("Groups:").map(numbers).unwrap_or_default() } else { Vec::new() }
}

impl Admission {
    /// Lets `peer` in or says why not.
    ///
    /// # Errors
    /// [`standin_model::ReturnCode::AccessDenied`].
    pub fn check(&self, peer: &Peer) -> Result<(), Refusal> {
        let by_group = self.group.as_ref().is_some_and(|group| peer.gids.contains(&group.gid));
        if peer.uid == 0 || peer.uid == self.own_uid || by_group {
            return Ok(());
        }
        Err(Daemon::NotAllowed { uid: peer.uid, group: self.group.as_ref().map(|group| group.name.clone()) }
            .into())
    }
}

/// Looks a group up by name or number.
///
/// # Errors
/// A sentence, when there is no such group.
pub(super) fn find_group(name: &str) -> Result<Group, String> {
    let text = std::fs::read_to_string(Path::new("/etc/group")).unwrap_or_default();
    group_in(&text, name).ok_or_else(|| {
        format!("socket_group: there is no group {name:?} on this host; create it with `groupadd --system {name}` or correct the configuration")
    })
}

fn group_in(text: &str, name: &str) -> Option<Group> {
    let by_name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let gid = fields.nth(1)?.parse().ok()?;
        found.then_some(gid)
    });
    let gid = by_name.or_else(|| name.parse().ok())?;
    Some(Group { name: name.to_owned(), gid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_model::ReturnCode;

    fn admission() -> Admission {
        Admission { own_uid: 500, group: Some(Group { name: "standin".into(), gid: 77 }) }
    }

    #[test]
    fn root_the_own_user_and_the_group_are_let_in() {
        for (uid, gids) in [(0, vec![0]), (500, vec![500]), (1000, vec![77]), (1000, vec![1000, 4, 77])] {
            assert!(admission().check(&Peer { uid, gids }).is_ok(), "{uid}");
        }
    }

    #[test]
    fn others_are_denied_and_told_what_to_do() {
        let refusal = admission().check(&Peer { uid: 1000, gids: vec![1000, 7] }).expect_err("let in");
        assert_eq!(refusal.code, ReturnCode::AccessDenied);
        assert!(refusal.remedy.contains("standin"), "{}", refusal.remedy);
        let alone = Admission { group: None, ..admission() };
        assert!(alone.check(&Peer { uid: 1000, gids: vec![77] }).is_err());
    }

    #[test]
    fn supplementary_groups_count_only_while_the_process_is_the_same_user() {
        let status = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t4 77 \n";
        assert_eq!(supplementary(status, 1000), [4, 77]);
        assert_eq!(supplementary(status, 1001), [0_u32; 0]);
        assert_eq!(supplementary("", 1000), [0_u32; 0]);
    }

    #[test]
    fn groups_are_found_by_name_or_number() {
        let text = "root:x:0:\nstandin:x:77:alice,bob\n";
        assert_eq!(group_in(text, "standin").map(|group| group.gid), Some(77));
        assert_eq!(group_in(text, "123").map(|group| group.gid), Some(123));
        assert_eq!(group_in(text, "nobody-here"), None);
    }
}
