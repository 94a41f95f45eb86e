//! The replica's end of a session: admits the primary, receives layers, seals them.
//!
//! A session ends at the first thing that goes wrong: the refusal is sent, what was received of an unsealed
//! delta is discarded, and the primary begins again from its marks. What was received of a first copy stays.

use super::admission;
use super::files::{self, Incoming};
use super::host::ReplicaHost;
use super::layer::{Layer, blocking, refusal_of};
use super::reason::{Receive, Store};
use super::sender::Sender;
use super::vm::{ActiveSession, ReplicaVm};
use crate::messages::{
    CONFIG_STREAM, ConfigFileInfo, LayerKind, MAX_NODES, Offer, Opened, PointOffer, RefusedReply, Reply,
    Request,
};
use crate::records::LastError;
use crate::spans;
use jiff::Timestamp;
use standin_model::point::PointKind;
use standin_model::reason::Text;
use standin_model::state::{Event, ReplicationState};
use standin_model::stats::Cycle;
use standin_model::{DiskName, Epoch, Refusal, ReturnCode};
use standin_store::{ConfigFile, Kind, NewPoint, SealRequest};
use standin_wire::{Connection, Frame, ReceivedBlock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::{Instrument as _, Span};

/// How long a primary may take to read a refusal before the connection is closed on it.
const LAST_WORD: Duration = Duration::from_secs(5);

/// The same while the daemon stops.
const LAST_WORD_AT_STOP: Duration = Duration::from_millis(300);

/// Serves one connection until it ends. Its first frame was taken already, to see what the connection is for.
pub async fn serve(host: Arc<ReplicaHost>, connection: Connection, first: Received) {
    let peer = Sender::of(&host.shared.peers, connection.peer(), connection.peer_hello()).await;
    let (sender, mut receiver) = connection.split();
    let span = spans::session(&peer.identity.address);
    let mut session =
        Session { host, peer, sender, open: None, layer: None, incoming: None, span, of_layer: None };
    let last_word = session.run(first, &mut receiver).await;
    let vm = session.open.as_ref().map(|open| Arc::clone(&open.vm));
    let span = session.span();
    session.end().instrument(span.clone()).await;
    let Err(refused) = last_word else { return };
    if let Some(vm) = vm.filter(|_| Store::is_no_space(&refused.refusal.reason)) {
        cannot_store(&vm, &refused.refusal).await;
    }
    let (peer, reason) = (session.peer.identity.address, &refused.refusal);
    span.in_scope(|| match refused.refusal.code {
        // Somebody paused it here, or failed over: the primary asks again and again, as it should.
        ReturnCode::InvalidState => tracing::info!(%peer, %reason, "a session was ended"),
        _ => tracing::warn!(%peer, %reason, "a session was ended"),
    });
    if session.reply(&Reply::Refused(refused)).await.is_ok() {
        // Closing with unread blocks in the socket would reset the connection and lose the refusal.
        let drain = async { while let Ok(Some(_)) = receiver.next().await {} };
        let stop = async {
            session.host.shared.shutdown.cancelled().await;
            tokio::time::sleep(LAST_WORD_AT_STOP).await;
        };
        tokio::select! {
            () = drain => {}
            () = stop => {}
            () = tokio::time::sleep(LAST_WORD) => {}
        }
    }
}

/// What came from the primary: a frame, its end, or why there is none.
type Received = Result<Option<Frame>, standin_wire::Error>;

struct Session {
    host: Arc<ReplicaHost>,
    peer: Sender,
    sender: standin_wire::Sender,
    open: Option<Open>,
    layer: Option<Layer>,
    incoming: Option<Incoming>,
    /// Whom the log is about: the peer, then the relationship.
    span: Span,
    /// The same with the recovery point, while its layer is received.
    of_layer: Option<Span>,
}

struct Open {
    vm: Arc<ReplicaVm>,
    active: ActiveSession,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.active.ended.cancel();
    }
}

impl Session {
    fn span(&self) -> Span {
        self.of_layer.as_ref().filter(|_| self.layer.is_some()).unwrap_or(&self.span).clone()
    }

