//! The management API: `root/virtualization/v2` over WS-Management and CIM-XML, behind the listeners that the table
//! `[management]` of the configuration asks for.
//!
//! ```text
//! Listener (4 ports) -> Authenticator -> wsman | cimxml -> Audited -> Broker -> Provider -> engine
//! ```

use crate::config::{Certificates, Config};
use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use standin_access::audit::{AuditLog, Audited};
use standin_access::endpoint::{self, Endpoint};
use standin_access::listener::{Gate, TlsFiles, TlsIdentity};
use standin_access::quota;
use standin_access::users::{Directory, UsersFile};
use standin_access::{AccessSettings, Authenticator, Listener, ListenerConfig};
use standin_cim::broker::Broker;
use standin_cim::{Operations, schema};
use standin_cimxml::CimXml;
use standin_engine::Engine;
use standin_provider::{Provider, Site};
use standin_wire::PkiDir;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The listeners while they run.
pub struct Management {
    stop: CancellationToken,
    tasks: TaskTracker,
    tls: Option<Arc<TlsIdentity>>,
    audit: Arc<AuditLog>,
}

impl Management {
    /// Takes the ports and begins to serve.
    ///
    /// # Errors
    /// A sentence that names the port or the file, and what to do.
    pub async fn start(config: &Config, settings: &AccessSettings, engine: Arc<Engine>) -> Result<Self> {
        let audit =
            Arc::new(AuditLog::open(config.audit_log()).with_context(|| {
                format!("the audit log {} cannot be opened", config.audit_log().display())
            })?);
        let operations = operations(config, engine, Arc::clone(&audit));
        let directory = Directory::open(UsersFile::new(config.users_file()))?;
        let authenticator = Arc::new(Authenticator::new(settings, directory, &config.host_name)?);
        let tls = tls(config, settings)?;
        let wsman: Arc<dyn Endpoint> = Arc::new(standin_wsman::Service::new(
            Arc::clone(&operations),
            standin_wsman::Settings::default(),
        ));
        let cimxml: Arc<dyn Endpoint> =
            Arc::new(CimXml::new(operations, &config.host_name).with_qualifiers(schema::qualifiers()));
        let this = Self { stop: CancellationToken::new(), tasks: TaskTracker::new(), tls, audit };
        let swept = vec![Arc::clone(&wsman), Arc::clone(&cimxml)];
        this.tasks.spawn(endpoint::keep_swept(swept, quota::SWEEP, this.stop.clone()));
        let gate = Gate::new(&settings.limits());
        for (key, port, encrypted, endpoint) in [
            ("wsman_http", settings.wsman_http, false, &wsman),
            ("wsman_https", settings.wsman_https, true, &wsman),
            ("cimxml_http", settings.cimxml_http, false, &cimxml),
            ("cimxml_https", settings.cimxml_https, true, &cimxml),
        ] {
            if port == 0 {
                continue;
            }
            let listener = ListenerConfig {
                address: SocketAddr::new(settings.listen, port),
                tls: this.tls.clone().filter(|_| encrypted),
                limits: settings.limits(),
                gate: Arc::clone(&gate),
            };
            this.listen(key, listener, endpoint, &authenticator).await?;
        }
        Ok(this)
    }

    async fn listen(
        &self,
        key: &str,
        config: ListenerConfig,
        endpoint: &Arc<dyn Endpoint>,
        authenticator: &Arc<Authenticator>,
    ) -> Result<()> {
        let address = config.address;
        let bound = Listener::bind(config, vec![Arc::clone(endpoint)], Arc::clone(authenticator)).await;
        let listener = bound.with_context(|| {
            format!(
                "the management API cannot listen on {address}; end what uses that port, or set {key} under \
                 [management] to another one, or to 0 for none"
            )
        })?;
        tracing::info!(%address, protocol = endpoint.protocol(), key, "the management API listens");
        self.tasks.spawn(listener.serve(self.stop.clone()));
        Ok(())
    }

    /// Takes the certificate and the audit log from their files again.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
        if let Err(error) = self.audit.reopen() {
            tracing::error!(%error, "the audit log cannot be opened again; the old file is written on");
        }
    }

    /// Takes no more requests, and waits for those that are under way.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn operations(config: &Config, engine: Arc<Engine>, audit: Arc<AuditLog>) -> Arc<dyn Operations> {
    let broker = Broker::new(Provider::new(engine, site(config))).with_host(&config.host_name);
    let reads = |call: &standin_cim::MethodCall| !standin_provider::audited(&call.method);
    Arc::new(Audited::new(Arc::new(broker), audit, reads))
}

fn site(config: &Config) -> Site {
    let certificates = match &config.certificates {
        Certificates::Builtin(dir) => {
            let files = PkiDir::new(dir).identity_files();
            vec![files.certificate, files.trust]
        }
        Certificates::Own { certificate, trust, .. } => vec![certificate.clone(), trust.clone()],
    };
    Site {
        host: config.host_name.clone(),
        machine_id: machine_id(),
        port: crate::config::DEFAULT_PORT,
        version: env!("CARGO_PKG_VERSION"),
        started_at: Timestamp::now(),
        booted_at: booted_at(),
        certificates,
    }
}

/// The firmware's identity of this machine, or that of its operating system.
fn machine_id() -> Option<String> {
    let product = std::fs::read_to_string("/sys/class/dmi/id/product_uuid");
    let text = product.or_else(|_| std::fs::read_to_string("/etc/machine-id")).ok()?;
    text.trim().parse::<uuid::Uuid>().ok().map(|id| id.to_string().to_ascii_uppercase())
}

fn booted_at() -> Option<Timestamp> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds = text.split_whitespace().next()?.parse::<f64>().ok()?;
    Timestamp::now().checked_sub(SignedDuration::try_from_secs_f64(seconds).ok()?).ok()
}

/// The certificate of HTTPS: one of its own, or the one that replication has.
fn tls(config: &Config, settings: &AccessSettings) -> Result<Option<Arc<TlsIdentity>>> {
    if settings.wsman_https == 0 && settings.cimxml_https == 0 {
        return Ok(None);
    }
    let (certificate, key, trust) = match &config.certificates {
        Certificates::Builtin(dir) => {
            let files = PkiDir::new(dir).identity_files();
            (files.certificate, files.key, files.trust)
        }
        Certificates::Own { certificate, key, trust } => (certificate.clone(), key.clone(), trust.clone()),
    };
    let files = TlsFiles {
        certificate: settings.certificate.clone().unwrap_or(certificate),
        key: settings.key.clone().unwrap_or(key),
        client_trust: Some(settings.client_trust.clone().unwrap_or(trust)),
    };
    Ok(Some(Arc::new(TlsIdentity::load(files)?)))
}
