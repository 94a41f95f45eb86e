//! Which network of this site stands for which of the other: a VM that was connected to `br-prod` there is
//! connected to `br-dr` here. Read from the daemon's configuration, applied to a definition at a failover.
//!
//! ```toml
//! [network_map]
//! "br-prod" = "br-dr"        # the same kind of connection, with another name
//! "br-lab" = "none"          # a card without a cable
//! "user" = "bridge:br0"      # another kind: bridge:NAME, tap:NAME, user, none
//! "tap:tap7" = "bridge:br-dr"
//! ```

use super::{NicKind, VmDefinition};
use std::collections::BTreeMap;
use std::fmt;

/// The longest name of a Linux interface, in bytes.
const MAX_IFNAME: usize = 15;

/// Networks of the primary's site and what stands for them here. A network that is not in it keeps its name. A
/// name without a kind on the left is that of a bridge or a tap; on the right it keeps the kind of such a one, and
/// is a bridge's otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkMap {
    exact: BTreeMap<String, NicKind>,
}

impl NetworkMap {
    /// Reads a map of texts, as it is in the configuration.
    ///
    /// # Errors
    /// A sentence with the entry that cannot be understood.
    pub fn parse<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut exact = BTreeMap::new();
        for (from, to) in entries {
            let sources = match from.split_once(':') {
                None if matches!(from, "user" | "none") => vec![network(from)?],
                // Bridges and taps are in one name space on a host, so a bare name means either.
                None => vec![bridge(from)?, tap(from)?],
                Some(_) => vec![network(from)?],
            };
            for source in sources {
                let bare_tap = !to.contains(':') && matches!(source, NicKind::Tap { .. });
                let target = match to {
                    "user" | "none" => network(to)?,
                    // A bare name keeps the kind of connection where the source is bare too.
                    name if bare_tap && !from.contains(':') => tap(name)?,
                    name => network(name)?,
                };
                if exact.insert(source.to_string(), target).is_some() {
                    return Err(format!("{from:?} is mapped twice, once with its kind and once without"));
                }
            }
        }
        Ok(Self { exact })
    }

    /// What stands for a network here.
    #[must_use]
    pub fn here(&self, network: &NicKind) -> NicKind {
        self.exact.get(&network.to_string()).unwrap_or(network).clone()
    }

    /// Connects every card of a definition to what stands for its network here.
    pub fn apply(&self, definition: &mut VmDefinition) {
        for nic in &mut definition.nics {
            nic.kind = self.here(&nic.kind);
        }
    }
}

/// The network as [`NetworkMap::parse`] reads it: `bridge:br0`, `tap:tap0`, `user`, `none`.
impl fmt::Display for NicKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => f.write_str("user"),
            Self::None => f.write_str("none"),
            Self::Bridge { bridge } => write!(f, "bridge:{bridge}"),
            Self::Tap { ifname } => write!(f, "tap:{ifname}"),
        }
    }
}

fn network(text: &str) -> Result<NicKind, String> {
    match text.split_once(':') {
        None if text == "user" => Ok(NicKind::User),
        None if text == "none" => Ok(NicKind::None),
        None => bridge(text),
        Some(("bridge", name)) => bridge(name),
        Some(("tap", name)) => tap(name),
        Some(_) => Err(format!(
            "{:?} is no network: write the name of a bridge, bridge:NAME, tap:NAME, user or none",
            shown(text)
        )),
    }
}

fn bridge(name: &str) -> Result<NicKind, String> {
    interface(name).map(|bridge| NicKind::Bridge { bridge })
}

fn tap(name: &str) -> Result<NicKind, String> {
    interface(name).map(|ifname| NicKind::Tap { ifname })
}

fn interface(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > MAX_IFNAME || !name.chars().all(fits) {
        return Err(format!(
            "{:?} is no name of a network: it has 1 to {MAX_IFNAME} letters, digits, '.', '-' or '_'",
            shown(name)
        ));
    }
    Ok(name.to_owned())
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> NetworkMap {
        NetworkMap::parse(entries.iter().copied()).expect("a valid map")
    }

    fn here(map: &NetworkMap, network: &str) -> String {
        map.here(&super::network(network).expect("a network")).to_string()
    }

    #[test]
    fn a_network_that_is_not_in_the_map_keeps_its_name() {
        let map = map(&[("br-prod", "br-dr")]);
        for same in ["bridge:br0", "tap:tap0", "user", "none"] {
            assert_eq!(here(&map, same), same);
        }
        assert_eq!(here(&map, "br-prod"), "bridge:br-dr");
    }

    #[test]
    fn a_bare_name_keeps_the_kind_of_connection_and_a_kind_changes_it() {
        let map = map(&[("lan", "dr"), ("user", "bridge:br0"), ("br-lab", "none"), ("tap:tap7", "br-dr")]);
        assert_eq!(here(&map, "bridge:lan"), "bridge:dr");
        assert_eq!(here(&map, "tap:lan"), "tap:dr");
        assert_eq!(here(&map, "user"), "bridge:br0");
        assert_eq!(here(&map, "bridge:br-lab"), "none");
        assert_eq!(here(&map, "tap:tap7"), "bridge:br-dr");
        assert_eq!(here(&map, "bridge:tap7"), "bridge:tap7");
    }

    #[test]
    fn what_is_no_network_is_refused_and_shown() {
        for (from, to) in
            [("", "br0"), ("br0", ""), ("vlan:7", "br0"), ("br0", "a b"), ("br0", "x,script=/bin/sh")]
        {
            assert!(NetworkMap::parse([(from, to)]).is_err(), "{from:?} = {to:?} was accepted");
        }
        let twice = NetworkMap::parse([("bridge:a", "b"), ("a", "c")]);
        assert!(twice.expect_err("ambiguous").contains("twice"));
    }

    #[test]
    fn every_card_of_a_definition_is_connected_anew() {
        let text = "name = \"a\"\nmemory_mib = 64\n[[nics]]\nname = \"lan\"\nkind = \"bridge\"\n\
                    bridge = \"br-prod\"\n[[nics]]\nname = \"out\"\n";
        let mut definition = VmDefinition::from_toml(text).expect("valid");
        map(&[("br-prod", "br-dr"), ("user", "none")]).apply(&mut definition);
        let kinds: Vec<_> = definition.nics.iter().map(|nic| nic.kind.to_string()).collect();
        assert_eq!(kinds, ["bridge:br-dr", "none"]);
    }
}