    /// Takes frames until the primary hangs up or something is refused.
    async fn run(
        &mut self,
        first: Received,
        receiver: &mut standin_wire::Receiver,
    ) -> Result<(), RefusedReply> {
        let mut received = first;
        loop {
            let span = self.span();
            match received {
                Ok(Some(Frame::Control(control))) => {
                    let request = control.parse::<Request>().map_err(|error| {
                        plain(Refusal::from(Receive::Request(Text::new(
                            crate::error::chain(&error),
                            error.remedy(),
                        ))))
                    })?;
                    if let Some(reply) = self.request(request).instrument(span.clone()).await? {
                        if let Err(error) = self.reply(&reply).await {
                            let peer = self.peer.identity.address;
                            span.in_scope(|| tracing::info!(%peer, %error, "a reply could not be sent"));
                            return Ok(());
                        }
                    }
                }
                Ok(Some(Frame::Block(block))) => self.block(block).instrument(span).await.map_err(plain)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let error = crate::error::chain(&error);
                    span.in_scope(
                        || tracing::info!(peer = %self.peer.identity.address, error, "a session broke"),
                    );
                    return Ok(());
                }
            }
            let cancelled = self.open.as_ref().map(|open| open.active.cancel.clone());
            received = tokio::select! {
                biased;
                () = when(cancelled) => return Err(self.superseded()),
                received = receiver.next() => received,
            };
        }
    }

    async fn reply(&mut self, reply: &Reply) -> Result<(), standin_wire::Error> {
        self.sender.control(reply).await?;
        self.sender.flush().await
    }

    async fn block(&mut self, block: ReceivedBlock) -> Result<(), Refusal> {
        if block.header.stream == CONFIG_STREAM {
            let incoming = self.incoming.as_mut().ok_or_else(|| out_of_turn("a configuration block"))?;
            return incoming.push(block);
        }
        let layer = self.layer.as_ref().ok_or_else(|| out_of_turn("a block"))?;
        layer.push(block).await
    }

    async fn request(&mut self, request: Request) -> Result<Option<Reply>, RefusedReply> {
        match request {
            Request::Probe => {
                self.is_itself(None).await?;
                self.host.entry_for(&self.peer.identity).map_err(plain)?;
                Ok(Some(Reply::Done))
            }
            Request::Create(offer) => {
                self.is_itself(Some(&offer)).await?;
                self.peer.known_by_its_id(&self.host, offer.vm).await.map_err(plain)?;
                let refused = |refusal| admission::refused(&self.host, &self.peer, offer.vm, refusal);
                let vm = admission::create(&self.host, &self.peer, &offer).await.map_err(refused)?;
                self.open_session(vm, &offer).await.map(Some)
            }
            Request::Open(offer) => {
                self.is_itself(Some(&offer)).await?;
                self.peer.known_by_its_id(&self.host, offer.vm).await.map_err(plain)?;
                let unknown = || {
                    let refusal = admission::unknown(&self.host, &offer);
                    admission::refused(&self.host, &self.peer, offer.vm, refusal)
                };
                let vm = self.host.find(offer.vm).ok_or_else(unknown)?;
                self.open_session(vm, &offer).await.map(Some)
            }
            other => self.in_session(other).await.map_err(plain),
        }
    }

    /// A host whose id is another one's is told so and nothing else. Where it asks for a replica of the host whose id it
    /// presents, whoever looks after this host sees it too: it may be that very host, with another certificate.
    async fn is_itself(&self, offer: Option<&Offer>) -> Result<(), RefusedReply> {
        let Some(refusal) = self.peer.doubted.clone() else { return Ok(()) };
        let replica = offer.and_then(|offer| self.host.find(offer.vm));
        if let Some(vm) = replica.filter(|vm| self.peer.is_source_of(&vm.snapshot())) {
            let mut record = vm.lock().await;
            record.show_error(&refusal);
        }
        Err(plain(refusal))
    }

    async fn open_session(&mut self, vm: Arc<ReplicaVm>, offer: &Offer) -> Result<Reply, RefusedReply> {
        admission::admit(&self.host, &vm, &self.peer, offer).await?;
        self.end().await;
        let active = vm.take_session().await;
        let record = vm.snapshot();
        self.span = spans::receiver(record.id(), &record.name);
        self.open = Some(Open { vm: Arc::clone(&vm), active });
        // A failover, a pause or a removal that was decided meanwhile did not see this session yet.
        let claim = admission::admit(&self.host, &vm, &self.peer, offer).await?;
        let store = vm.store().clone();
        let points = store.points();
        let newest = points.iter().max_by_key(|point| point.epoch);
        let opened = Opened {
            generation: claim.number,
            claim: Some(claim),
            head: store.head_epoch(),
            has_points: !points.is_empty(),
            resumable: store.head_epoch().is_none(),
            newest: newest.map(|point| PointOffer {
                id: point.id,
                created_at: point.created_at,
                kind: point.kind,
            }),
            points: points.len() as u64,
        };
        Ok(Reply::Opened(opened))
    }

    async fn in_session(&mut self, request: Request) -> Result<Option<Reply>, Refusal> {
        let vm =
            self.open.as_ref().map(|open| Arc::clone(&open.vm)).ok_or_else(|| out_of_turn("a request"))?;
        match request {
            Request::Begin { epoch, kind } => self.begin(&vm, epoch, kind).await.map(Some),
            Request::Watermark { stream, offset } => {
                self.layer()?.watermark(stream, offset).await?;
                Ok(None)
            }
            Request::PassEnd { digests } => self.pass_end(digests).await.map(Some),
            Request::ConfigFiles { files } => self.config_files(&vm, files).map(Some),
            Request::Seal { point, definition, files } => {
                self.seal(&vm, point, definition, files).await.map(Some)
            }
            Request::Nodes { stream, level, first, count, afresh } => {
                let disk = disk_of(&vm, stream)?;
                if afresh {
                    read_digests_again(&vm, &disk).await?;
                }
                nodes(&vm, disk, level, first, count).await.map(Some)
            }
            Request::Settings(settings) => {
                settings.validate()?;
                let mut record = vm.lock().await;
                record.settings = *settings;
                record.save().await?;
                Ok(Some(Reply::Done))
            }
            Request::Remove => {
                self.discard().await;
                let mut record = vm.lock().await;
                admission::released(&mut record).await?;
                Ok(Some(Reply::Done))
            }
            Request::Probe | Request::Link { .. } | Request::Create(_) | Request::Open(_) => {
                Err(out_of_turn("an opening"))
            }
        }
    }

    fn layer(&self) -> Result<&Layer, Refusal> {
        self.layer.as_ref().ok_or_else(|| out_of_turn("a part of a layer"))
    }

    async fn begin(&mut self, vm: &ReplicaVm, epoch: Epoch, kind: LayerKind) -> Result<Reply, Refusal> {
        self.discard().await;
        let record = vm.snapshot();
        let store = vm.store().clone();
        let base = matches!(kind, LayerKind::Base { .. });
        let writer = blocking(move || {
            let open = |kind| store.begin(epoch, kind).map_err(|error| refusal_of(&error));
            match kind {
                LayerKind::Base { fresh: true } => {
                    open(Kind::Base)?.discard().map_err(|error| refusal_of(&error))?;
                    open(Kind::Base)
                }
                LayerKind::Base { fresh: false } => open(Kind::Base),
                LayerKind::Delta => open(Kind::Delta),
            }
        })
        .await?;
        let disks = record.disks.iter().map(|disk| disk.name.clone()).collect();
        let layer = Layer::new(epoch, base, writer, disks);
        let watermarks = if base { layer.watermarks()? } else { BTreeMap::new() };
        self.of_layer = Some(self.span.in_scope(|| spans::point(epoch)));
        self.layer = Some(layer);
        Ok(Reply::Begun { watermarks })
    }

    async fn pass_end(&mut self, digests: BTreeMap<u16, String>) -> Result<Reply, Refusal> {
        if let Some(incoming) = self.incoming.take() {
            let digest = digests.get(&CONFIG_STREAM).cloned().unwrap_or_default();
            incoming.finish(&digest).await?;
        } else {
            self.layer()?.end_pass(&digests).await?;
            if let Some(open) = &self.open {
                stores_again(&open.vm).await;
            }
        }
        Ok(Reply::Done)
    }

    fn config_files(&mut self, vm: &ReplicaVm, offered: Vec<ConfigFileInfo>) -> Result<Reply, Refusal> {
        files::check(&offered)?;
        let directory = vm.store().directory();
        let wanted = files::wanted(directory, &offered);
        let roles = wanted.iter().map(|file| file.role.clone()).collect();
        self.incoming = if wanted.is_empty() { None } else { Some(Incoming::new(directory, wanted)?) };
        Ok(Reply::ConfigWanted { roles })
    }

    async fn seal(
        &mut self,
        vm: &Arc<ReplicaVm>,
        point: Option<PointOffer>,
        definition: String,
        config: Vec<ConfigFileInfo>,
    ) -> Result<Reply, Refusal> {
        admission::same_vm(&self.peer, &vm.snapshot(), &definition)?;
        let layer = self.layer.take().ok_or_else(|| out_of_turn("a seal"))?;
        layer.settle().await?;
        files::check(&config)?;
        if let Some(missing) = files::wanted(vm.store().directory(), &config).first() {
            return Err(out_of_turn(&format!("a seal before its {}", missing.role)));
        }
        let (epoch, written) = (layer.epoch, layer.written());
        let request = SealRequest {
            point: point.as_ref().map(|point| NewPoint {
                id: point.id,
                created_at: point.created_at,
                kind: point.kind,
            }),
            config: config_of(&definition, &config)?,
        };
        let writer = layer.into_writer()?;
        let sealed = blocking(move || writer.seal(request).map_err(|error| refusal_of(&error))).await?;
        let digest = sealed.point.map(|point| point.digest).unwrap_or_default();
        received(vm, epoch, point.as_ref(), written).await;
        tracing::debug!(bytes = written, "a layer was sealed");
        self.host.upkeep(vm);
        Ok(Reply::Sealed { epoch, digest })
    }

    /// Ends what is open: an unsealed delta is discarded, a first copy is left to be gone on with.
    async fn end(&mut self) {
        self.discard().await;
        self.open = None;
    }

    async fn discard(&mut self) {
        self.incoming = None;
        let Some(layer) = self.layer.take() else { return };
        // A failed block is why it is discarded; nothing is to be done about it here.
        drop(layer.settle().await);
        let base = layer.base;
        let ended = match layer.into_writer() {
            Err(refusal) => Err(refusal),
            Ok(writer) => {
                blocking(move || {
                    if base {
                        // Dropped, a first copy keeps what is durable of it.
                        drop(writer);
                        return Ok(());
                    }
                    writer.discard().map_err(|error| refusal_of(&error))
                })
                .await
            }
        };
        if let Err(refusal) = ended {
            tracing::warn!(%refusal, "an unsealed layer is left; it is removed at the next start");
        }
    }

    fn superseded(&self) -> RefusedReply {
        let vm = self.open.as_ref().map(|open| open.vm.snapshot());
        let name = vm.as_ref().map(|record| record.name.to_string()).unwrap_or_default();
        // The state says why, if it is why; what is left is a change of who may send, and a newer session.
        let reason = vm.as_ref().and_then(admission::takes_nothing);
        let refusal = reason.unwrap_or_else(|| Receive::Superseded { vm: name }.into());
        match vm {
            Some(record) => admission::refused(&self.host, &self.peer, record.vm, refusal),
            None => plain(refusal),
        }
    }
}

