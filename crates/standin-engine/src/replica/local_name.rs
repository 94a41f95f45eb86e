//! The names that replicas have on this host. A replica's name is its own: two primaries may each have a VM `web`, and
//! this host may have a third.
//!
//! The rule: a replica is called as on its primary while no other VM of this host has that name. Else the first label
//! of the primary's host is appended, `web-alpha`, and then a number, `web-alpha-2`; a host that is known by its address
//! only gives `web-2`. A name that was given stays, whatever the VM is called on its primary later, until somebody changes
//! it here (`standin rename`). When the name is taken at a failover all the same, by a VM that came past this engine, the
//! rule gives another one: no failover fails for a name.
//!
//! Called by [`super::admission`] when a replica is made, by [`super::host`] when the daemon starts, by
//! [`super::defining`] at a failover, and by [`super::vm`] for whoever renames.

use super::host::ReplicaHost;
use standin_model::{VmId, VmName};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest name of a VM.
const MAX: usize = 64;

/// The names of this host's replicas, so that no two are given the same.
#[derive(Debug, Default)]
pub struct LocalNames(Mutex<BTreeMap<VmId, VmName>>);

impl LocalNames {
    /// Gives a replica a name, which is `wanted` if neither another replica nor one of `others` has it, and takes
    /// note of it.
    pub fn give(&self, vm: VmId, wanted: &VmName, host: &str, others: &[(VmId, VmName)]) -> VmName {
        let mut names = self.lock();
        let taken = |name: &VmName| {
            let mut all = names.iter().chain(others.iter().map(|(id, name)| (id, name)));
            all.any(|(id, known)| *id != vm && known == name)
        };
        let name = unique(wanted, host, taken);
        names.insert(vm, name.clone());
        name
    }

    /// Takes a name for a replica, in place of the one that it has.
    ///
    /// # Errors
    /// The replica that has the name.
    pub fn take(&self, vm: VmId, name: &VmName) -> Result<(), VmId> {
        let mut names = self.lock();
        if let Some((owner, _)) = names.iter().find(|(id, known)| **id != vm && *known == name) {
            return Err(*owner);
        }
        names.insert(vm, name.clone());
        Ok(())
    }

    /// The replica is gone: its name is free.
    pub fn forget(&self, vm: VmId) {
        self.lock().remove(&vm);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmId, VmName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every replica has a name that no other VM of this host has: two that an older version took in under one name are told
/// apart, and one that was being renamed when the daemon ended is called as its VM is.
pub(super) async fn settle(host: &ReplicaHost) {
    let shared = &host.shared;
    let others = match shared.hypervisor.names().await {
        Ok(others) => others,
        Err(error) => {
            tracing::error!(error = %crate::error::chain(&error), "the names of this host's VMs are not known");
            Vec::new()
        }
    };
    for record in host.missing() {
        if let Err(owner) = shared.names.take(record.vm, &record.name) {
            tracing::warn!(vm = %record.name, id = %record.vm, %owner, "two replicas have one name");
        }
    }
    for vm in host.list() {
        let before = vm.snapshot();
        let own = others.iter().find(|(id, _)| *id == before.vm).map(|(_, name)| name);
        let wanted = own.unwrap_or(&before.name);
        let name = shared.names.give(before.vm, wanted, &before.primary_host, &others);
        if name == before.name {
            continue;
        }
        tracing::warn!(vm = %before.name, %name, id = %before.vm, "a replica has another name from now on");
        let mut record = vm.lock().await;
        record.give_name(name);
        if let Err(refusal) = record.save().await {
            tracing::error!(vm = %record.name, %refusal, "the name of a replica could not be stored");
        }
    }
}

/// `wanted`, or the next name by the rule that nobody has.
fn unique(wanted: &VmName, host: &str, taken: impl Fn(&VmName) -> bool) -> VmName {
    if !taken(wanted) {
        return wanted.clone();
    }
    let label = label(host);
    let first = (!label.is_empty()).then(|| format!("-{label}"));
    let numbered = (2_u64..).map(|number| match label.is_empty() {
        true => format!("-{number}"),
        false => format!("-{label}-{number}"),
    });
    let mut names = first.into_iter().chain(numbered).filter_map(|end| with_end(wanted, &end));
    // There are more numbers than VMs.
    names.find(|name| !taken(name)).unwrap_or_else(|| wanted.clone())
}

/// The first label of a host's name, as far as it can be part of a VM's; empty for an address.
fn label(host: &str) -> String {
    if host.parse::<IpAddr>().is_ok() {
        return String::new();
    }
    let label = host.split('.').next().unwrap_or_default();
    label.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).take(MAX / 2).collect()
}

fn with_end(name: &VmName, end: &str) -> Option<VmName> {
    let kept: String = name.as_str().chars().take(MAX.saturating_sub(end.len())).collect();
    VmName::new(format!("{kept}{end}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> VmName {
        VmName::new(text).expect("a name")
    }

    #[test]
    fn a_name_is_kept_while_nobody_else_has_it() {
        let (names, one) = (LocalNames::default(), VmId::random());
        assert_eq!(names.give(one, &name("web"), "alpha.example.org", &[(one, name("web"))]), name("web"));
        assert_eq!(names.give(one, &name("web"), "alpha.example.org", &[]), name("web"), "again");
    }

    #[test]
    fn the_primary_host_and_then_a_number_tell_names_apart() {
        let names = LocalNames::default();
        let others = [(VmId::random(), name("web"))];
        let give = |host| names.give(VmId::random(), &name("web"), host, &others).to_string();
        assert_eq!(give("alpha.example.org"), "web-alpha");
        assert_eq!(give("alpha.example.net"), "web-alpha-2");
        assert_eq!(give("beta"), "web-beta");
        assert_eq!(give("192.0.2.1"), "web-2");
        assert_eq!(give("2001:db8::1"), "web-3");
        assert_eq!(give("*.!"), "web-4");
    }

    #[test]
    fn a_long_name_is_cut_and_stays_a_name() {
        let names = LocalNames::default();
        let long = name(&"x".repeat(64));
        let host = "h".repeat(63);
        let given: Vec<VmName> = (0..12).map(|_| names.give(VmId::random(), &long, &host, &[])).collect();
        assert_eq!(given[0], long);
        assert!(given[11].as_str().ends_with("-11"), "{}", given[11]);
        let apart: std::collections::BTreeSet<_> = given.iter().collect();
        assert_eq!(apart.len(), 12);
    }

    #[test]
    fn a_name_is_taken_once_and_free_when_its_replica_is_gone() {
        let (names, one, other) = (LocalNames::default(), VmId::random(), VmId::random());
        names.take(one, &name("web")).expect("free");
        assert_eq!(names.take(other, &name("web")), Err(one));
        names.take(one, &name("shop")).expect("free");
        names.take(other, &name("web")).expect("it was given up");
        names.forget(one);
        names.take(other, &name("shop")).expect("its replica is gone");
    }
}
