//! Changing a relationship in place: what was agreed, where the replica is, what the VM is called. All of a request is
//! done or nothing.
//!
//! A replica that has another address now is the same replica: the host there is the one that it was
//! before, by its id or its certificate, and has this VM's replica. That is asked before anything is changed; work that is under way is begun again
//! over the new address, and its job waits on.
//!
//! Part of the task of a relationship, see [`super::task`].

use super::asking::GREETING;
use super::handle::Modification;
use super::reason::Primary;
use super::session::Session;
use super::task::Task;
use super::worker::{Worker, offer};
use crate::error::{WorkError, chain};
use crate::messages::Request;
use crate::spans;
use standin_model::settings::{RelationshipSettings, SettingsChange};
use standin_model::{HostId, Refusal, ReturnCode, VmName};
use std::time::Duration;

impl Task {
    /// Changes the settings here. The replica learns them at once, or with the next session: they are part of what opens
    /// one.
    pub(super) async fn modify(&mut self, wanted: Modification) -> Result<(), Refusal> {
        let settings = self.agree(&wanted.settings)?;
        let before = self.record.clone();
        if let Some(peer) = wanted.peer.filter(|peer| !peer.eq_ignore_ascii_case(&before.peer)) {
            self.find_replica_at(peer).await?;
        }
        let told = match settings == before.settings {
            true => Ok(()),
            false => self.tell_settings(&settings).await,
        };
        self.record.settings = settings;
        let done = match told {
            Ok(()) => self.save_or_refuse().await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = done {
            let moved = self.record.peer != before.peer;
            self.record = before;
            if moved {
                self.connect_anew();
            }
            return Err(refusal);
        }
        self.schedule.set_interval(Duration::from_secs(u64::from(self.record.settings.interval_s)));
        Ok(())
    }

    /// The settings with the change; refuses by name what cannot be changed in place.
    fn agree(&self, change: &SettingsChange) -> Result<RelationshipSettings, Refusal> {
        let (name, known) = (&self.record.name, &self.record.settings);
        let mut settings = change.applied_to(known)?;
        let same_disks = settings.disks.len() == known.disks.len()
            && settings.disks.iter().all(|disk| known.disks.contains(disk));
        let fixed = |what: &'static str, other: &'static str| {
            Err(Primary::Fixed { vm: name.clone(), what, other }.into())
        };
        if !settings.disks.is_empty() && !same_disks {
            return fixed("the set of replicating disks", "disks");
        }
        // Their order numbers the streams of data.
        settings.disks.clone_from(&known.disks);
        if settings.granularity != known.granularity {
            return fixed("the granularity of the change tracking", "granularity");
        }
        Ok(settings)
    }

    async fn tell_settings(&mut self, settings: &RelationshipSettings) -> Result<(), Refusal> {
        let Some(worker) = &mut self.worker else {
            self.offer_again = true;
            return Ok(());
        };
        let told = Request::Settings(Box::new(settings.clone()));
        match tokio::time::timeout(GREETING, worker.tell(&self.record, &told)).await {
            Ok(Ok(())) => {}
            // The replica does not take these settings; anything else is of the link, or of its state now.
            Ok(Err(error)) if error.is_lasting() => return Err(error.refusal()),
            Ok(Err(error)) => {
                tracing::info!(error = %chain(&error), "the replica learns the settings later");
            }
            Err(_) => worker.hang_up(),
        }
        Ok(())
    }

    /// Goes on with the replica at another address, once it is known to be the same one.
    async fn find_replica_at(&mut self, peer: String) -> Result<(), Refusal> {
        let silent =
            || Refusal::from(Primary::SilentAddress { peer: peer.clone(), seconds: GREETING.as_secs() });
        let tools = self.shared.tools.clone();
        let dialled = tokio::time::timeout(GREETING, Session::dial(&tools.peers, &peer)).await;
        let mut session = dialled.map_err(|_| silent())?.map_err(|error| error.refusal())?;
        let found = session.host().map(|(host, name)| (host, name.to_owned()));
        self.same_host(&peer, found.as_ref())?;
        // The replica serves one session at a time: from here on, what runs would be ended by the question.
        self.begin_again().await;
        let offer = offer(&tools, &self.record);
        let asked = tokio::time::timeout(GREETING, session.resume(offer)).await;
        let has_it = match asked.map_err(|_| silent())? {
            Ok(()) => self.is_as_far(&peer, &session),
            // It has the replica, and takes nothing now: paused, or failed over. The next session hears of it.
            Err(WorkError::Refused { refusal, .. }) if refusal.code == ReturnCode::InvalidState => Ok(()),
            Err(error) => Err(not_there(&peer, &self.record.name, error.refusal())),
        };
        if let Err(refusal) = has_it {
            self.connect_anew();
            return Err(refusal);
        }
        tracing::info!(from = %self.record.peer, to = %peer, "the replica has another address");
        self.record.peer = peer;
        if let Some((host, name)) = found {
            self.record.host = Some(host);
            tools.vms.met_replica(&self.record, host, &name);
        }
        self.connect_anew();
        Ok(())
    }

    /// Whether the host at an address is the one that has been the replica.
    fn same_host(&self, peer: &str, found: Option<&(HostId, String)>) -> Result<(), Refusal> {
        let Some(id) = self.record.host else { return Ok(()) };
        let known =
            self.fence.borrow().as_ref().and_then(|it| it.fence.hosts.get(&id).map(|host| host.name.clone()));
        let known = known.or_else(|| self.shared.tools.peers.name(id)).unwrap_or_else(|| id.to_string());
        // By its certificate where it has another id now: it was set up anew, or is of the version before.
        let is_known = |(host, name): &(HostId, String)| *host == id || name.eq_ignore_ascii_case(&known);
        if found.is_some_and(is_known) {
            return Ok(());
        }
        Err(Primary::AnotherHost {
            vm: self.record.name.clone(),
            peer: peer.to_owned(),
            found: found.map_or_else(|| "a host without a name".to_owned(), |(_, name)| name.clone()),
            known,
        }
        .into())
    }

    /// A replica whose host never told who it is, because an older version made the relationship, is known by how far it
    /// is.
    fn is_as_far(&self, peer: &str, session: &Session) -> Result<(), Refusal> {
        if self.record.host.is_some() || session.opened().head == self.record.acknowledged {
            return Ok(());
        }
        Err(Primary::NotAsFar { vm: self.record.name.clone(), peer: peer.to_owned() }.into())
    }

    /// The next piece of work opens a session of its own.
    fn connect_anew(&mut self) {
        match &mut self.worker {
            Some(worker) => worker.hang_up(),
            None => self.offer_again = true,
        }
        self.asking.ask_again();
        self.schedule.at_once();
    }

    /// The VM is called otherwise on this host; the replica hears it with the next session.
    pub(super) async fn renamed(&mut self, name: VmName) -> Result<(), Refusal> {
        if self.record.name == name {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.record.name, name);
        if let Err(refusal) = self.save_or_refuse().await {
            self.record.name = before;
            return Err(refusal);
        }
        spans::has_name(&self.record.name);
        tracing::info!(%before, "a VM that replicates was renamed");
        match &mut self.worker {
            Some(worker) => worker.hang_up(),
            None => self.offer_again = true,
        }
        Ok(())
    }

    /// Ends the piece of work that runs, so that it begins again with what is changed now. Its job waits on.
    async fn begin_again(&mut self) {
        if self.running.is_none() {
            return;
        }
        self.cancel_running();
        // A link that is dead holds the work until its own timer; then it ends by that, and is tried again.
        let ended = tokio::time::timeout(GREETING, super::work::ended(&mut self.running));
        let Ok((worker, result)) = ended.await else { return };
        let by_job = self.job.as_ref().is_some_and(|job| job.cancelled().is_cancelled());
        if by_job || !matches!(result, Err(WorkError::Cancelled)) {
            return self.finished((worker, result)).await;
        }
        let Some(running) = self.running.take() else { return };
        self.worker = Some(worker.unwrap_or_else(|| Worker::new(self.shared.tools.clone())));
        if self.record.job.is_none() && self.job.is_some() {
            self.point_wanted = self.point_wanted.or(running.work.application());
        }
        self.schedule.at_once();
    }
}

fn not_there(peer: &str, name: &VmName, refusal: Refusal) -> Refusal {
    if refusal.code != ReturnCode::FileNotFound {
        return refusal;
    }
    Primary::NotThere { vm: name.clone(), peer: peer.to_owned(), refusal: refusal.message }.into()
}