async fn when(cancelled: Option<tokio_util::sync::CancellationToken>) {
    match cancelled {
        Some(token) => token.cancelled_owned().await,
        None => std::future::pending().await,
    }
}

fn plain(refusal: Refusal) -> RefusedReply {
    RefusedReply { refusal, generation: None, claim: None, failed_over: false }
}

fn out_of_turn(what: &str) -> Refusal {
    Receive::OutOfTurn { what: what.to_owned() }.into()
}

/// What of a configuration is kept with a point: the definition, and the hashes of its files by role.
fn config_of(definition: &str, files: &[ConfigFileInfo]) -> Result<Vec<ConfigFile>, Refusal> {
    if definition.is_empty() {
        return Ok(Vec::new());
    }
    let list =
        serde_json::to_vec_pretty(files).map_err(|error| Receive::Defect { error: error.to_string() })?;
    Ok(vec![
        ConfigFile { name: "vm.toml".to_owned(), data: definition.as_bytes().to_vec() },
        ConfigFile { name: "files.json".to_owned(), data: list },
    ])
}

/// Notes why nothing can be stored, for as long as that lasts: the primary is told too, but whoever looks after this host
/// looks here. Shown even where it cannot be written down, because the state may lie on the same full file system.
async fn cannot_store(vm: &ReplicaVm, refusal: &Refusal) {
    let mut record = vm.lock().await;
    record.note_error(refusal).await;
    record.publish();
}

