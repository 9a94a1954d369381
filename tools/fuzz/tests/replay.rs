//! Every input that is kept, through its target.

use top_fuzz::{
    campaign::{Campaign, run_caught},
    corpus, samples,
    targets::TARGETS,
};

#[test]
fn every_corpus_is_replayed() {
    for target in TARGETS {
        let inputs = corpus::load(target).unwrap();
        assert!(
            inputs.len() > 1,
            "{0} has no corpus: cargo run -p top-fuzz -- {0} --make-corpus",
            target.name
        );
        for (name, input) in inputs {
            if let Err(finding) = run_caught(target, &input) {
                panic!("corpus/{}/{name}: {}", target.name, finding.what);
            }
        }
    }
    let bytes: usize =
        TARGETS.iter().flat_map(|target| corpus::load(target).unwrap()).map(|(_, i)| i.len()).sum();
    assert!(bytes < 1 << 20, "the corpora have {bytes} bytes: keep the shortest inputs only");
}

#[test]
fn each_folder_is_a_target() {
    for entry in std::fs::read_dir(corpus::folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(top_fuzz::targets::find(&name).is_some(), "corpus/{name} belongs to no target");
    }
}

/// Fuzzing from samples that are refused finds little.
#[test]
fn samples_are_accepted() {
    for target in TARGETS {
        let samples = samples::of(target.name);
        assert!(!samples.is_empty(), "{} has no samples", target.name);
        for (name, bytes) in samples {
            let verdict = run_caught(target, &bytes).unwrap();
            // These two have no verdict «accepted»: an unknown caller is refused, a replica says where it stands.
            let other = matches!(target.name, "channel_garbage" | "replica");
            assert!(verdict.is_ok() || other, "{} {name}: {verdict:?}", target.name);
        }
    }
}

/// A short run of each target on every run of the tests, so that a broken promise does not wait for a long one.
#[test]
fn a_few_mutations_of_each() {
    for target in TARGETS {
        let pool = corpus::load(target).unwrap().into_iter().map(|(_, input)| input).collect();
        let mut campaign = Campaign::new(target, 7, pool).unwrap();
        let mut input = Vec::new();
        for _ in 0..500 {
            campaign.step(&mut input).unwrap_or_else(|finding| {
                panic!("{}: {} for {:02x?}", target.name, finding.what, finding.input)
            });
        }
    }
}
