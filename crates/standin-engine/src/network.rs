//! Failover network settings: what a VM's network cards get when it runs on its replica. Set on either host, card by
//! card; what the primary has travels with each session, and what was set on the replica goes before it there.
//! [`crate::replica::network`] applies them.

pub(crate) mod reason;

use crate::engine::reason::Operation;
use crate::engine::{Engine, inspect_refusal};
use crate::primary::Command;
use crate::replica::ReplicaVm;
use crate::tasks::to_its_end;
use standin_hypervisor::{NetworkMap, NicDefinition, VmDefinition};
use standin_model::network::{
    Adapter, AdapterId, AdapterSettings, AdapterView, AppliedNetwork, MAX_ADAPTERS, NetworkChange,
    NetworkSettings, NetworkView, SettingsOrigin,
};
use standin_model::state::Method;
use standin_model::{Epoch, Refusal, VmId, VmName};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a guest's agent may take to answer after the VM was started: an emulated guest boots slowly.
const AGENT_PATIENCE: Duration = Duration::from_secs(300);

/// How VMs that fail over to this host are connected.
#[derive(Debug, Clone)]
pub struct SiteNetworks {
    /// Which network here stands for which of the primary's.
    pub map: NetworkMap,
    /// How long a guest's agent may take to answer after the start.
    pub agent_patience: Duration,
}

impl Default for SiteNetworks {
    fn default() -> Self {
        Self { map: NetworkMap::default(), agent_patience: AGENT_PATIENCE }
    }
}

/// The cards of a VM and what they get, from either side's record.
struct Side {
    name: VmName,
    nics: Vec<NicDefinition>,
    /// What was set on this host.
    here: NetworkSettings,
    /// What came from the primary.
    primary: NetworkSettings,
    /// On the replica: what its networks are here.
    map: Option<NetworkMap>,
    applied: Option<AppliedNetwork>,
}

type Seen = Result<Vec<NicDefinition>, standin_hypervisor::Error>;

impl Engine {
    /// `Msvm_FailoverNetworkAdapterSettingData` of a VM, on either side: its cards, what each gets at a failover, and
    /// what became of it at the one that is in force.
    ///
    /// # Errors
    /// 32775 for a VM that does not replicate, 32779 for an unknown one.
    pub async fn network(&self, vm: VmId) -> Result<NetworkView, Refusal> {
        let seen = self.hypervisor().inspect(vm).await.map(|info| info.definition.nics);
        Ok(view(vm, self.side(vm, seen).await?))
    }

    /// The same with the VM as it was seen last: no question to the hypervisor, for whoever lists thousands of VMs. A
    /// replica's definition is read once for each configuration that comes.
    ///
    /// # Errors
    /// As [`Engine::network`].
    pub async fn network_as_seen(&self, vm: VmId) -> Result<NetworkView, Refusal> {
        let seen = self.vms().get(&vm).map(|info| info.definition.nics.clone());
        let seen = seen.ok_or(standin_hypervisor::Error::UnknownVm(vm));
        Ok(view(vm, self.side(vm, seen).await?))
    }

    /// `SetFailoverNetworkAdapterSettings`, on either side: all of the changes or none. Durable on return; set on the
    /// primary, the replica learns it at once or with the next session.
    ///
    /// # Errors
    /// 32773 for settings that cannot be and for a card that the VM does not have or that is not named where it has
    /// several; 32775 for a VM that does not replicate, 32779 for an unknown one; 32774 and 32772 while the replica is
    /// held, 32777 when its disks are not there, 32771 when the hypervisor cannot say how the VM is.
    pub async fn set_network(&self, vm: VmId, changes: Vec<NetworkChange>) -> Result<NetworkView, Refusal> {
        let seen = self.hypervisor().inspect(vm).await.map(|info| info.definition.nics);
        let side = self.side(vm, seen).await?;
        let resolved = |change: NetworkChange| -> Result<_, Refusal> {
            Ok((named(vm, &side, change.adapter.as_deref())?, change.settings))
        };
        let changes = changes.into_iter().map(resolved).collect::<Result<Vec<_>, Refusal>>()?;
        match self.replicas().find(vm) {
            Some(replica) => to_its_end(async move { set_on_replica(&replica, &changes).await }).await?,
            None => drop(self.ask(vm, Command::Network(changes)).await?),
        }
        self.network(vm).await
    }

    /// `seen`: the cards of the VM as the hypervisor has it.
    async fn side(&self, vm: VmId, seen: Seen) -> Result<Side, Refusal> {
        if let Some(replica) = self.replicas().find(vm) {
            return replica_side(&replica, seen).await;
        }
        if let Some(refusal) = self.replicas().disks_missing(vm) {
            return Err(refusal);
        }
        let nics = seen.map_err(|error| inspect_refusal(&error))?;
        let Some(handle) = self.primary(vm) else {
            let name = self.vms().get(&vm).map_or_else(|| vm.to_string(), |info| info.name.to_string());
            return Err(Operation::NotReplicating { vm: name }.into());
        };
        let record = handle.snapshot().record;
        Ok(Side {
            name: record.name,
            nics,
            here: record.network,
            primary: NetworkSettings::default(),
            map: None,
            applied: None,
        })
    }
}

