//! The simulator itself: that it repeats itself, that it sees what it should, and that its cheap signatures stay its own.

use dag::{
    hash::Domain,
    keys::{KeyPair, simulated},
};
use sim::{
    run, run_traced,
    scenario::{Atlas, Scenario},
    search::{Plan, run_seed, search},
    trace::text,
};

fn plan(atlas: Atlas) -> Plan {
    Plan {
        first: 1,
        seeds: Some(6),
        time: None,
        threads: 2,
        atlas,
        light: false,
        twice: true,
        real_signatures: false,
        stop_at_first: false,
    }
}

#[test]
fn seeds_repeat_themselves_and_hold() {
    let tally = search(&plan(Atlas::Within), || true, |_| {});
    assert_eq!(tally.seeds, 6);
    assert!(tally.failures.is_empty(), "{:?}: replay with topio sim --seed", tally.failures);
    assert!(tally.coverage.cells_hit() > 20);
}

#[test]
fn a_calm_day_acknowledges_everything_in_the_first_view() {
    let outcome = run(&Scenario { horizon: 3_000, ..Scenario::draw(3, Atlas::Calm) });
    assert_eq!(outcome.violation, None);
    assert!(
        outcome.facts.contains("acknowledged") && !outcome.facts.starts_with("0 blocks"),
        "{}",
        outcome.facts
    );
}

#[test]
fn real_signatures_run_too() {
    let plan = Plan { real_signatures: true, twice: false, ..plan(Atlas::Within) };
    let mut scenario = plan.scenario(8);
    scenario.horizon = 1_500;
    assert_eq!(run(&scenario).violation, None);
}

#[test]
fn damage_beyond_what_is_promised_stops_validators_and_makes_none_lie() {
    let tally = search(&Plan { twice: false, ..plan(Atlas::Beyond) }, || true, |_| {});
    assert!(tally.failures.is_empty(), "{:?}: replay with topio sim --beyond --seed", tally.failures);
}

#[test]
fn different_seeds_differ_and_a_trace_changes_nothing() {
    let scenario = |seed| Scenario { horizon: 1_000, ..Scenario::draw(seed, Atlas::Calm) };
    let (first, lines) = run_traced(&scenario(1));
    assert_eq!(first.trace, run(&scenario(1)).trace);
    assert_ne!(first.trace, run(&scenario(2)).trace);
    let text = text(&lines, 4);
    assert!(text.contains("Prepare") && text.contains('▶') && text.contains("submit"), "{text}");
}

#[test]
fn a_run_twice_is_one_outcome() {
    let outcome = run_seed(&plan(Atlas::Calm), 5);
    assert_eq!(outcome.violation, None);
}

#[test]
fn cheap_signatures_are_worth_nothing_to_a_node() {
    let key = simulated::key(&[7; 32]);
    let digest = Domain::VOTE.hash(b"a vote");
    let signature = key.sign(&digest);
    assert!(simulated::verify(&key.public(), digest.as_bytes(), &signature));
    assert!(!shard_core::sigbatch::verify(&key.public(), digest.as_bytes(), &signature));
    let real = KeyPair::from_seed(&[7; 32]);
    assert!(!shard_core::sigbatch::verify(&real.public(), digest.as_bytes(), &key.sign(&digest)));
    assert!(shard_core::sigbatch::verify(&real.public(), digest.as_bytes(), &real.sign(&digest)));
}
