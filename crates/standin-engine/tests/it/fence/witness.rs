//! A third host that answers for a silent one: when its word counts, and when it is none.

use crate::host::{End, Host, until};
use crate::link::Link;
use crate::names::another;
use crate::world::{World, keep_all, refused};
use standin_engine::peers::{Address, Answer, Call};
use standin_engine::vm::Asserts;
use standin_model::ReturnCode;
use standin_model::fence::Claim;
use standin_model::state::ReplicationState as S;
use standin_model::view::StatusView;
use standin_state::StateStore;
use std::time::Duration;
use uuid::Uuid;

/// Two hosts that replicate and a witness, each with a link of its own to it.
struct Witnessed {
    world: World,
    witness: Host,
    from_a: Link,
    from_b: Link,
}

impl Witnessed {
    /// Both hosts name the witness, and have told each other.
    async fn new() -> Self {
        let this = Self::named_by(true, true).await;
        this.replica_vouches().await;
        this
    }

    async fn named_by(a: bool, b: bool) -> Self {
        let mut world = World::new().await;
        let mut witness = another(&world, "witness");
        witness.start().await;
        let (from_a, from_b) = (Link::new().await, Link::new().await);
        from_a.lead_to(witness.port());
        from_b.lead_to(witness.port());
        world.a.policy.witness = a.then(|| from_a.address());
        world.b.policy.witness = b.then(|| from_b.address());
        world.a.restart(End::Stop).await;
        world.b.restart_behind(&world.link, End::Stop).await;
        let job = world.begin(keep_all()).await;
        world.done(job).await;
        world.both_replicate().await;
        world.linked().await;
        Self { world, witness, from_a, from_b }
    }

    /// The primary has heard from which records the replica's witness answers, and they are those of now.
    async fn replica_vouches(&self) {
        let (a, b, vm) = (self.world.a.engine(), self.world.b.engine(), self.world.vm);
        until("the replica's witness is heard of", move || {
            let (_, named) = b.vm_tasks().witness()?;
            let record = a.vm_tasks().record(vm)?;
            let told = record.stances.values().filter_map(|told| told.stance.witness);
            named.filter(|id| told.clone().any(|told| told == *id)).map(|_| ())
        })
        .await;
    }

    /// The primary's VM is off, and so is its host's link with the replica.
    async fn stopped_and_cut(&self) {
        self.world.a.fake.clean_stop(self.world.vm);
        self.world.link.cut();
    }

    /// The primary's host dies, the VM fails over, and the primary's host comes back without a link with the replica.
    async fn failed_over_unseen(&mut self) {
        self.world.died_and_failed_over().await;
        self.world.a.start().await;
    }

    async fn restart_witness(&mut self) {
        self.witness.start().await;
        self.from_a.lead_to(self.witness.port());
        self.from_b.lead_to(self.witness.port());
    }

    /// What the witness knows, by its records.
    async fn recorded(&self) -> Option<Claim> {
        let key = format!("witnessed/{}", self.world.vm);
        let found = self.witness.memory().list(&key).await.expect("readable");
        let (_, record) = found.into_iter().next()?;
        let text = String::from_utf8(record.value).expect("JSON");
        let start = text.find("\"claim\":").expect("a claim") + 8;
        serde_json::Deserializer::from_str(&text[start..]).into_iter().next().expect("a claim").ok()
    }

