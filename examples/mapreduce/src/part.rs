//! Parts: sorted words with their postings, in a compact form that every language writes byte for byte alike.
//!
//! A part is `zmr1`, then for each word, in ascending order of its bytes:
//! length of the word, the word, number of postings, and for each posting, in ascending order of documents:
//! the document's distance from the one before (the first: its number), and how often the word stands in it.
//! Numbers are LEB128 varints of at most 64 bits, without superfluous bytes. A part ends where its bytes end.

use std::collections::BinaryHeap;
use std::io::{self, Write};

/// What every part begins with.
pub(crate) const MAGIC: &[u8; 4] = b"zmr1";

/// How often a word stands in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Posting {
    pub(crate) document: u64,
    pub(crate) count: u64,
}

/// Why bytes are no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PartError {
    #[error("the part does not begin with `zmr1`")]
    Magic,
    #[error("the bundle of documents does not begin with `zmd1`")]
    BundleMagic,
    #[error("the part is cut off")]
    Truncated,
    #[error("a number in the part has more than 64 bits")]
    Number,
    #[error("the part's words are not in ascending order")]
    Order,
    #[error("a posting has no count, or repeats its document")]
    Posting,
}

/// Writes a number.
pub(crate) fn write_varint(out: &mut impl Write, mut number: u64) -> io::Result<()> {
    let mut bytes = [0; 10];
    let mut length = 0;
    while number >= 0x80 {
        bytes[length] = number as u8 | 0x80;
        number >>= 7;
        length += 1;
    }
    bytes[length] = number as u8;
    out.write_all(&bytes[..=length])
}

/// Reads a number and moves past it.
pub(crate) fn read_varint(bytes: &mut &[u8]) -> Result<u64, PartError> {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(PartError::Truncated)?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if shift > 63 || (shift == 63 && low > 1) {
            return Err(PartError::Number);
        }
        number |= low << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(number)
}

/// Writes one word whose postings are encoded already.
pub(crate) fn write_word(out: &mut impl Write, word: &[u8], postings: u64, encoded: &[u8]) -> io::Result<()> {
    write_varint(out, word.len() as u64)?;
    out.write_all(word)?;
    write_varint(out, postings)?;
    out.write_all(encoded)
}

/// One word of a part, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) word: &'a [u8],
    pub(crate) postings: u64,
    encoded: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Its postings, in order. They were checked when the entry was read.
    pub(crate) fn decode(&self) -> impl Iterator<Item = Posting> + use<'a> {
        let mut rest = self.encoded;
        let mut document = 0;
        std::iter::from_fn(move || {
            let distance = read_varint(&mut rest).ok()?;
            document += distance;
            Some(Posting { document, count: read_varint(&mut rest).ok()? })
        })
    }

    /// How often the word stands in all documents.
    pub(crate) fn count(&self) -> u64 {
        self.decode().map(|posting| posting.count).sum()
    }
}

/// Reads a part word by word, checking it on the way.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    last: Option<&'a [u8]>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(part: &'a [u8]) -> Result<Self, PartError> {
        Ok(Self { rest: part.strip_prefix(MAGIC).ok_or(PartError::Magic)?, last: None })
    }

    /// The next word, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'a>>, PartError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let length = usize::try_from(read_varint(&mut self.rest)?).map_err(|_| PartError::Truncated)?;
        let (word, rest) = self.rest.split_at_checked(length).ok_or(PartError::Truncated)?;
        self.rest = rest;
        if self.last.is_some_and(|last| last >= word) {
            return Err(PartError::Order);
        }
        self.last = Some(word);
        let postings = read_varint(&mut self.rest)?;
        let begin = self.rest;
        let mut document = 0u64;
        for index in 0..postings {
            let distance = read_varint(&mut self.rest)?;
            document = document.checked_add(distance).ok_or(PartError::Number)?;
            if read_varint(&mut self.rest)? == 0 || (index > 0 && distance == 0) {
                return Err(PartError::Posting);
            }
        }
        Ok(Some(Entry { word, postings, encoded: &begin[..begin.len() - self.rest.len()] }))
    }
}

/// The next word of one of the parts that are merged; the smallest is on top of the heap.
struct Head<'a> {
    entry: Entry<'a>,
    reader: Reader<'a>,
    index: usize,
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.entry.word, other.index).cmp(&(self.entry.word, self.index))
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head<'_> {}

/// What went into a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) words: u64,
    pub(crate) bytes: u64,
}

