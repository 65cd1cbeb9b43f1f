//! What a person reads of a result: its head, and its two tables as text.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::part::Reader;

/// The head of a result.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Different words.
    pub(crate) words: u64,
    /// Words, each as often as it stands.
    pub(crate) tokens: u64,
    /// Pairs of a word and a document it stands in.
    pub(crate) postings: u64,
    /// The most frequent words.
    pub(crate) top: Vec<TopWord>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TopWord {
    pub(crate) word: String,
    pub(crate) count: u64,
    pub(crate) documents: u64,
}

/// Counts a result's words and picks the `top` most frequent; of equally frequent ones the first in order.
pub(crate) fn summarise(result: &[u8], top: usize) -> Result<Summary> {
    let mut summary = Summary { words: 0, tokens: 0, postings: 0, top: Vec::new() };
    let mut heap = BinaryHeap::with_capacity(top + 1);
    let mut reader = Reader::new(result)?;
    while let Some(entry) = reader.next()? {
        let count = entry.count();
        summary.words += 1;
        summary.tokens += count;
        summary.postings += entry.postings;
        heap.push(Reverse((count, Reverse(entry.word), entry.postings)));
        if heap.len() > top {
            heap.pop();
        }
    }
    let ranked = heap.into_sorted_vec();
    summary.top = ranked
        .into_iter()
        .map(|Reverse((count, Reverse(word), documents))| TopWord {
            word: String::from_utf8_lossy(word).into_owned(),
            count,
            documents,
        })
        .collect();
    Ok(summary)
}

/// Writes `words.txt` (`COUNT WORD`) and `index.txt` (`WORD DOCUMENT:COUNT …`), both in the order of the words' bytes,
/// and a copy of the list of documents.
pub(crate) fn export(result: &[u8], list: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    let create = |name: &str| {
        let path = folder.join(name);
        File::create(&path).map(BufWriter::new).with_context(|| format!("the file {}", path.display()))
    };
    let (mut words, mut index) = (create("words.txt")?, create("index.txt")?);
    let mut reader = Reader::new(result)?;
    while let Some(entry) = reader.next()? {
        write!(words, "{} ", entry.count())?;
        words.write_all(entry.word)?;
        words.write_all(b"\n")?;
        index.write_all(entry.word)?;
        for posting in entry.decode() {
            write!(index, " {}:{}", posting.document, posting.count)?;
        }
        index.write_all(b"\n")?;
    }
    words.flush().and_then(|()| index.flush()).context("writing the result's tables")?;
    std::fs::copy(list, folder.join("documents.txt")).with_context(|| format!("the list of documents {}", list.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Tally;

    fn result() -> Vec<u8> {
        let mut tally = Tally::default();
        for (document, text) in [(0u64, "b a b c"), (1, "b d c")] {
            tally.begin_document(document);
            text.split(' ').for_each(|word| tally.count(word.as_bytes()));
        }
        let mut part = [Vec::new()];
        tally.write(&mut part).expect("memory can be written");
        part.into_iter().next().expect("one part")
    }

    #[test]
    fn the_most_frequent_words_come_first_and_equals_in_order() {
        let summary = summarise(&result(), 3).expect("well formed");
        assert_eq!((summary.words, summary.tokens, summary.postings), (4, 7, 6));
        let top: Vec<_> = summary.top.iter().map(|top| (top.word.as_str(), top.count, top.documents)).collect();
        assert_eq!(top, [("b", 3, 2), ("c", 2, 2), ("a", 1, 1)]);
    }

    #[test]
    fn the_tables_are_text_in_the_order_of_the_words() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let list = scratch.path().join("list");
        std::fs::write(&list, "0\t1\t/x\n").expect("written");
        export(&result(), &list, &scratch.path().join("out")).expect("written");
        let read = |name: &str| std::fs::read_to_string(scratch.path().join("out").join(name)).expect("read");
        assert_eq!(read("words.txt"), "1 a\n3 b\n2 c\n1 d\n");
        assert_eq!(read("index.txt"), "a 0:1\nb 0:2 1:1\nc 0:1 1:1\nd 1:1\n");
        assert_eq!(read("documents.txt"), "0\t1\t/x\n");
    }
}