    async fn a_is_refused(&self, code: ReturnCode) {
        refused(self.world.start_on(&self.world.a, None).await, code);
        assert!(!self.world.runs_on(&self.world.a).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_ahead_on_the_word_of_a_witness_that_both_hosts_name() {
    let this = Witnessed::new().await;
    this.stopped_and_cut().await;
    this.world.start_on(&this.world.a, None).await.expect("the witness says that it runs nowhere else");
    assert!(this.world.runs_on(&this.world.a).await);
    let record = this.world.a.engine().vm_tasks().record(this.world.vm).expect("a record");
    assert_eq!(record.fence.asserted, None, "nobody asserted anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_recorded_with_the_witness_which_tells_the_old_primary() {
    let mut this = Witnessed::new().await;
    let before = this.world.a.backup().await;
    this.failed_over_unseen().await;
    let held = this.world.b.engine().vm_tasks().fence(this.world.vm).expect("a fence").claim;
    assert!(this.recorded().await.is_some_and(|known| known.same_as(held)));
    this.a_is_refused(ReturnCode::InvalidState).await;
    // Also one that knows nothing of what the witness told it before.
    this.world.a.kill().await;
    this.world.a.restore(&before).await;
    this.world.a.start().await;
    this.a_is_refused(ReturnCode::InvalidState).await;
    // A revert is recorded too, and the old primary starts on the witness's word again.
    this.world.revert().await;
    until("the revert is recorded", || {
        futures_util::FutureExt::now_or_never(this.recorded())
            .flatten()
            .filter(|known| known.number > held.number)
    })
    .await;
    this.world.start_on(&this.world.a, None).await.expect("it came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_one_host_names_alone_is_none() {
    for (a, b) in [(true, false), (false, true)] {
        let this = Witnessed::named_by(a, b).await;
        this.stopped_and_cut().await;
        this.a_is_refused(ReturnCode::NotAvailable).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_cannot_be_reached_says_nothing() {
    let this = Witnessed::new().await;
    this.from_a.cut();
    this.stopped_and_cut().await;
    this.a_is_refused(ReturnCode::NotAvailable).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_lost_its_records_counts_again_when_both_hosts_have_heard() {
    let mut this = Witnessed::new().await;
    this.witness.kill().await;
    this.witness.forget_records();
    this.restart_witness().await;
    this.failed_over_unseen().await;
    this.from_b.cut();
    this.witness.kill().await;
    this.witness.forget_records();
    this.restart_witness().await;
    this.a_is_refused(ReturnCode::NotAvailable).await;
    this.from_b.mend();
    // The replica records what it holds with the new records as well, and tells the primary of them.
    until("it is recorded again", || futures_util::FutureExt::now_or_never(this.recorded()).flatten()).await;
    this.a_is_refused(ReturnCode::InvalidState).await;
    this.world.link.mend();
    this.world.revert().await;
    this.replica_vouches().await;
    this.world.link.cut();
    this.world.start_on(&this.world.a, None).await.expect("both have heard of its records");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_of_the_witness_says_nothing() {
    let mut this = Witnessed::new().await;
    let before = this.witness.backup().await;
    this.world.died_and_failed_over().await;
    this.from_b.cut();
    this.witness.kill().await;
    this.witness.restore(&before).await;
    this.restart_witness().await;
    this.world.a.start().await;
    assert_eq!(this.recorded().await, None, "it was lost");
    this.a_is_refused(ReturnCode::NotAvailable).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_counts_after_a_restart_and_not_after_a_reboot() {
    let mut this = Witnessed::new().await;
    this.stopped_and_cut().await;
    this.from_b.cut();
    this.witness.kill().await;
    std::fs::remove_file(this.witness.runtime_dir().join("witness.json")).expect("removed");
    this.restart_witness().await;
    this.a_is_refused(ReturnCode::NotAvailable).await;
    let this = Witnessed::new().await;
    let mut this = this;
    this.stopped_and_cut().await;
    this.witness.kill().await;
    this.restart_witness().await;
    this.world.start_on(&this.world.a, None).await.expect("nothing of it was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_its_witness_does_not_hear_of_needs_an_assertion_and_is_said() {
    let this = Witnessed::new().await;
    // The primary answers, and its VM is off: only the witness is missing.
    this.world.a.fake.clean_stop(this.world.vm);
    this.from_b.cut();
    let refusal = refused(this.world.try_failover(Asserts::Nothing).await, ReturnCode::NotAvailable);
    assert!(refusal.message.contains("witness") && refusal.remedy.contains("--yes"), "{refusal:?}");
    assert_eq!(this.world.b.state(this.world.vm), S::Replicating);
    this.world.took_over(Asserts::Down).await;
    assert!(this.world.runs_on(&this.world.b).await);
    let said = |status: &StatusView| {
        status
            .health_issues
            .iter()
            .any(|issue| issue.message.contains("witness") && issue.message.contains("does not know"))
    };
    let status = this.world.b.status(this.world.vm).await;
    assert!(said(&status), "{status:?}");
    this.from_b.mend();
    until("it is recorded", || futures_util::FutureExt::now_or_never(this.recorded()).flatten()).await;
    let (engine, vm) = (this.world.b.engine(), this.world.vm);
    until("that is kept", || {
        let record = engine.vm_tasks().record(vm)?;
        record.unwitnessed(engine.vm_tasks().me()).is_empty().then_some(())
    })
    .await;
    assert!(!said(&this.world.b.status(this.world.vm).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_is_no_longer_named_is_told_until_the_primary_has_heard_that() {
    let mut this = Witnessed::new().await;
    this.world.link.cut();
    this.world.b.policy.witness = None;
    this.world.b.restart_behind(&this.world.link, End::Stop).await;
    this.failed_over_unseen().await;
    this.a_is_refused(ReturnCode::InvalidState).await;
    assert!(this.recorded().await.is_some(), "the primary still counted on it");
    // Once it has heard, the primary counts on it no more, and nothing is recorded there.
    let mut this = Witnessed::new().await;
    this.world.b.policy.witness = None;
    this.world.b.restart_behind(&this.world.link, End::Stop).await;
    let (engine, vm) = (this.world.b.engine(), this.world.vm);
    until("it has heard", || engine.vm_tasks().record(vm)?.promised.is_empty().then_some(())).await;
    this.world.died_and_failed_over().await;
    assert_eq!(this.recorded().await, None);
    this.world.a.start().await;
    this.a_is_refused(ReturnCode::NotAvailable).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_that_take_one_number_the_witness_keeps_the_first_and_tells_the_other() {
    let mut this = Witnessed::new().await;
    this.world.died_and_failed_over().await;
    let first = this.recorded().await.expect("recorded");
    let mut third = another(&this.world, "third");
    third.start().await;
    let me = third.engine().vm_tasks().me();
    let rival = Claim { holder: me, id: Uuid::new_v4(), ..first };
    let higher = Claim { holder: me, id: Uuid::new_v4(), number: first.number.next() };
    let not_its_own = Claim { number: higher.number.next(), ..first };
    for (claim, known) in
        [(rival, Some(first)), (not_its_own, None), (higher, Some(higher)), (rival, Some(higher))]
    {
        let (vm, at) = (this.world.vm, format!("localhost:{}", this.witness.port()));
        let within = Duration::from_secs(5);
        let answer = third.call(move |engine| async move {
            let address = Address { host: None, addresses: vec![at.clone()] };
            let peer = engine.peers().meet(&address, within).await?;
            let call = Call::Witness { vm: Some(vm), claim: Some(claim) };
            engine.peers().call(peer.id, &address.addresses, call, within).await
        });
        match (answer.await.expect("an answer"), known) {
            (Answer::Witness(said), known) => assert_eq!(said.claim, known, "{claim}"),
            (Answer::Refused(refusal), None) => assert_eq!(refusal.code, ReturnCode::AccessDenied),
            (other, _) => panic!("{other:?}"),
        }
    }
}
