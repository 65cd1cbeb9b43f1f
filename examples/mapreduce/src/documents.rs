//! The list of documents: which files a job reads, and which mapper reads each.
//!
//! A text file, one line a document: part, size in bytes, path, separated by tabs. The document's number is its line's,
//! from 0. The files are external input: mappers read them where they lie.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One document of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) number: u64,
    pub(crate) part: u32,
    pub(crate) bytes: u64,
    pub(crate) path: PathBuf,
}

/// Reads a list.
pub(crate) fn read(list: &Path) -> Result<Vec<Document>> {
    let file = File::open(list).with_context(|| format!("the list of documents {}", list.display()))?;
    let mut documents = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("line {} of {}", number + 1, list.display()))?;
        let mut fields = line.splitn(3, '\t');
        let (Some(part), Some(bytes), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            bail!("line {} of {}: expected PART, BYTES and PATH, separated by tabs", number + 1, list.display());
        };
        let number_of =
            |text: &str| text.parse::<u64>().with_context(|| format!("`{text}` in line {} of {}", number + 1, list.display()));
        documents.push(Document {
            number: number as u64,
            part: u32::try_from(number_of(part)?).with_context(|| format!("part {part}"))?,
            bytes: number_of(bytes)?,
            path: PathBuf::from(path),
        });
    }
    Ok(documents)
}

/// Deals files out to parts, so that the parts are about equally large, and writes the list.
///
/// The files stand in the list in the order in which they are given.
pub(crate) fn deal(files: &[(PathBuf, u64)], parts: u32, list: &Path) -> Result<()> {
    let mut by_size: Vec<usize> = (0..files.len()).collect();
    by_size.sort_by_key(|&index| (std::cmp::Reverse(files[index].1), index));
    let mut loads = vec![0u64; parts.max(1) as usize];
    let mut part_of = vec![0; files.len()];
    for index in by_size {
        let lightest = (0..loads.len()).min_by_key(|&part| (loads[part], part)).unwrap_or_default();
        loads[lightest] += files[index].1;
        part_of[index] = lightest;
    }
    let mut out = BufWriter::new(File::create(list).with_context(|| format!("the list of documents {}", list.display()))?);
    for ((path, bytes), part) in files.iter().zip(part_of) {
        let Some(text) = path.to_str().filter(|text| !text.contains(['\n', '\r'])) else {
            bail!("{}: a document's path is UTF-8 without a line end", path.display());
        };
        writeln!(out, "{part}\t{bytes}\t{text}")?;
    }
    out.flush().context("writing the list of documents")
}

/// The regular files below a folder, sorted by path; links are not followed.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("the folder {}", folder.display()))? {
            let entry = entry.with_context(|| format!("the folder {}", folder.display()))?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                match entry.metadata() {
                    Ok(metadata) => found.push((path, metadata.len())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {} // Gone since.
                    Err(error) => return Err(error).with_context(|| format!("the file {}", path.display())),
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written_and_its_parts_are_about_equal() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let list = scratch.path().join("documents");
        let files: Vec<_> = (1..=40u64).map(|size| (PathBuf::from(format!("/texts/a b\t{size}")), size * 100)).collect();
        deal(&files, 4, &list).expect("written");
        let documents = read(&list).expect("well formed");
        assert_eq!(documents.len(), files.len());
        let mut loads = [0; 4];
        for (number, document) in documents.iter().enumerate() {
            assert_eq!((document.number, &document.path, document.bytes), (number as u64, &files[number].0, files[number].1));
            loads[document.part as usize] += document.bytes;
        }
        let (least, most) = (loads.iter().min().expect("four"), loads.iter().max().expect("four"));
        assert!(most - least <= 4000, "{loads:?}");
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let list = scratch.path().join("documents");
        for (text, named) in
            [("0\t1\t/a\nnonsense\n", "line 2"), ("x\t1\t/a\n", "`x` in line 1"), ("0\t-1\t/a\n", "`-1` in line 1")]
        {
            std::fs::write(&list, text).expect("written");
            let error = format!("{:#}", read(&list).expect_err("refused"));
            assert!(error.contains(named), "{error}");
        }
        assert!(read(&scratch.path().join("absent")).is_err());
    }

    #[test]
    fn files_are_found_in_the_order_of_their_paths() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        std::fs::create_dir_all(scratch.path().join("b/c")).expect("made");
        for (name, text) in [("z", "1"), ("b/c/x", "22"), ("b/a", "")] {
            std::fs::write(scratch.path().join(name), text).expect("written");
        }
        let found = files_below(scratch.path()).expect("read");
        let names: Vec<_> =
            found.iter().map(|(path, bytes)| (path.strip_prefix(scratch.path()).expect("below").to_owned(), *bytes)).collect();
        assert_eq!(names, [("b/a".into(), 0), ("b/c/x".into(), 2), ("z".into(), 1)]);
    }
}
