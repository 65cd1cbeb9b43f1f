//! What the job reads: a folder of the user's, or the sources of this project's own dependencies.
//!
//! `cargo metadata` says where the dependencies lie. Where they are fewer bytes than asked for, a seeded generator
//! writes the rest, so that the job has the same size everywhere.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::documents::files_below;

/// Bytes of a generated document.
const GENERATED_BYTES: u64 = 256 * 1024;
/// Different words of the generated text.
const GENERATED_WORDS: u64 = 50_000;

/// The chosen files.
pub(crate) struct Corpus {
    pub(crate) files: Vec<(PathBuf, u64)>,
    pub(crate) origin: Origin,
}

/// Where they come from.
#[derive(Debug, Serialize)]
pub(crate) struct Origin {
    /// Packages whose sources were taken.
    pub(crate) packages: usize,
    /// Bytes that the generator wrote.
    pub(crate) generated_bytes: u64,
    /// Why there are none, or not all, of the dependencies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    manifest_path: PathBuf,
}

/// The files of a folder.
pub(crate) fn of_folder(folder: &Path) -> Result<Corpus> {
    let folder = folder.canonicalize().with_context(|| format!("the folder {}", folder.display()))?;
    let files = files_below(&folder)?;
    if files.is_empty() {
        bail!("the folder {} holds no file to count words in", folder.display());
    }
    Ok(Corpus { files, origin: Origin { packages: 0, generated_bytes: 0, note: None } })
}

/// Rust sources of the dependencies that `manifest` has, package by package until they are `bytes_min`; what is
/// missing is generated into `scratch`.
pub(crate) fn of_dependencies(manifest: Option<&Path>, bytes_min: u64, scratch: &Path) -> Result<Corpus> {
    let mut origin = Origin { packages: 0, generated_bytes: 0, note: None };
    let mut files = Vec::new();
    let mut bytes = 0;
    let packages = match manifest.context("no Cargo.toml of this project was found").and_then(dependencies) {
        Ok(packages) => packages,
        Err(error) => {
            origin.note = Some(format!("the sources of the dependencies were not found: {error:#}"));
            Vec::new()
        }
    };
    for folder in packages {
        if bytes >= bytes_min {
            break;
        }
        let mut sources = files_below(&folder)?;
        sources.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"));
        bytes += sources.iter().map(|(_, bytes)| bytes).sum::<u64>();
        origin.packages += usize::from(!sources.is_empty());
        files.append(&mut sources);
    }
    if bytes < bytes_min {
        origin.generated_bytes = bytes_min - bytes;
        files.append(&mut generate(origin.generated_bytes, &scratch.join("generated"))?);
    }
    Ok(Corpus { files, origin })
}

/// Folders of the packages that `manifest` depends on, in the order of their names. Needs no network.
fn dependencies(manifest: &Path) -> Result<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host()?.trim(), "--manifest-path"])
        .arg(manifest);
    let output = command.output().context("cargo cannot be started")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("cargo metadata: {}", text.lines().next().unwrap_or("no message"));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata's answer")?;
    let mut packages: Vec<_> = metadata.packages.into_iter().filter(|package| package.source.is_some()).collect();
    packages.sort_by(|left, right| (&left.name, &left.version).cmp(&(&right.name, &right.version)));
    Ok(packages.into_iter().filter_map(|package| package.manifest_path.parent().map(Path::to_owned)).collect())
}

/// The target that cargo builds for; of other targets' packages the sources may be absent.
fn host() -> Result<String> {
    let output = Command::new("rustc").args(["--print", "host-tuple"]).output().context("rustc cannot be started")?;
    String::from_utf8(output.stdout).context("rustc's host tuple")
}

/// Writes documents of `bytes` in all: words of a fixed vocabulary, common ones often, from a fixed seed.
fn generate(bytes: u64, folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    let mut random = SplitMix64(0x5eed);
    let mut files = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let size = left.min(GENERATED_BYTES);
        let mut text = String::with_capacity(size as usize + 16);
        while (text.len() as u64) < size {
            // Squared twice: the share of a word falls with its number, roughly as in real text.
            let uniform = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
            let word = (uniform.powi(4) * GENERATED_WORDS as f64) as u64;
            let end = if random.next().is_multiple_of(12) { '\n' } else { ' ' };
            write!(text, "w{word:x}{end}")?;
        }
        text.truncate(size as usize);
        let path = folder.join(format!("{:05}.txt", files.len()));
        fs::write(&path, &text).with_context(|| format!("the file {}", path.display()))?;
        files.push((path, size));
        left -= size;
    }
    Ok(files)
}

/// A small generator whose sequence is fixed by its seed.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_generated_to_the_byte_and_alike_each_time() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let make = |name: &str| of_dependencies(None, 600_000, &scratch.path().join(name)).expect("generated");
        let (first, second) = (make("a"), make("b"));
        assert_eq!(first.files.iter().map(|(_, bytes)| bytes).sum::<u64>(), 600_000);
        assert_eq!(first.origin.generated_bytes, 600_000);
        assert!(first.origin.note.is_some_and(|note| note.contains("no Cargo.toml")));
        for ((left, bytes), (right, _)) in first.files.iter().zip(&second.files) {
            let text = fs::read(left).expect("read");
            assert_eq!(text.len() as u64, *bytes);
            assert!(text == fs::read(right).expect("read"));
        }
    }

    #[test]
    fn an_empty_folder_is_named() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let error = of_folder(scratch.path()).err().map(|error| error.to_string()).expect("refused");
        assert!(error.contains("holds no file"), "{error}");
    }
}
