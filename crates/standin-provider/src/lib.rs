//! The classes and methods of `root/virtualization/v2` in terms of the engine: an [`InstanceSource`] that reads the
//! engine's memory and asks the engine for what is to be done. Knows nothing of XML, HTTP or users' passwords.
//!
//! ```text
//! world      the VMs and relationships that there are
//! system, settings, replication, service, jobs, facade      one instance of each class
//! associations                                              which belong together
//! methods    the methods: arguments, roles, the engine's call, the code
//! ```
//!
//! # Invariants
//!
//! - A property that standin does not know is null: nothing is made up to fill a class.
//! - What can be refused at once is refused with the method's code; what fails later fails in the job.
//! - A caller who may not change something gets 32769 and nothing was changed.

#![forbid(unsafe_code)]

mod associations;
mod facade;
mod ids;
mod jobs;
mod make;
mod methods;
pub mod reasons;
mod replication;
mod service;
mod settings;
mod system;
mod world;

pub use methods::{audited, role_of};
pub use world::Site;

use async_trait::async_trait;
use methods::certificates::Thumbprint;
use standin_cim::{
    Caller, CimError, Instance, InstanceSource, MethodAnswer, MethodCall, Namespace, Narrow, ObjectPath,
    Schema, StatusCode, TypedValue, same_name, schema,
};
use standin_engine::Engine;
use standin_model::ReturnCode;
use std::sync::Arc;
use world::Machine;

/// The namespace of the virtualization classes.
pub const VIRTUALIZATION: Namespace = Namespace::from_static("root/virtualization/v2");
/// The namespace of the host's facade.
pub const CIMV2: Namespace = Namespace::from_static("root/cimv2");
/// The namespaces in which generic clients look for what there is.
pub const INTEROP: [Namespace; 2] =
    [Namespace::from_static("interop"), Namespace::from_static("root/interop")];
/// The namespace above the others: WMI's own clients walk down from it by `__NAMESPACE`. The one between it and
/// `root/virtualization/v2` is not there: clients try that one for an older version's classes, and go on to v2 when
/// they are told that there is no such namespace.
pub const ROOT: Namespace = Namespace::from_static("root");

type Result<T> = standin_cim::Result<T>;

/// The provider of this host.
pub struct Provider {
    engine: Arc<Engine>,
    site: Arc<Site>,
    thumbprint: Arc<Thumbprint>,
}

impl Provider {
    /// A provider of this engine's objects.
    #[must_use]
    pub fn new(engine: Arc<Engine>, site: Site) -> Self {
        Self { engine, site: Arc::new(site), thumbprint: Arc::default() }
    }

    fn machines(&self, narrow: &Narrow) -> Vec<Machine> {
        world::machines(&self.engine, narrow)
    }

    async fn virtualization(&self, class: &str, narrow: &Narrow) -> Vec<Instance> {
        let engine = &self.engine;
        let site = &self.site;
        let each = |make: fn(&Machine) -> Instance| self.machines(narrow).iter().map(make).collect();
        match class {
            "msvm_computersystem" => {
                let mut all: Vec<Instance> = each(system::vm);
                if world::focus(narrow).is_none() {
                    all.push(system::host(site));
                }
                all
            }
            "msvm_replicationrelationship" => each(replication::relationship),
            "msvm_systemreplicationrelationship" => each(associations::relationship),
            "msvm_replicationsettingdata" => {
                self.machines(narrow).iter().map(|one| replication::setting_data(site, one)).collect()
            }
            "msvm_replicationstatistics" => {
                let machines = self.machines(narrow);
                let with = machines.iter().filter_map(|one| Some((one, one.relationship.as_ref()?)));
                with.map(|(one, found)| replication::statistics_instance(one, found)).collect()
            }
            "msvm_replicationprovider" => vec![replication::provider(site)],
            "msvm_replicationservice" => vec![service::service(site, service::REPLICATION)],
            "msvm_virtualsystemmanagementservice" => vec![service::service(site, service::MANAGEMENT)],
            "msvm_virtualsystemsnapshotservice" => vec![service::service(site, service::SNAPSHOT)],
            "msvm_replicationservicesettingdata" => {
                vec![service::settings(site, &engine.service_settings(), self.thumbprint.of(site))]
            }
            "msvm_replicationauthorizationsettingdata" => {
                engine.replicas().entries().iter().map(service::entry).collect()
            }
            "msvm_concretejob" => engine.jobs().list().iter().map(jobs::job).collect(),
            "msvm_hostedservice" => [service::REPLICATION, service::MANAGEMENT, service::SNAPSHOT]
                .map(|one| associations::hosted(site, one))
                .to_vec(),
            "msvm_affectedjobelement" => associations::affected(engine),
            _ => self.parts(class, narrow).await,
        }
    }

