//! Runs a target on mutations of its corpus.
//!
//! There is no instrumentation: an input joins the pool when the target's words about it are new (digits and quotations aside). So the
//! pool comes to hold an input for each reason to refuse, and mutations begin next to every check. The same
//! seed and pool give the same inputs on any machine.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::{
    mutate::Mutator,
    targets::{Target, Verdict},
};

/// Longest input, in bytes, unless the corpus has a longer one.
pub const MAX_LEN: usize = 16 * 1024;
/// An input that takes longer is a finding.
const TOO_SLOW: Duration = Duration::from_secs(2);
/// Most words that make an input join the pool.
const MAX_WORDS: usize = 1000;

/// How often a target said the same, and its shortest input.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Number of inputs.
    pub count: u64,
    /// The shortest of them.
    pub shortest: Vec<u8>,
}

/// An input that breaks a promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What was broken.
    pub what: String,
}

/// A run of one target.
#[derive(Debug)]
pub struct Campaign {
    target: &'static Target,
    mutator: Mutator,
    pool: Vec<Vec<u8>>,
    said: BTreeMap<String, Said>,
    executions: u64,
}

impl Campaign {
    /// Begins with a pool, and runs each input of it.
    ///
    /// # Errors
    /// One of them breaks a promise already.
    pub fn new(target: &'static Target, seed: u64, pool: Vec<Vec<u8>>) -> Result<Campaign, Finding> {
        let longest = pool.iter().map(Vec::len).max().unwrap_or(0);
        let mutator = Mutator::new(seed, MAX_LEN.max(2 * longest));
        let mut campaign =
            Campaign { target, mutator, pool: Vec::new(), said: BTreeMap::new(), executions: 0 };
        for input in &pool {
            campaign.run(input)?;
        }
        campaign.pool = if pool.is_empty() { vec![Vec::new()] } else { pool };
        Ok(campaign)
    }

    /// Runs one mutation.
    ///
    /// # Errors
    /// It breaks a promise.
    pub fn step(&mut self, input: &mut Vec<u8>) -> Result<(), Finding> {
        self.mutator.mutate(&self.pool, input);
        if self.run(input)? {
            self.pool.push(input.clone());
        }
        Ok(())
    }

    /// Runs one input; true where what the target says is new.
    fn run(&mut self, input: &[u8]) -> Result<bool, Finding> {
        self.executions += 1;
        let begun = Instant::now();
        let verdict = run_caught(self.target, input)?;
        let took = begun.elapsed();
        if took > TOO_SLOW {
            return Err(Finding { input: input.to_vec(), what: format!("it takes {took:?}") });
        }
        let words = key(verdict);
        let room = self.said.len() < MAX_WORDS;
        let new = !self.said.contains_key(&words);
        if new && !room {
            return Ok(false);
        }
        let said = self.said.entry(words).or_default();
        if new || input.len() < said.shortest.len() {
            said.shortest = input.to_vec();
        }
        said.count += 1;
        Ok(new)
    }

    /// Inputs run so far.
    pub fn executions(&self) -> u64 {
        self.executions
    }

    /// What the target has said: `accepted`, or the words of a refusal, without digits and quotations.
    pub fn said(&self) -> &BTreeMap<String, Said> {
        &self.said
    }
}

/// Runs one input.
///
/// # Errors
/// It breaks a promise.
pub fn run_caught(target: &Target, input: &[u8]) -> Result<Verdict, Finding> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Finding { input: input.to_vec(), what: what.to_owned() }
    })
}

/// A verdict without its digits and what it quotes: those would make every input new.
fn key(verdict: Verdict) -> String {
    match verdict {
        Ok(()) => "accepted".into(),
        Err(words) => {
            let unquoted = words.split(['`', '"', '\n']).next().unwrap_or_default();
            unquoted.replace(|c: char| c.is_ascii_digit(), "")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picky(bytes: &[u8]) -> Verdict {
        assert_ne!(bytes.get(..3), Some(&b"bad"[..]), "three bytes in a row");
        match bytes {
            [b'b', b'a', ..] => Err("ba".into()),
            [b'b', ..] => Err("b".into()),
            _ => Ok(()),
        }
    }

    const PICKY: Target = Target { name: "picky", run: picky };

    #[test]
    fn words_lead_to_what_is_hidden_behind_them() {
        let find = |seed| {
            let mut campaign = Campaign::new(&PICKY, seed, vec![b"some text".to_vec()]).unwrap();
            let mut input = Vec::new();
            let finding = (0..5_000_000).find_map(|_| campaign.step(&mut input).err());
            (finding.expect("found"), campaign.executions())
        };
        let (finding, executions) = find(3);
        assert!(finding.input.starts_with(b"bad") && finding.what.contains("three bytes"), "{finding:?}");
        assert_eq!((finding, executions), find(3), "a seed is a run");
    }
}