/// A pass was stored. A first copy has many before it is durable as a whole, and the last may be long in coming.
async fn stores_again(vm: &ReplicaVm) {
    if vm.snapshot().last_error.is_none() {
        return;
    }
    let mut record = vm.lock().await;
    let full = |error: &mut LastError| Store::is_no_space(&error.reason);
    if record.last_error.take_if(full).is_some() {
        if let Err(refusal) = record.save().await {
            tracing::error!(%refusal, "the replica's record could not be saved");
        }
        record.publish();
    }
}

/// Notes that a layer is durable.
async fn received(vm: &ReplicaVm, epoch: Epoch, point: Option<&PointOffer>, written: u64) {
    let now = Timestamp::now();
    let mut record = vm.lock().await;
    vm.shared.service.roll(&mut record.statistics, now);
    record.last_received_at = Some(now);
    record.last_epoch = Some(epoch);
    let had_error = record.last_error.take().is_some();
    let before = record.state;
    if let Some(point) = point {
        record.last_point_at = Some(point.created_at);
        record.statistics.current.succeeded(Cycle {
            at: now,
            latency: now.duration_since(point.created_at),
            changed_bytes: written,
            sent_bytes: written,
            application_consistent: point.kind == PointKind::ApplicationConsistent,
        });
        let event = match before {
            ReplicationState::WaitingForInitialReplication => Some(Event::InitialDone),
            ReplicationState::Critical => Some(Event::RetrySucceeded),
            _ => None,
        };
        if let Some(event) = event {
            if let Err(refusal) = record.step(event).await {
                tracing::error!(%refusal, "the state after a recovery point was not stored");
            }
        }
    }
    // The times are in the manifest too: most cycles need no write to the state store.
    if had_error {
        if let Err(refusal) = record.save().await {
            tracing::error!(%refusal, "the replica's record could not be saved");
        }
    }
    record.publish();
}

