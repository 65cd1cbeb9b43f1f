//! Raw files, as far as a report needs them (`docs/reference/bench-raw.md`). Unknown members are passed over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
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

/// The files of a report, by kind; all from one machine.
pub(super) struct Files(BTreeMap<String, File>);

impl Files {
    /// Reads these, or, of none, the newest of each kind in the folder.
    pub(super) fn read(given: &[PathBuf], folder: &Path) -> Result<Self> {
        let paths = if given.is_empty() { newest(folder)? } else { given.to_vec() };
        let mut files = BTreeMap::new();
        for path in paths {
            let file = File::read(&path)?;
            if let Some(other) = files.insert(file.head.kind.clone(), file) {
                bail!("two raw files of `bench {}` are given; the other is {}", other.head.kind, other.path.display());
            }
        }
        let files = Self(files);
        files.one_machine()?;
        Ok(files)
    }

    fn one_machine(&self) -> Result<()> {
        let mut all = self.0.values();
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

    /// The file of a kind.
    pub(super) fn of(&self, kind: &str) -> Option<&File> {
        self.0.get(kind)
    }

    /// All of them, in the order of a report.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &File)> {
        KINDS.into_iter().filter_map(|kind| Some((kind, self.0.get(kind)?)))
    }
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