/// Keeps changes of what the VM of a replica gets at a failover: all of them or none.
async fn set_on_replica(
    replica: &ReplicaVm,
    changes: &[(String, Option<AdapterSettings>)],
) -> Result<(), Refusal> {
    let mut record = replica.claim().await?;
    record.allow(Method::SetFailoverNetworkAdapterSettings)?;
    let settings = record.network.changed(changes)?;
    let before = std::mem::replace(&mut record.network, settings);
    if let Err(refusal) = record.save().await {
        record.network = before;
        return Err(refusal);
    }
    Ok(())
}

async fn replica_side(replica: &ReplicaVm, seen: Seen) -> Result<Side, Refusal> {
    let record = replica.snapshot();
    // Once it has failed over its networks are those of here already.
    let (nics, map) = match seen {
        Ok(nics) => (nics, NetworkMap::default()),
        Err(standin_hypervisor::Error::UnknownVm(_)) => {
            (newest_cards(replica).await?, replica.shared.networks.map.clone())
        }
        Err(error) => return Err(inspect_refusal(&error)),
    };
    Ok(Side {
        name: record.name,
        nics,
        here: record.network,
        primary: record.primary_network,
        map: Some(map),
        applied: record.failover.and_then(|failover| failover.network).map(|network| network.applied),
    })
}

/// The cards of a configuration that was read, which never changes: a replica remembers those of its newest one.
#[derive(Default)]
pub(crate) struct CardsRead(Mutex<Option<(Epoch, Vec<NicDefinition>)>>);

/// The cards of the VM as it was at its newest recovery point; none before the first one.
async fn newest_cards(replica: &ReplicaVm) -> Result<Vec<NicDefinition>, Refusal> {
    let manifest = replica.store().manifest();
    let newest = manifest.points.last().and_then(|point| Some((point.id, point.config_epoch?)));
    let Some((point, epoch)) = newest else { return Ok(Vec::new()) };
    if let Some((of, cards)) = &*replica.cards.0.lock().unwrap_or_else(PoisonError::into_inner) {
        if *of == epoch {
            return Ok(cards.clone());
        }
    }
    let store = replica.store().clone();
    let read = crate::replica::layer::blocking(move || {
        let Some(file) = store.config_directory(point) else { return Ok(Vec::new()) };
        let unreadable = |why: String| Refusal::from(reason::Network::DefinitionUnreadable { why });
        let text =
            std::fs::read_to_string(file.join("vm.toml")).map_err(|error| unreadable(error.to_string()))?;
        let definition = VmDefinition::from_toml(&text).map_err(|error| unreadable(error.to_string()))?;
        Ok(definition.nics)
    });
    let cards: Vec<NicDefinition> = read.await?;
    *replica.cards.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, cards.clone()));
    Ok(cards)
}

fn adapter(vm: VmId, nic: &NicDefinition) -> Adapter {
    Adapter::new(vm, nic.name.clone(), nic.address(vm))
}

/// The name of the card that is meant.
fn named(vm: VmId, side: &Side, wanted: Option<&str>) -> Result<String, Refusal> {
    let cards: Vec<Adapter> = side.nics.iter().map(|nic| adapter(vm, nic)).collect();
    let list =
        cards.iter().map(|card| format!("{} ({})", card.name, card.mac)).collect::<Vec<_>>().join(", ");
    match (wanted, &cards[..]) {
        (None, [only]) => Ok(only.name.clone()),
        (None, []) => Err(reason::Network::NoCard { vm: side.name.clone() }.into()),
        (None, _) => {
            Err(reason::Network::Ambiguous { vm: side.name.clone(), count: cards.len(), cards: list }.into())
        }
        (Some(text), _) => {
            let card = cards.iter().find(|card| card.is_named(text)).map(|card| card.name.clone());
            // What a card had that the VM no longer has can still be cleared.
            let former = || side.here.0.contains_key(text).then(|| text.to_owned());
            let unknown =
                || reason::Network::UnknownCard { vm: side.name.clone(), card: text.to_owned(), cards: list };
            card.or_else(former).ok_or_else(|| unknown().into())
        }
    }
}

fn view(vm: VmId, side: Side) -> NetworkView {
    let all = side.primary.overlaid(&side.here);
    let with_settings = |name: &str, mut card: AdapterView| {
        card.settings = all.0.get(name).cloned();
        card.origin =
            card.settings.as_ref().map(|_| match side.map.is_some() && !side.here.0.contains_key(name) {
                true => SettingsOrigin::Primary,
                false => SettingsOrigin::Here,
            });
        card
    };
    let mut adapters: Vec<AdapterView> = side
        .nics
        .iter()
        .map(|nic| {
            let card = AdapterView {
                name: nic.name.clone(),
                id: AdapterId::of(vm, &nic.name),
                mac: Some(nic.address(vm)),
                network: Some(nic.kind.to_string()),
                failover_network: side.map.as_ref().map(|map| map.here(&nic.kind).to_string()),
                settings: None,
                origin: None,
            };
            with_settings(&nic.name, card)
        })
        .collect();
    let former = all.0.keys().filter(|name| side.nics.iter().all(|nic| nic.name != **name));
    adapters.extend(former.take(MAX_ADAPTERS).map(|name| {
        let card = AdapterView {
            name: name.clone(),
            id: AdapterId::of(vm, name),
            mac: None,
            network: None,
            failover_network: None,
            settings: None,
            origin: None,
        };
        with_settings(name, card)
    }));
    NetworkView { vm: side.name, id: vm, adapters, applied: side.applied }
}
