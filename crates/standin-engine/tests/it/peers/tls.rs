//! The same over the real transport: two engines, TLS, TCP, and a proxy between them.

use crate::world::World;
use standin_engine::peers::{Address, Call};
use standin_model::{ReturnCode, VmId};
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn two_engines_call_each_other_over_tls_and_again_after_a_cut() {
    let world = World::new().await;
    let (a, b) = (world.a.engine(), world.b.engine());
    let addresses = vec![world.link.address()];
    let address = Address { host: None, addresses: addresses.clone() };
    let met = world.a.call({
        let address = address.clone();
        move |engine| async move { engine.peers().meet(&address, WITHIN).await }
    });
    let met = met.await.expect("met");
    assert_eq!((met.id, met.name.as_str()), (b.peers().me(), "replica.example.org"));
    assert_eq!(a.peers().known().len(), 1);
    let ask = || Call::Ask { vm: VmId::random(), claim: None, seen: Vec::new() };
    let (here, there) = (a.peers().me(), b.peers().me());
    // B answers before it has the link.
    let mut of_b = b.peers().watch(here);
    tokio::time::timeout(WITHIN, of_b.wait_for(|state| state.up)).await.expect("in time").expect("a state");
    // Both ways, though only A can reach B. What the engines answer is up to the VMs; that they do is the link's.
    let call = ask();
    let said =
        world.b.call(move |engine| async move { engine.peers().call(here, &[], call, WITHIN).await }).await;
    assert!(said.is_ok(), "{said:?}");
    world.link.cut();
    let mut state = a.peers().watch(there);
    tokio::time::timeout(WITHIN, state.wait_for(|state| !state.up)).await.expect("in time").expect("a state");
    let call = ask();
    let tried = addresses.clone();
    let said = world
        .a
        .call(move |engine| async move { engine.peers().call(there, &tried, call, WITHIN).await })
        .await;
    assert_eq!(said.map_err(|silence| silence.refusal().code), Err(ReturnCode::NotAvailable));
    world.link.mend();
    world.a.call(move |engine| async move { engine.peers().keep(address) }).await;
    tokio::time::timeout(WITHIN, state.wait_for(|state| state.up)).await.expect("in time").expect("a state");
    let call = ask();
    let said =
        world.a.call(move |engine| async move { engine.peers().call(there, &[], call, WITHIN).await }).await;
    assert!(said.is_ok(), "{said:?}");
}