/// Merges parts into one, written to `out`. A document's counts of one word in several parts are added up.
pub(crate) fn merge(parts: &[&[u8]], out: &mut impl Write) -> io::Result<Merged> {
    let mut out = Counted { out, bytes: 0 };
    let mut heap = BinaryHeap::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        advance(&mut heap, Reader::new(part).map_err(invalid)?, index)?;
    }
    out.write_all(MAGIC)?;
    let mut words = 0;
    let mut same: Vec<Entry<'_>> = Vec::with_capacity(parts.len());
    let mut postings = Vec::new();
    let mut encoded = Vec::new();
    while let Some(head) = heap.pop() {
        let word = head.entry.word;
        same.clear();
        same.push(head.entry);
        advance(&mut heap, head.reader, head.index)?;
        while heap.peek().is_some_and(|next| next.entry.word == word) {
            if let Some(next) = heap.pop() {
                same.push(next.entry);
                advance(&mut heap, next.reader, next.index)?;
            }
        }
        words += 1;
        if let [only] = same[..] {
            write_word(&mut out, word, only.postings, only.encoded)?; // Most words: as it is.
            continue;
        }
        postings.clear();
        postings.extend(same.iter().flat_map(Entry::decode));
        let count = encode(&mut postings, &mut encoded)?;
        write_word(&mut out, word, count, &encoded)?;
    }
    Ok(Merged { words, bytes: out.bytes })
}

fn advance<'a>(heap: &mut BinaryHeap<Head<'a>>, mut reader: Reader<'a>, index: usize) -> io::Result<()> {
    if let Some(entry) = reader.next().map_err(invalid)? {
        heap.push(Head { entry, reader, index });
    }
    Ok(())
}

/// Sorts postings, adds up those of one document, and encodes them; returns how many are left.
pub(crate) fn encode(postings: &mut Vec<Posting>, encoded: &mut Vec<u8>) -> io::Result<u64> {
    postings.sort_unstable_by_key(|posting| posting.document);
    postings.dedup_by(|next, kept| {
        let same = next.document == kept.document;
        kept.count += if same { next.count } else { 0 };
        same
    });
    encoded.clear();
    let mut last = 0;
    for posting in postings.iter() {
        write_varint(encoded, posting.document - last)?;
        write_varint(encoded, posting.count)?;
        last = posting.document;
    }
    Ok(postings.len() as u64)
}

fn invalid(error: PartError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Counts what passes.
struct Counted<'a, W> {
    out: &'a mut W,
    bytes: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(words: &[(&str, &[(u64, u64)])]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let mut encoded = Vec::new();
        for (word, postings) in words {
            let mut postings: Vec<_> = postings.iter().map(|&(document, count)| Posting { document, count }).collect();
            let count = encode(&mut postings, &mut encoded).expect("memory can be written");
            write_word(&mut out, word.as_bytes(), count, &encoded).expect("memory can be written");
        }
        out
    }

    #[test]
    fn a_part_is_written_as_documented() {
        let bytes = part(&[("a", &[(0, 1)]), ("bc", &[(3, 300), (5, 1)])]);
        assert_eq!(bytes, b"zmr1\x01a\x01\x00\x01\x02bc\x02\x03\xac\x02\x02\x01");
    }

    #[test]
    fn numbers_of_every_length_survive() {
        for shift in 0..64 {
            for number in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                write_varint(&mut bytes, number).expect("memory can be written");
                assert_eq!(read_varint(&mut &bytes[..]), Ok(number));
            }
        }
        assert_eq!(read_varint(&mut &[0xff; 10][..]), Err(PartError::Number));
        assert_eq!(read_varint(&mut &[0x80; 3][..]), Err(PartError::Truncated));
    }

    #[test]
    fn merging_is_the_union_with_counts_of_one_document_added_up() {
        let left = part(&[("a", &[(2, 1)]), ("c", &[(0, 1), (7, 2)])]);
        let right = part(&[("b", &[(1, 1)]), ("c", &[(0, 4), (3, 1)])]);
        let empty = part(&[]);
        let expected = part(&[("a", &[(2, 1)]), ("b", &[(1, 1)]), ("c", &[(0, 5), (3, 1), (7, 2)])]);
        for parts in [[&left[..], &right, &empty], [&empty, &right, &left]] {
            let mut out = Vec::new();
            let merged = merge(&parts, &mut out).expect("well formed");
            assert_eq!(out, expected);
            assert_eq!(merged, Merged { words: 3, bytes: expected.len() as u64 });
        }
        let mut out = Vec::new();
        merge(&[], &mut out).expect("nothing to merge");
        assert_eq!(out, MAGIC);
    }

    #[test]
    fn what_is_no_part_is_refused_wherever_it_is_cut() {
        let whole = part(&[("alpha", &[(0, 1), (9, 200)]), ("beta", &[(1, 1)])]);
        let read = |bytes: &[u8]| -> Result<u64, PartError> {
            let mut reader = Reader::new(bytes)?;
            let mut words = 0;
            while reader.next()?.is_some() {
                words += 1;
            }
            Ok(words)
        };
        assert_eq!(read(&whole), Ok(2));
        let one_word = part(&[("alpha", &[(0, 1), (9, 200)])]).len();
        for end in (0..whole.len()).filter(|end| *end != MAGIC.len() && *end != one_word) {
            assert!(read(&whole[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(read(&part(&[("b", &[(0, 1)]), ("a", &[(0, 1)])])), Err(PartError::Order));
        assert_eq!(read(b"zmr1\x01a\x01\x00\x00"), Err(PartError::Posting));
        assert_eq!(read(b"zmr1\x01a\x02\x00\x01\x00\x01"), Err(PartError::Posting));
    }
}
