//! The power switch of the hosts: what a `fence_command` works.

use super::life::Life;
use super::step::{Fences, Host};
use async_trait::async_trait;
use standin_engine::vm::Fencing;
use standin_hypervisor::PowerState;
use standin_hypervisor::fake::FakeHypervisor;
use standin_model::VmId;
use standin_wire::memory::Network;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

const WORKS: &str = "works";
const FAILS: &str = "fails";

/// `fence_command` as it is configured.
pub fn command(fences: Fences) -> Vec<String> {
    let program = match fences {
        Fences::No => return Vec::new(),
        Fences::Works => WORKS,
        Fences::Fails => FAILS,
    };
    vec![program.to_owned(), "{host}".to_owned()]
}

/// What hangs on the power of a host: its guests and its daemon.
#[derive(Clone)]
struct Plug {
    fake: Arc<FakeHypervisor>,
    life: Arc<Life>,
}

/// Every host is plugged into it.
#[derive(Clone)]
pub struct Power {
    vm: VmId,
    network: Network,
    plugs: Arc<Mutex<BTreeMap<Host, Plug>>>,
}

impl Power {
    pub fn new(vm: VmId, network: Network) -> Self {
        Self { vm, network, plugs: Arc::default() }
    }

    /// A daemon has started on a host.
    pub fn plug(&self, fake: &Arc<FakeHypervisor>, life: &Arc<Life>) {
        let plug = Plug { fake: Arc::clone(fake), life: Arc::clone(life) };
        self.plugs.lock().expect("no panic").insert(life.host, plug);
    }

    /// Its guest and its daemon are gone, and nobody is told.
    fn turn_off(&self, host: Host) {
        let plug = self.plugs.lock().expect("no panic").get(&host).cloned();
        let Some(Plug { fake, life }) = plug else { return };
        if fake.power(self.vm).is_some_and(|power| power != PowerState::Off) {
            fake.crash(self.vm);
        }
        self.network.power_off(host.name());
        life.die();
    }
}

#[async_trait]
impl Fencing for Power {
    async fn turn_off(&self, program: &str, arguments: &[String]) -> io::Result<bool> {
        let named = |host: &Host| arguments.iter().any(|name| name.starts_with(host.name()));
        let Some(host) = Host::ALL.into_iter().find(named).filter(|_| program == WORKS) else {
            return Ok(false);
        };
        Power::turn_off(self, host);
        Ok(true)
    }
}
