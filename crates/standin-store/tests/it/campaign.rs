//! Random lives of a replica against the model. A failing case is shrunk and printed by proptest.

use crate::rig::{Change, Rig, assert_good, change, directory, disk, options, spec};
use proptest::prelude::*;
use standin_model::{Epoch, Policy, Tier};
use standin_store::{Kind, MergeBudget, OverlayRequest, Purpose, Replica, Store};

#[derive(Debug, Clone)]
enum Act {
    Layer { changes: Vec<Change>, skip: u64, point: bool },
    GiveUp(Vec<Change>),
    Remove(usize),
    Retain(u64),
    Merge { steps: u8, bytes: u64 },
    Overlay { slot: u8, point: usize },
    EndOverlay(u8),
    Reopen,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let one = (0_usize..2, 0_u64..170, 1_u64..40, 0_u8..6).prop_map(|(d, f, c, fill)| change(d, f, c, fill));
    proptest::collection::vec(one, 0..6)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (changes(), 0_u64..3, prop::bool::weighted(0.8)).prop_map(|(changes, skip, point)| Act::Layer { changes, skip, point }),
        1 => changes().prop_map(Act::GiveUp),
        2 => (0_usize..8).prop_map(Act::Remove),
        1 => (1_u64..10).prop_map(Act::Retain),
        3 => (1_u8..8, 1_u64..300_000).prop_map(|(steps, bytes)| Act::Merge { steps, bytes }),
        1 => (0_u8..2, 0_usize..8).prop_map(|(slot, point)| Act::Overlay { slot, point }),
        2 => (0_u8..2).prop_map(Act::EndOverlay),
        1 => Just(Act::Reopen),
    ]
}

struct Life {
    home: tempfile::TempDir,
    store: Option<Store>,
    replica: Option<Replica>,
    rig: Rig,
}

impl Life {
    fn new(granule: u32, tail: u64) -> Self {
        let sizes = [(640 << 10) + tail * 512, 192 << 10];
        let home = directory();
        let store = Store::open(options(home.path())).expect("opens");
        let replica = store.create(home.path(), spec(&sizes, granule)).expect("creates");
        Self { home, store: Some(store), replica: Some(replica), rig: Rig::new(&sizes, granule) }
    }

    fn replica(&self) -> Replica {
        self.replica.clone().expect("open")
    }

    fn act(&mut self, act: Act) {
        let replica = self.replica();
        let head = replica.head_epoch();
        match act {
            Act::Layer { changes, skip, point } => {
                let epoch = head.map_or(0, |head| head.0 + 1 + skip);
                self.rig.layer(&replica, epoch, &changes, point && head.is_some()).expect("a layer");
            }
            Act::GiveUp(changes) => {
                if let Some(head) = head {
                    let before = self.rig.now.clone();
                    let layer = replica.begin(Epoch(head.0 + 1), Kind::Delta).expect("begins");
                    self.rig.write(&layer, &changes).expect("writes");
                    self.rig.now = before;
                }
            }
            Act::Remove(number) => {
                let points = replica.points();
                if let Some(point) = points.get(number % points.len().max(1)) {
                    let _busy = replica.remove_point(point.id);
                }
            }
            Act::Retain(minutes) => {
                let tiers = vec![Tier { keep_for_s: minutes * 60, every_s: 120 }];
                replica.apply_retention(&Policy { tiers }, jiff::Timestamp::now()).expect("retention");
            }
            Act::Merge { steps, bytes } => {
                for _ in 0..steps {
                    replica.merge_step(&MergeBudget { max_bytes: bytes }).expect("merges");
                }
            }
            Act::Overlay { slot, point } => {
                let points = replica.points();
                if let Some(point) = points.get(point % points.len().max(1)) {
                    let request =
                        OverlayRequest { id: format!("o{slot}"), point: point.id, purpose: Purpose::Test };
                    let _exists = replica.overlay(request);
                }
            }
            Act::EndOverlay(slot) => {
                let _unknown = replica.discard_overlay(&format!("o{slot}"));
            }
            Act::Reopen => {
                let vm = replica.vm();
                drop(replica);
                (self.replica, self.store) = (None, None);
                let store = Store::open(options(self.home.path())).expect("opens");
                assert!(store.problems().is_empty(), "{:?}", store.problems());
                self.replica = store.get(vm);
                self.store = Some(store);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_kept_point_always_equals_the_model(
        acts in proptest::collection::vec(act(), 1..40),
        granule in prop::sample::select(vec![4096_u32, 16384, 65536]),
        tail in 0_u64..8,
        judged in prop::bool::weighted(0.2),
    ) {
        let mut life = Life::new(granule, tail);
        for act in acts {
            life.act(act);
            life.rig.verify(&life.replica());
        }
        life.rig.verify_tree(&life.replica());
        assert_good(life.store.as_ref().expect("open"));
        for overlay in life.replica().overlays() {
            prop_assert!(overlay.disks[&disk(0)].path.is_file());
            life.replica().discard_overlay(&overlay.id).expect("reverts");
        }
        crate::rig::merge_all(&life.replica(), 1 << 20).expect("merges");
        life.rig.verify(&life.replica());
        assert_good(life.store.as_ref().expect("open"));
        if judged {
            crate::qemu::judge(&life.rig, &life.replica(), life.home.path());
        }
    }
}
