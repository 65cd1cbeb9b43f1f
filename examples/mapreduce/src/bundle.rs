//! The documents of one part in one payload, for mappers that cannot read the files where they lie.
//!
//! `zmd1`, then for each document its number and its length as varints, and its bytes. It ends where its bytes end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::documents;
use crate::part::{PartError, read_varint, write_varint};

/// What a bundle begins with.
const MAGIC: &[u8] = b"zmd1";

/// Writes the documents of one part of a list.
pub(crate) fn write(list: &Path, part: u32, out: &mut impl Write) -> Result<()> {
    out.write_all(MAGIC)?;
    for document in documents::read(list)?.into_iter().filter(|document| document.part == part) {
        let named = || format!("the document {}", document.path.display());
        let mut file = File::open(&document.path).with_context(named)?;
        let length = file.metadata().with_context(named)?.len();
        write_varint(out, document.number)?;
        write_varint(out, length)?;
        let copied = io::copy(&mut (&mut file).take(length), out).with_context(named)?;
        ensure!(copied == length, "{} became shorter while it was read", named());
    }
    Ok(())
}

/// The documents of a bundle, each with its number.
pub(crate) struct Documents<'b> {
    rest: &'b [u8],
}

impl<'b> Documents<'b> {
    /// Begins to read.
    pub(crate) fn of(bundle: &'b [u8]) -> Result<Self, PartError> {
        bundle.strip_prefix(MAGIC).map(|rest| Self { rest }).ok_or(PartError::BundleMagic)
    }

    fn read(&mut self) -> Result<(u64, &'b [u8]), PartError> {
        let number = read_varint(&mut self.rest)?;
        let length = usize::try_from(read_varint(&mut self.rest)?).map_err(|_| PartError::Truncated)?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(PartError::Truncated)?;
        self.rest = rest;
        Ok((number, text))
    }
}

impl<'b> Iterator for Documents<'b> {
    type Item = Result<(u64, &'b [u8]), PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.rest.is_empty()).then(|| {
            let read = self.read();
            if read.is_err() {
                self.rest = &[];
            }
            read
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_has_the_documents_of_its_part_and_a_cut_one_is_refused() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let texts = ["one", "", "three three", "four"];
        let files = texts.iter().enumerate().map(|(number, text)| {
            let path = scratch.path().join(number.to_string());
            std::fs::write(&path, text).expect("written");
            (path, text.len() as u64)
        });
        let files: Vec<_> = files.collect();
        let list = scratch.path().join("list");
        documents::deal(&files, 2, &list).expect("dealt");
        let mut found = Vec::new();
        for part in 0..2 {
            let mut bundle = Vec::new();
            write(&list, part, &mut bundle).expect("written");
            for document in Documents::of(&bundle).expect("a bundle") {
                let (number, text) = document.expect("whole");
                found.push((number, text.to_vec()));
            }
            let cut = Documents::of(&bundle[..bundle.len() - 1]).expect("its beginning");
            assert!(cut.collect::<Result<Vec<_>, _>>().is_err(), "{bundle:?}");
        }
        found.sort();
        let expected: Vec<_> = texts.iter().enumerate().map(|(number, text)| (number as u64, text.as_bytes().to_vec())).collect();
        assert_eq!(found, expected);
        assert!(Documents::of(b"zmr1").is_err());
    }
}