    /// What VMs are made of.
    async fn parts(&self, class: &str, narrow: &Narrow) -> Vec<Instance> {
        let engine = &self.engine;
        let mut all = Vec::new();
        if class == "msvm_settingsdefinestate" {
            all.extend(associations::settings_of_service(engine, &self.site));
        }
        for machine in self.machines(narrow) {
            let machine = &machine;
            match class {
                "msvm_settingsdefinestate" => all.extend(associations::settings_of_vm(machine)),
                "msvm_virtualsystemsettingdata" => {
                    all.push(settings::realized(machine));
                    all.extend(settings::points(engine, machine));
                }
                "msvm_snapshotofvirtualsystem" => all.extend(associations::snapshots(engine, machine)),
                "msvm_mostcurrentsnapshotinbranch" => all.extend(associations::newest(engine, machine)),
                "msvm_lastappliedsnapshot" => all.extend(associations::applied(engine, machine)),
                "msvm_virtualsystemsettingdatacomponent" => {
                    all.extend(associations::components(engine, machine).await);
                }
                "msvm_storageallocationsettingdata" => all.extend(self.disks(machine)),
                "msvm_ethernetportfailoversettingdatacomponent" => {
                    all.extend(associations::failover_components(engine, machine).await);
                }
                "msvm_systemdevice" => all.extend(associations::devices(engine, machine).await),
                "msvm_syntheticethernetport"
                | "msvm_syntheticethernetportsettingdata"
                | "msvm_failovernetworkadaptersettingdata" => {
                    let adapters = settings::adapters(engine, machine).await;
                    let make = match class {
                        "msvm_syntheticethernetport" => settings::port,
                        "msvm_syntheticethernetportsettingdata" => settings::port_settings,
                        _ => settings::failover_settings,
                    };
                    all.extend(adapters.iter().map(|adapter| make(machine, adapter)));
                }
                // Abstract bases, and classes of what this version does not have: test replicas.
                _ => {}
            }
        }
        all
    }

    /// The disks of the VM and of each of its recovery points.
    fn disks(&self, machine: &Machine) -> Vec<Instance> {
        let owner = ids::microsoft(machine.id, "");
        let mut all: Vec<Instance> =
            settings::disks(machine).iter().map(|disk| settings::disk(&owner, disk)).collect();
        let disks = world::point_disks(&self.engine, machine);
        for point in world::points(&self.engine, machine) {
            let owner = ids::microsoft(point.id, "");
            all.extend(disks.iter().map(|disk| settings::disk(&owner, disk)));
        }
        all
    }

    fn interop(&self, class: &str) -> Vec<Instance> {
        match class {
            "cim_objectmanager" => vec![facade::object_manager(&self.site)],
            "cim_namespace" => {
                self.namespaces().iter().map(|one| facade::namespace(&self.site, one)).collect()
            }
            "cim_registeredprofile" => vec![facade::profile()],
            "cim_elementconformstoprofile" => {
                vec![facade::conforms(service::path(&self.site, service::REPLICATION))]
            }
            _ => Vec::new(),
        }
    }

    fn cimv2(&self, class: &str) -> Vec<Instance> {
        match class {
            "win32_computersystem" => vec![facade::computer_system(&self.site)],
            "win32_computersystemproduct" => vec![facade::product(&self.site)],
            "win32_operatingsystem" => vec![facade::operating_system(&self.site)],
            _ => Vec::new(),
        }
    }
}

#[async_trait]
impl InstanceSource for Provider {
    fn namespaces(&self) -> Vec<Namespace> {
        [VIRTUALIZATION, CIMV2, ROOT].into_iter().chain(INTEROP).collect()
    }

    fn schema(&self, namespace: &Namespace) -> Option<Arc<Schema>> {
        if *namespace == VIRTUALIZATION {
            Some(schema::virtualization())
        } else if *namespace == CIMV2 {
            Some(schema::cimv2())
        } else if *namespace == ROOT {
            Some(schema::root())
        } else if INTEROP.contains(namespace) {
            Some(schema::interop())
        } else {
            None
        }
    }

    async fn instances(
        &self,
        _caller: &Caller,
        namespace: &Namespace,
        class: &str,
        narrow: &Narrow,
    ) -> Result<Vec<Instance>> {
        let class = class.to_ascii_lowercase();
        Ok(if *namespace == VIRTUALIZATION {
            self.virtualization(&class, narrow).await
        } else if *namespace == CIMV2 {
            self.cimv2(&class)
        } else {
            self.interop(&class)
        })
    }

    async fn modify(
        &self,
        _caller: &Caller,
        _namespace: &Namespace,
        instance: &Instance,
        changes: Vec<(String, TypedValue)>,
    ) -> Result<()> {
        if !same_name(&instance.class, "Msvm_ReplicationAuthorizationSettingData") {
            return Err(by_method(&instance.class));
        }
        methods::authorization::put(&self.engine, instance, &changes).await.map_err(|refusal| {
            let status = match refusal.code {
                ReturnCode::InvalidParameter => StatusCode::InvalidParameter,
                ReturnCode::FileNotFound => StatusCode::NotFound,
                _ => StatusCode::Failed,
            };
            CimError::new(status, jobs::sentence(&refusal))
        })
    }

    async fn create(
        &self,
        _caller: &Caller,
        _namespace: &Namespace,
        instance: Instance,
    ) -> Result<ObjectPath> {
        Err(by_method(&instance.class))
    }

    async fn delete(&self, _caller: &Caller, _namespace: &Namespace, instance: &Instance) -> Result<()> {
        Err(by_method(&instance.class))
    }

    async fn invoke(&self, caller: &Caller, call: MethodCall) -> Result<MethodAnswer> {
        methods::invoke(self, caller, call).await
    }
}

/// Objects are changed by the methods of their services, as in Hyper-V.
fn by_method(class: &str) -> CimError {
    let remedy = match class {
        "Msvm_ReplicationAuthorizationSettingData" => {
            "AddAuthorizationEntry, ModifyAuthorizationEntry or RemoveAuthorizationEntry of Msvm_ReplicationService"
        }
        "Msvm_ReplicationSettingData" => "ModifyReplicationSettings of Msvm_ReplicationService",
        "Msvm_ReplicationServiceSettingData" => "ModifyServiceSettings of Msvm_ReplicationService",
        "Msvm_VirtualSystemSettingData" => {
            "DestroySnapshot of Msvm_VirtualSystemSnapshotService, or ModifySystemSettings of \
             Msvm_VirtualSystemManagementService"
        }
        _ => "the methods of its service",
    };
    CimError::new(
        StatusCode::NotSupported,
        format!("instances of {class} are not made, changed or removed directly; use {remedy}"),
    )
}
