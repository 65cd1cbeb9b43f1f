//! The same answer by a plain single-process computation, to check the workflow against.
//!
//! It shares the definition of a word and the notation of a part with the mappers, and nothing of how they count:
//! whole files, a map of lists, one sort.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::documents;
use crate::part::{MAGIC, Posting, encode, write_word};
use crate::tally::BuildFnv1a;
use crate::tokens::is_word;

/// Counts every document of the list and writes the one part that a right result equals.
pub(crate) fn compute(list: &Path, out: &mut impl Write) -> Result<()> {
    let mut index: HashMap<Vec<u8>, Vec<Posting>, BuildFnv1a> = HashMap::default();
    for document in documents::read(list)? {
        let mut text = std::fs::read(&document.path).with_context(|| format!("the document {}", document.path.display()))?;
        text.make_ascii_lowercase();
        for word in text.split(|byte| !is_word(*byte)).filter(|word| !word.is_empty()) {
            let posting = Posting { document: document.number, count: 1 };
            match index.get_mut(word) {
                None => drop(index.insert(word.to_vec(), vec![posting])),
                Some(postings) => match postings.last_mut() {
                    Some(last) if last.document == document.number => last.count += 1,
                    _ => postings.push(posting),
                },
            }
        }
    }
    let mut words: Vec<_> = index.into_iter().collect();
    words.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    out.write_all(MAGIC)?;
    let mut encoded = Vec::new();
    for (word, mut postings) in words {
        let number = encode(&mut postings, &mut encoded)?;
        write_word(out, &word, number, &encoded)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::part::merge;
    use crate::tally::Tally;
    use crate::tokens::each_token;

    #[test]
    fn mapping_and_reducing_by_hand_gives_the_same_bytes() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let texts = ["It was the best of times,\nit was the worst", "", "of_times the THE the\u{fc}bel", "x1 y2 x1"];
        let files: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(number, text)| {
                let path = scratch.path().join(format!("{number}.txt"));
                std::fs::write(&path, text).expect("written");
                (path, text.len() as u64)
            })
            .collect();
        let list = scratch.path().join("documents");
        documents::deal(&files, 3, &list).expect("written");
        let mut expected = Vec::new();
        compute(&list, &mut expected).expect("computed");

        let documents = documents::read(&list).expect("read");
        let mut shuffled = vec![Vec::new(); 2];
        for mapper in 0..3 {
            let mut tally = Tally::default();
            for document in documents.iter().filter(|document| document.part == mapper) {
                tally.begin_document(document.number);
                let text = std::fs::read(&document.path).expect("read");
                each_token(&text[..], |word| tally.count(word)).expect("memory can be read");
            }
            let mut parts = vec![Vec::new(); 2];
            tally.write(&mut parts).expect("memory can be written");
            parts.into_iter().zip(&mut shuffled).for_each(|(part, reducer)| reducer.push(part));
        }
        let reduced: Vec<Vec<u8>> = shuffled.iter().map(|parts| merged(parts)).collect();
        assert_eq!(merged(&reduced), expected);
        assert!(expected.len() > 60);
    }

    fn merged(parts: &[Vec<u8>]) -> Vec<u8> {
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        let mut out = Vec::new();
        merge(&parts, &mut out).expect("well formed");
        out
    }
}
