//! The whole way from an append to a client's frame, with everything going wrong that can, in one
//! thread, driven by one seed: the real log, hub, feed delivery and streams; a simulated disk, network
//! and clock, inboxes in memory; and a model that knows what each client has a right to.
//!
//! `TIDINGS_SIM_SEED` repeats a run or tries another; `TIDINGS_SIM_STEPS` makes each longer.

mod client;
mod clock;
mod cluster;
mod inbox;
mod model;
mod serve;
mod shards;
mod sights;
mod wire;
mod world;

use world::{Setting, World};

/// Steps of each setting: more than a million together.
const STEPS: u64 = 180_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

fn simulate(partitions: usize, nodes: usize) {
    let seed = from_environment("TIDINGS_SIM_SEED").unwrap_or(1);
    let steps = from_environment("TIDINGS_SIM_STEPS").unwrap_or(STEPS);
    let mut world = World::new(Setting { partitions, nodes, seed });
    world.run(steps);
    let (sights, shards) = (&world.sights, world.shard_sights.lock());
    eprintln!("{partitions} partitions, {nodes} nodes, seed {seed}: {steps} steps, {sights:?}, {shards:?}");
    drop(shards);
    if steps >= STEPS {
        world.assert_saw_enough();
    }
}

#[test]
fn one_partition_one_node() {
    simulate(1, 1);
}

#[test]
fn one_partition_two_nodes() {
    simulate(1, 2);
}

#[test]
fn three_partitions_one_node() {
    simulate(3, 1);
}

#[test]
fn three_partitions_two_nodes() {
    simulate(3, 2);
}

#[test]
fn sixteen_partitions_one_node() {
    simulate(16, 1);
}

#[test]
fn sixteen_partitions_two_nodes() {
    simulate(16, 2);
}
