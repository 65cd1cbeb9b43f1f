//! What one request took and moved, read from the journals of its functions.

use std::collections::BTreeMap;

use serde::Serialize;
use zipline_workflow::Invocation;

/// One request. Seconds are wall time, bytes are payload bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Samples of the same round were taken one after another.
    pub(crate) round: u32,
    /// From the request to its answer, as its caller has it.
    pub(crate) seconds: f64,
    /// Each run of a function, and how long its handler took: what is billed.
    pub(crate) functions: Vec<(String, f64)>,
    /// Payloads that were held or stored, and reads of such.
    pub(crate) puts: u32,
    pub(crate) gets: u32,
    pub(crate) put_bytes: u64,
    pub(crate) got_bytes: u64,
    /// Bytes that went in requests and answers instead, each time they did.
    pub(crate) along_bytes: u64,
    /// Sum over all puts, and over all gets, of the time they took.
    pub(crate) put_seconds: f64,
    pub(crate) get_seconds: f64,
    /// What producers held beyond their answers.
    pub(crate) holds: Vec<Hold>,
    /// Sum over all payloads put of bytes times the seconds from the put to the last get.
    pub(crate) stored_byte_seconds: f64,
    /// The longest body of a request or answer between functions.
    pub(crate) body_bytes_max: u64,
}

/// Payloads that one run of a function held after its answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Hold {
    pub(crate) function: String,
    /// From the answer to the last retrieval.
    pub(crate) seconds: f64,
    /// Sum over its payloads of bytes times the seconds each was held after the answer.
    pub(crate) byte_seconds: f64,
}

impl Sample {
    /// Reads the journals of a request.
    pub(crate) fn of(round: u32, seconds: f64, journal: &[Invocation]) -> Self {
        let moved = |along: bool| {
            let all = journal
                .iter()
                .flat_map(|run| run.puts.iter().map(|put| (true, put)).chain(run.gets.iter().map(|get| (false, get))));
            all.filter(move |(_, moved)| moved.along == along)
        };
        let count = |of_puts: bool| moved(false).filter(|(is_put, _)| *is_put == of_puts).count() as u32;
        let bytes = |of_puts: bool| moved(false).filter(|(is_put, _)| *is_put == of_puts).map(|(_, moved)| moved.bytes).sum();
        let time = |of_puts: bool| -> f64 {
            moved(false).filter(|(is_put, _)| *is_put == of_puts).map(|(_, moved)| moved.ended - moved.began).sum()
        };
        let last_gets = last_gets(journal);
        let stored = moved(false).filter(|(is_put, _)| *is_put).filter_map(|(_, put)| {
            let read = last_gets.get(&put.object)?;
            Some(put.bytes as f64 * (read - put.began).max(0.0))
        });
        Self {
            round,
            seconds,
            functions: journal.iter().map(|run| (run.function.clone(), run.ended - run.began)).collect(),
            puts: count(true),
            gets: count(false),
            put_bytes: bytes(true),
            got_bytes: bytes(false),
            along_bytes: moved(true).filter(|(is_put, _)| !is_put).map(|(_, moved)| moved.bytes).sum(),
            put_seconds: time(true),
            get_seconds: time(false),
            holds: journal.iter().filter_map(|run| hold(run, &last_gets)).collect(),
            stored_byte_seconds: stored.sum(),
            body_bytes_max: journal
                .iter()
                .flat_map(|run| &run.asked)
                .map(|asked| asked.request_bytes.max(asked.answer_bytes))
                .max()
                .unwrap_or(0),
        }
    }

    /// Seconds of all functions together.
    pub(crate) fn function_seconds(&self) -> f64 {
        self.functions.iter().map(|(_, seconds)| seconds).sum()
    }
}

/// When each payload was last got.
fn last_gets(journal: &[Invocation]) -> BTreeMap<u64, f64> {
    let mut last = BTreeMap::<u64, f64>::new();
    for get in journal.iter().flat_map(|run| &run.gets) {
        let ended = last.entry(get.object).or_insert(get.ended);
        *ended = ended.max(get.ended);
    }
    last
}

/// What a run of a function held after its answer; `None` when all was read by then.
fn hold(run: &Invocation, last_gets: &BTreeMap<u64, f64>) -> Option<Hold> {
    let mut hold = Hold { function: run.function.clone(), seconds: 0.0, byte_seconds: 0.0 };
    for put in run.puts.iter().filter(|put| !put.along) {
        let seconds = last_gets.get(&put.object).map_or(0.0, |read| (read - run.ended).max(0.0));
        hold.seconds = hold.seconds.max(seconds);
        hold.byte_seconds += put.bytes as f64 * seconds;
    }
    (hold.seconds > 0.0).then_some(hold)
}

#[cfg(test)]
mod tests {
    use zipline_workflow::Moved;

    use super::*;

    fn moved(object: u64, bytes: u64, along: bool, began: f64, ended: f64) -> Moved {
        Moved { object, bytes, along, began, ended }
    }

    fn run(function: &str, began: f64, ended: f64, puts: Vec<Moved>, gets: Vec<Moved>) -> Invocation {
        Invocation { function: function.into(), began, ended, puts, gets, asked: Vec::new() }
    }

    #[test]
    fn what_is_read_after_the_answer_was_held_and_what_is_read_before_was_not() {
        let producer = run("mapper", 0.0, 2.0, vec![moved(1, 100, false, 1.0, 1.5), moved(2, 10, false, 1.5, 2.0)], vec![]);
        let consumer = run("reducer", 2.5, 5.0, vec![], vec![moved(1, 100, false, 3.0, 4.0), moved(2, 10, false, 1.0, 1.8)]);
        let sample = Sample::of(0, 5.5, &[producer, consumer]);
        assert_eq!((sample.puts, sample.gets, sample.put_bytes, sample.got_bytes), (2, 2, 110, 110));
        assert_eq!(sample.holds, [Hold { function: "mapper".into(), seconds: 2.0, byte_seconds: 200.0 }]);
        assert_eq!(sample.functions, [("mapper".into(), 2.0), ("reducer".into(), 2.5)]);
        assert_eq!(sample.stored_byte_seconds, 300.0 + 10.0 * (1.8 - 1.5));
    }

    #[test]
    fn what_goes_along_is_neither_put_nor_got_and_counts_at_each_reader() {
        let producer = run("driver", 0.0, 1.0, vec![moved(1, 100, true, 0.1, 0.1)], vec![]);
        let reader = |at| run("trainer", at, at + 0.1, vec![], vec![moved(1, 100, true, at, at)]);
        let sample = Sample::of(3, 1.0, &[producer, reader(0.2), reader(0.4)]);
        assert_eq!((sample.puts, sample.gets, sample.along_bytes), (0, 0, 200));
        assert!(sample.holds.is_empty());
    }
}
