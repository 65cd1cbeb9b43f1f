//! Raw files, as far as a report needs them (`docs/reference/bench-raw.md`). Unknown members are passed over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::machine::Machine;
use crate::output::SCHEMA;
use crate::stats::{Interval, Summary};

/// Kinds of benches, in the order of a report.
pub(super) const KINDS: [&str; 5] = ["apps", "micro", "transfer", "proxy", "scale"];

/// What every raw file begins with.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Head {
    schema: u32,
    kind: String,
    pub(super) mode: String,
    pub(super) seed: u64,
    pub(super) machine: Machine,
    #[serde(default)]
    pub(super) interrupted: bool,
    /// Of the inputs of `apps`.
    #[serde(default)]
    size: Option<String>,
    #[serde(default)]
    pub(super) network: Option<String>,
    #[serde(default)]
    pub(super) congestion: Option<String>,
    #[serde(default)]
    pub(super) methods: Vec<Method>,
    /// What was not compared, and why.
    #[serde(default)]
    pub(super) missing: Vec<Missing>,
    /// What this machine had no memory for.
    #[serde(default)]
    pub(super) left_out: Vec<LeftOut>,
    /// What each store was asked, by method.
    #[serde(default)]
    pub(super) stores: BTreeMap<String, Tries>,
}

/// A method that was not compared, or not to the end.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Missing {
    pub(super) method: String,
    pub(super) reason: String,
}

/// Something that was not measured.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct LeftOut {
    pub(super) reason: String,
    /// What it is.
    #[serde(flatten)]
    pub(super) what: BTreeMap<String, Value>,
}

/// Of a store's operations, those that failed at first.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Tries {
    #[serde(default)]
    pub(super) failed: u64,
    #[serde(default)]
    pub(super) throttled: u64,
}

/// A method that was compared.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Method {
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
}

/// A row of `apps`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct AppRow {
    /// Which of the files of its kind it stands in.
    #[serde(skip)]
    pub(super) file: usize,
    pub(super) app: String,
    pub(super) variant: String,
    pub(super) start: String,
    pub(super) method: String,
    pub(super) seconds: Summary,
    #[serde(default)]
    pub(super) times_ours: Option<Interval>,
}

/// A row of `micro`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct MicroRow {
    /// Which of the files of its kind it stands in.
    #[serde(skip)]
    pub(super) file: usize,
    pub(super) pattern: String,
    pub(super) size_bytes: u64,
    pub(super) degree: u32,
    pub(super) method: String,
    pub(super) seconds: Summary,
    pub(super) gib_per_second: f64,
    #[serde(default)]
    pub(super) times_ours: Option<Interval>,
}

/// A row of `transfer`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TransferRow {
    /// Which of the files of its kind it stands in.
    #[serde(skip)]
    pub(super) file: usize,
    pub(super) path: String,
    pub(super) size_bytes: u64,
    pub(super) seconds: Summary,
    pub(super) gib_per_second: f64,
    #[serde(default)]
    pub(super) ceiling: Option<String>,
    #[serde(default)]
    pub(super) ratio_to_ceiling: Option<f64>,
    #[serde(default)]
    pub(super) ratio_interval: Option<[f64; 2]>,
    /// The same against each store that does the same work.
    #[serde(default)]
    pub(super) ratio_to_stores: BTreeMap<String, Interval>,
    #[serde(default)]
    pub(super) system_calls_per_gib: Option<f64>,
    #[serde(default)]
    pub(super) copies: Option<f64>,
}

/// A row of `scale`: what one unit of work costs as there is more of it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ScaleRow {
    pub(super) curve: String,
    pub(super) unit: String,
    pub(super) x: f64,
    /// Seconds of the whole, not of a unit.
    pub(super) seconds: Summary,
}

/// One raw file.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) head: Head,
    /// The text, for those who read other parts of it.
    pub(super) text: String,
    rows: Vec<Value>,
}