async fn nodes(vm: &ReplicaVm, disk: DiskName, level: u32, first: u64, count: u32) -> Result<Reply, Refusal> {
    if count > MAX_NODES {
        return Err(out_of_turn("a question for too many digests"));
    }
    let store = vm.store().clone();
    let digests = blocking(move || {
        store.node_digests(&disk, level, first, u64::from(count)).map_err(|error| refusal_of(&error))
    })
    .await?;
    Ok(Reply::Nodes { digests })
}

fn disk_of(vm: &ReplicaVm, stream: u16) -> Result<DiskName, Refusal> {
    let record = vm.snapshot();
    let disk = record.disks.get(usize::from(stream)).ok_or_else(|| out_of_turn("an unknown disk"))?;
    Ok(disk.name.clone())
}

/// The primary found that this replica's digests are not those of what it sent. Where they cannot be read again,
/// the comparison goes on with those there are: it mends what it finds, and the next seal tells whether that was all.
async fn read_digests_again(vm: &ReplicaVm, disk: &DiskName) -> Result<(), Refusal> {
    let (store, name, disk) = (vm.store().clone(), vm.snapshot().name, disk.clone());
    blocking(move || {
        match store.rebuild_tree(&disk) {
            Ok(()) => tracing::warn!(vm = %name, %disk, "the digests were read again from the layers; the primary \
                 doubted them"),
            Err(error) => tracing::error!(vm = %name, %disk, error = %crate::error::chain(&error),
                "the digests, which the primary doubts, cannot be read again from the layers; run `standin store check`"),
        }
        Ok(())
    })
    .await
}
