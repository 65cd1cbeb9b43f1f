//! What a mapper counts: every word's postings, encoded as they come, split among reducers by a fixed hash.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};

use crate::part::{MAGIC, write_varint, write_word};

/// FNV-1a, 64 bits: fixed, so that every mapper in every language sends a word to the same reducer.
#[derive(Clone, Copy)]
pub(crate) struct Fnv1a(u64);

impl Fnv1a {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    /// The hash of those bytes.
    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut hasher = Self(Self::OFFSET);
        hasher.write(bytes);
        hasher.0
    }
}

impl Hasher for Fnv1a {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(Self::PRIME));
    }

    fn write_usize(&mut self, _: usize) {} // The length that `[u8]` adds: words of one table need it not.

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Default)]
pub(crate) struct BuildFnv1a;

impl BuildHasher for BuildFnv1a {
    type Hasher = Fnv1a;

    fn build_hasher(&self) -> Fnv1a {
        Fnv1a(Fnv1a::OFFSET)
    }
}

/// The reducer, below `reducers`, that a word belongs to.
pub(crate) fn reducer_of(word: &[u8], reducers: u32) -> u32 {
    (Fnv1a::of(word) % u64::from(reducers.max(1))) as u32
}

/// Words counted so far, document by document in ascending order.
#[derive(Default)]
pub(crate) struct Tally {
    words: HashMap<Box<[u8]>, Postings, BuildFnv1a>,
    document: u64,
    tokens: u64,
}

#[derive(Default)]
struct Postings {
    encoded: Vec<u8>,
    /// Postings, the open one included.
    number: u64,
    /// The document of the open posting, its distance from the one before, and its count so far.
    document: u64,
    distance: u64,
    count: u64,
}

impl Postings {
    fn open(document: u64, last: u64, encoded: Vec<u8>, number: u64) -> Self {
        Self { encoded, number: number + 1, document, distance: document - last, count: 1 }
    }

    fn close(&mut self) {
        // Writing to a vector does not fail.
        write_varint(&mut self.encoded, self.distance).and_then(|()| write_varint(&mut self.encoded, self.count)).ok();
    }
}

impl Tally {
    /// What is counted from now on stands in this document, whose number is above all before.
    pub(crate) fn begin_document(&mut self, document: u64) {
        debug_assert!(self.tokens == 0 || document > self.document, "documents come in ascending order");
        self.document = document;
    }

    /// Counts one word.
    pub(crate) fn count(&mut self, word: &[u8]) {
        self.tokens += 1;
        let document = self.document;
        match self.words.get_mut(word) {
            Some(postings) if postings.document == document => postings.count += 1,
            Some(postings) => {
                postings.close();
                let (last, number) = (postings.document, postings.number);
                *postings = Postings::open(document, last, std::mem::take(&mut postings.encoded), number);
            }
            None => {
                self.words.insert(word.into(), Postings::open(document, 0, Vec::new(), 0));
            }
        }
    }

    /// Words counted, each as often as it came.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Writes one part per reducer.
    pub(crate) fn write<W: Write>(self, parts: &mut [W]) -> io::Result<()> {
        let reducers = parts.len() as u32;
        for part in parts.iter_mut() {
            part.write_all(MAGIC)?;
        }
        let mut words: Vec<_> = self.words.into_iter().collect();
        words.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        for (word, mut postings) in words {
            postings.close();
            let part = &mut parts[reducer_of(&word, reducers) as usize];
            write_word(part, &word, postings.number, &postings.encoded)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::part::Reader;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(Fnv1a::of(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(Fnv1a::of(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(Fnv1a::of(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn every_word_goes_to_one_reducer_with_all_its_postings() {
        let mut tally = Tally::default();
        for (document, text) in [(0u64, "b a b"), (4, "a c"), (300, "b")] {
            tally.begin_document(document);
            text.split(' ').for_each(|word| tally.count(word.as_bytes()));
        }
        assert_eq!(tally.tokens(), 6);
        let mut parts = vec![Vec::new(); 3];
        tally.write(&mut parts).expect("memory can be written");
        let mut seen = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let mut reader = Reader::new(part).expect("a part");
            while let Some(entry) = reader.next().expect("well formed") {
                assert_eq!(reducer_of(entry.word, 3), index as u32);
                let postings: Vec<_> = entry.decode().map(|posting| (posting.document, posting.count)).collect();
                seen.push((String::from_utf8_lossy(entry.word).into_owned(), postings));
            }
        }
        seen.sort();
        let expected = [("a", vec![(0, 1), (4, 1)]), ("b", vec![(0, 2), (300, 1)]), ("c", vec![(4, 1)])];
        assert_eq!(seen, expected.map(|(word, postings)| (word.to_owned(), postings)));
    }
}