impl File {
    /// Reads a raw file.
    fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("raw file {name}"))?;
        #[derive(Deserialize)]
        struct Rows {
            rows: Vec<Value>,
        }
        let schema: Value = serde_json::from_str(&text).with_context(|| format!("{name} is no raw file of `zipline bench`"))?;
        let found = schema["schema"].as_u64();
        ensure!(
            found == Some(u64::from(SCHEMA)),
            "{name} has schema {}, this release reads {SCHEMA}: measure again, or make the report with the release that wrote it",
            found.map_or_else(|| "none".to_owned(), |found| found.to_string())
        );
        let head: Head = serde_json::from_str(&text).with_context(|| format!("{name} is no raw file of `zipline bench`"))?;
        let Rows { rows } = serde_json::from_str(&text).with_context(|| format!("{name} has no rows"))?;
        debug_assert_eq!(head.schema, SCHEMA);
        ensure!(KINDS.contains(&head.kind.as_str()), "{name} is of a bench `{}` that a report does not know", head.kind);
        Ok(Self { path: path.to_owned(), head, text, rows })
    }

    /// Its rows.
    pub(super) fn rows<R: for<'de> Deserialize<'de>>(&self) -> Result<Vec<R>> {
        let rows = self.rows.iter().map(|row| R::deserialize(row));
        rows.collect::<Result<_, _>>().with_context(|| format!("a row of {}", self.path.display()))
    }

    /// Its rows as they stand.
    pub(super) fn plain_rows(&self) -> &[Value] {
        &self.rows
    }
}

/// A row that several files may have.
pub(super) trait Mergeable: for<'de> Deserialize<'de> {
    /// Rows with the same key are about the same.
    fn key(&self) -> String;
    /// Rows of the same group are compared, and stand together.
    fn group(&self) -> String;
    /// Pairs behind its ratio, or of a row without one its samples: the row with most of them stands.
    fn pairs(&self) -> usize;
    /// Notes which file of its kind it comes from.
    fn place(&mut self, file: usize);
}

fn pairs_of(times_ours: Option<&Interval>, seconds: &Summary) -> usize {
    times_ours.map(|times| times.samples).filter(|pairs| *pairs > 0).unwrap_or(seconds.samples)
}

impl Mergeable for AppRow {
    fn key(&self) -> String {
        [&*self.group(), &self.method].join(" ")
    }

    fn group(&self) -> String {
        [&*self.app, &self.variant, &self.start].join(" ")
    }

    fn pairs(&self) -> usize {
        pairs_of(self.times_ours.as_ref(), &self.seconds)
    }

    fn place(&mut self, file: usize) {
        self.file = file;
    }
}

impl Mergeable for MicroRow {
    fn key(&self) -> String {
        [&*self.group(), &self.method].join(" ")
    }

    fn group(&self) -> String {
        format!("{} {} {}", self.pattern, self.size_bytes, self.degree)
    }

    fn pairs(&self) -> usize {
        pairs_of(self.times_ours.as_ref(), &self.seconds)
    }

    fn place(&mut self, file: usize) {
        self.file = file;
    }
}

impl Mergeable for TransferRow {
    fn key(&self) -> String {
        format!("{} {}", self.path, self.size_bytes)
    }

    fn group(&self) -> String {
        self.size_bytes.to_string()
    }

    fn pairs(&self) -> usize {
        self.seconds.samples
    }

    fn place(&mut self, file: usize) {
        self.file = file;
    }
}

/// Rows of all files of a kind; of those with the same key the one with most pairs, in the place of the first.
///
/// # Errors
/// A file's row that is none.
pub(super) fn merged<R: Mergeable>(files: &[File]) -> Result<Vec<R>> {
    let mut merged: Vec<R> = Vec::new();
    for (at, file) in files.iter().enumerate() {
        for mut row in file.rows::<R>()? {
            row.place(at);
            match merged.iter_mut().find(|other| other.key() == row.key()) {
                Some(other) if row.pairs() > other.pairs() => *other = row,
                Some(_) => {}
                None => merged.push(row),
            }
        }
    }
    let groups: Vec<String> = merged.iter().map(R::group).collect();
    merged.sort_by_cached_key(|row| groups.iter().position(|group| *group == row.group()));
    Ok(merged)
}

