//! Random schedules of joins, crashes and leaves: the inductive invariant holds after every step,
//! and when churn ends the ring becomes ideal.

use crate::{
    seed,
    world::{Assumption, World},
};

/// Schedules for each r.
const SCHEDULES: u64 = 800;
/// Steps of each.
const STEPS: usize = 250;
const ASSUMED: Assumption = Assumption { principals: true };

/// Runs one schedule that begins with `first` members; what went wrong, if anything did.
fn run(world: &mut World, mut holds: bool) -> Result<usize, String> {
    for step in 0..STEPS {
        world.step(true);
        // A ring that is still being founded holds it from its first r + 1 principals on.
        holds = holds || world.principals() > world.replicas;
        if holds && let Some(why) = world.broken() {
            return Err(format!("after step {step}: {why}"));
        }
    }
    let rounds = world.settle().ok_or("the ring does not become ideal")?;
    match world.broken() {
        Some(why) if holds => Err(format!("in the end: {why}")),
        _ => Ok(rounds),
    }
}

#[test]
fn the_invariant_holds_after_every_step_and_the_ring_becomes_ideal() {
    let first = seed();
    for replicas in [2, 3, 4] {
        let (mut joins, mut losses, mut most_rounds, mut largest) = (0, 0, 0, 0);
        for seed in first..first + SCHEDULES {
            let mut world = World::new(seed, replicas, replicas + 1, ASSUMED);
            match run(&mut world, true) {
                Ok(rounds) => most_rounds = most_rounds.max(rounds),
                Err(why) => panic!("r = {replicas}, seed {seed}: {why}"),
            }
            joins += world.joins;
            losses += world.losses;
            largest = largest.max(world.size());
        }
        println!(
            "r = {replicas}, seeds {first}..{}: {SCHEDULES} schedules of {STEPS} steps, {joins} \
             joins, {losses} losses; ideal after at most {most_rounds} rounds, {largest} members",
            first + SCHEDULES
        );
        assert!(losses as u64 > SCHEDULES, "too quiet to mean anything");
    }
}

#[test]
fn a_ring_can_be_founded_by_one_member() {
    let first = seed();
    for replicas in [2, 4] {
        for seed in first..first + SCHEDULES / 4 {
            let mut world = World::new(seed, replicas, 1, ASSUMED);
            run(&mut world, false)
                .unwrap_or_else(|why| panic!("r = {replicas}, seed {seed}: {why}"));
        }
    }
}
