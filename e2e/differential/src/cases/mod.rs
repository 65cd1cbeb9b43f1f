//! The cases. Each has a name that stays, since recordings and the list of differences go by it.

mod http1;
mod http2;
mod observability;
mod probes;
mod start;
mod times;

use anyhow::Result;

use crate::Shard;
use crate::compare::Answers;
use crate::proxy::{Proxy, Side, Variables};
use crate::transcript::Transcript;

/// What a case works with.
pub(crate) struct Bench<'a> {
    pub(crate) side: &'a Side,
    pub(crate) transcript: Transcript,
}

impl Bench<'_> {
    /// The proxy of a function at `port`, with these variables on top of quiet ones.
    pub(crate) fn proxy(&self, port: u16, variables: Variables<'_>) -> Result<Proxy> {
        Proxy::start(self.side, port, variables)
    }
}

type Script = Box<dyn Fn(&Bench<'_>) -> Result<()>>;

/// A name and what is done.
pub(crate) struct Case {
    name: String,
    script: Script,
}

/// A case.
pub(crate) fn case(name: impl Into<String>, script: impl Fn(&Bench<'_>) -> Result<()> + 'static) -> Case {
    Case { name: name.into(), script: Box::new(script) }
}

/// Runs this shard's of the cases whose name contains `filter`, one after the other.
pub(crate) fn answers(side: &Side, filter: Option<&str>, shard: Shard) -> Result<Answers> {
    let all = [http1::cases(), http2::cases(), probes::cases(), times::cases(), observability::cases(), start::cases()];
    let chosen = all.into_iter().flatten().filter(|case| filter.is_none_or(|filter| case.name.contains(filter)));
    let mut answers = Answers::new();
    for case in chosen.skip(shard.number).step_by(shard.of) {
        let bench = Bench { side, transcript: Transcript::default() };
        if let Err(error) = (case.script)(&bench) {
            bench.transcript.note(format!("the case was given up: {error:#}"));
        }
        answers.insert(case.name, bench.transcript.take());
    }
    Ok(answers)
}