/// What the files of a kind are called where there are several: a, b, c …
pub(super) fn letter(file: usize) -> char {
    u8::try_from(file).ok().and_then(|file| b'a'.checked_add(file)).map_or('?', char::from)
}

/// The files of a report, by kind; all from one machine.
pub(super) struct Files(BTreeMap<String, Vec<File>>);

impl Files {
    /// Reads these, or, of none, the newest of each kind in the folder.
    pub(super) fn read(given: &[PathBuf], folder: &Path) -> Result<Self> {
        let paths = if given.is_empty() { newest(folder)? } else { given.to_vec() };
        let mut files = BTreeMap::<String, Vec<File>>::new();
        for path in paths {
            let file = File::read(&path)?;
            let same = files.entry(file.head.kind.clone()).or_default();
            if let Some(other) = same.first() {
                goes_with(&file, other)?;
            }
            same.push(file);
        }
        let files = Self(files);
        files.one_machine()?;
        Ok(files)
    }

    fn one_machine(&self) -> Result<()> {
        let mut all = self.0.values().flatten();
        let Some(first) = all.next() else { return Ok(()) };
        for other in all {
            let same = |of: fn(&Machine) -> String| of(&first.head.machine) == of(&other.head.machine);
            ensure!(
                same(|m| m.cpu.clone())
                    && same(|m| m.cores.to_string())
                    && same(|m| m.memory_bytes.to_string())
                    && same(|m| m.kernel.clone()),
                "{} and {} are from different machines and can't stand in one report; name files of one with --from",
                first.path.display(),
                other.path.display()
            );
        }
        Ok(())
    }

    /// The files of a kind, in the order they were given in.
    pub(super) fn of(&self, kind: &str) -> &[File] {
        self.0.get(kind).map_or(&[], Vec::as_slice)
    }

    /// All of them, in the order of a report, with their place among those of their kind.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, usize, &File)> {
        KINDS.into_iter().flat_map(|kind| self.of(kind).iter().enumerate().map(move |(at, file)| (kind, at, file)))
    }
}

/// Fails where rows of two files of one bench can't stand in one table.
fn goes_with(file: &File, other: &File) -> Result<()> {
    /// Kinds whose rows have a key.
    const MERGED: [&str; 3] = ["apps", "micro", "transfer"];
    let (kind, names) = (&file.head.kind, [file, other].map(|file| file.path.display().to_string()).join(" and "));
    ensure!(MERGED.contains(&&**kind), "two raw files of `bench {kind}` are given: {names}; name one of them");
    let same = |of: fn(&Head) -> &Option<String>| of(&file.head) == of(&other.head);
    ensure!(same(|head| &head.size), "{names} have inputs of different sizes, and their rows can't stand in one table");
    ensure!(same(|head| &head.network), "{names} were measured over different networks, and their rows can't stand in one table");
    ensure!(same(|head| &head.congestion), "{names} have different congestion control, and their rows can't stand in one table");
    Ok(())
}

/// The newest raw file of each kind. Their names end in the time they were written at.
fn newest(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("there are no raw files in {}; run `zipline bench apps --quick` first", folder.display()))?;
    let mut newest: BTreeMap<&'static str, (u64, PathBuf)> = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let Some((kind, time)) = stem.rsplit_once('-') else { continue };
        let (Some(kind), Ok(time)) = (KINDS.into_iter().find(|known| *known == kind), time.parse()) else { continue };
        if newest.get(kind).is_none_or(|(other, _)| *other < time) {
            newest.insert(kind, (time, path));
        }
    }
    ensure!(!newest.is_empty(), "there are no raw files in {}; run `zipline bench apps --quick` first", folder.display());
    Ok(newest.into_values().map(|(_, path)| path).collect())
}
