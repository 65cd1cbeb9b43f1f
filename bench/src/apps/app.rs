//! The applications: their services, their input, and the answer that is right.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

/// An application of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum App {
    /// Video analytics.
    Video,
    /// Training a stacking ensemble.
    Stacking,
    /// Map-reduce over a table of visits.
    MapReduce,
}

/// How large the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Size {
    /// To see that everything works.
    Tiny,
    /// Clip and data set as published; 50,000 rows a mapper.
    Laptop,
    /// As published: 350,000 rows a mapper.
    Full,
}

/// One role of an application.
pub(crate) struct Role {
    /// Its service's name, before the method's.
    pub(crate) name: &'static str,
    /// Its program's argument.
    pub(crate) argument: &'static str,
    pub(crate) instances: u32,
}

/// What an application works on in one run.
pub(crate) struct Job {
    pub(crate) app: App,
    pub(crate) program: PathBuf,
    pub(crate) roles: Vec<Role>,
    /// What the input is, for raw files and tables.
    pub(crate) parameters: Value,
    /// The right answer's head.
    pub(crate) expected: Value,
    input: PathBuf,
    scratch: PathBuf,
    counts: Counts,
    seed: u64,
}

/// Sizes that requests name.
struct Counts {
    /// Frames, mappers or rows.
    many: u32,
    /// Reducers or features.
    few: u32,
}

impl App {
    pub(crate) const ALL: [Self; 3] = [Self::Video, Self::Stacking, Self::MapReduce];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Stacking => "stacking",
            Self::MapReduce => "map-reduce",
        }
    }

    /// Memory of its instances with their queue-proxies, over one method, in bytes: what was seen, rounded up.
    pub(crate) const fn memory_bytes(self, size: Size) -> u64 {
        const MIB: u64 = 1024 * 1024;
        match (self, size) {
            (Self::Video, _) => 200 * MIB,
            (Self::Stacking, _) => 100 * MIB,
            (Self::MapReduce, Size::Full) => 1000 * MIB,
            (Self::MapReduce, _) => 150 * MIB,
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Video => "zipline-video",
            Self::Stacking => "zipline-stacking",
            Self::MapReduce => "zipline-mapreduce",
        }
    }

    fn counts(self, size: Size) -> Counts {
        let (many, few) = match (self, size) {
            (Self::Video, Size::Tiny) => (2, 0),
            (Self::Video, _) => (6, 0),
            (Self::Stacking, Size::Tiny) => (60, 64),
            (Self::Stacking, _) => (300, 1024),
            (Self::MapReduce, Size::Tiny) => (3, 2),
            (Self::MapReduce, _) => (8, 2),
        };
        Counts { many, few }
    }
}

impl Job {
    /// Makes the input and computes the right answer by one process.
    pub(crate) fn prepare(app: App, size: Size, seed: u64, scratch: &Path) -> Result<Self> {
        let counts = app.counts(size);
        let mut job = Self {
            app,
            program: beside(app.program())?,
            roles: roles(app, &counts),
            parameters: Value::Null,
            expected: Value::Null,
            input: scratch.join(app.name()),
            scratch: scratch.to_owned(),
            counts,
            seed,
        };
        match app {
            App::Video => job.prepare_video(size)?,
            App::Stacking => job.prepare_stacking()?,
            App::MapReduce => job.prepare_map_reduce(size)?,
        }
        Ok(job)
    }

    fn prepare_video(&mut self, size: Size) -> Result<()> {
        let (width, height, frames) = if size == Size::Tiny { (320, 240, 6) } else { (1920, 1080, 61) };
        let clip = self.input.display().to_string();
        self.run(&["clip", &clip], &[("width", width), ("height", height), ("frames", frames), ("seed", self.seed)])?;
        self.parameters = json!({
            "width": width,
            "height": height,
            "frames": frames,
            "clip_bytes": std::fs::metadata(&self.input)?.len(),
            "recognised": self.counts.many,
            "note": "weights are seeded, not learned: labels have no meaning",
        });
        let reference = self.run(&["reference", &clip], &[("frames", u64::from(self.counts.many)), ("seed", self.seed)])?;
        self.expect(&reference)
    }

    fn prepare_stacking(&mut self) -> Result<()> {
        let (rows, features) = (self.counts.many, self.counts.few);
        self.parameters = json!({ "rows": rows, "features": features });
        let numbers = [("rows", u64::from(rows)), ("features", u64::from(features)), ("seed", self.seed)];
        let reference = self.run(&["reference"], &numbers)?;
        self.expect(&reference)
    }

    fn prepare_map_reduce(&mut self, size: Size) -> Result<()> {
        let rows: u32 = match size {
            Size::Tiny => 300,
            Size::Laptop => 50_000,
            Size::Full => 350_000,
        };
        let (mappers, reducers) = (self.counts.many, self.counts.few);
        let table = self.input.display().to_string();
        self.run(&["visits", &table], &[("rows", u64::from(rows)), ("parts", u64::from(mappers)), ("seed", self.seed)])?;
        self.parameters =
            json!({ "rows_a_mapper": rows, "mappers": mappers, "reducers": reducers, "addresses": "nearly all distinct" });
        let right = self.output("right").display().to_string();
        let numbers = [("parts", u64::from(mappers)), ("reducers", u64::from(reducers))];
        let reference = self.run(&["visits-reference", &table, "--output", &right], &numbers)?;
        self.expect(&reference)
    }

    fn expect(&mut self, reference: &[u8]) -> Result<()> {
        self.expected = serde_json::from_slice(reference).with_context(|| format!("what {} printed", self.app.program()))?;
        Ok(())
    }

    /// Runs the application's program to its end and gives what it printed.
    fn run(&self, words: &[&str], numbers: &[(&str, u64)]) -> Result<Vec<u8>> {
        let numbers = numbers.iter().flat_map(|(name, number)| [format!("--{name}"), number.to_string()]);
        let output = Command::new(&self.program).args(words).args(numbers).output();
        let output = output.with_context(|| format!("starting {}", self.program.display()))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("{} ended with {}: {}", self.program.display(), output.status, words.trim_end());
        }
        Ok(output.stdout)
    }

    /// The role that a request is sent to.
    pub(crate) fn entry(&self) -> &'static str {
        match self.app {
            App::Video => "streaming",
            App::Stacking | App::MapReduce => "driver",
        }
    }

    /// A request's head; `service` names the service of a role, `output` is this request's own name.
    pub(crate) fn request(&self, parallel: bool, output: &str, service: impl Fn(&str) -> String) -> Value {
        match self.app {
            App::Video => {
                json!({ "clip": self.input, "decoder": service("decoder"), "frames": self.counts.many, "parallel": parallel,
                "recogniser": service("recogniser"), "seed": self.seed })
            }
            App::Stacking => {
                json!({ "data": { "rows": self.counts.many, "features": self.counts.few, "seed": self.seed }, "parallel": parallel,
                "trainer": service("trainer"), "reducer": service("reducer"), "meta_trainer": service("meta-trainer") })
            }
            App::MapReduce => {
                json!({ "input": self.input, "output": self.output(output), "mappers": self.counts.many, "reducers": self.counts.few,
                "parallel": parallel, "mapper": service("mapper"), "reducer": service("reducer") })
            }
        }
    }

    /// Removes what a request left in files.
    pub(crate) fn clean(&self, output: &str) -> Result<()> {
        match std::fs::remove_dir_all(self.output(output)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("removing a result"),
            _ => Ok(()),
        }
    }

    fn output(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("{}-{name}", self.app.name()))
    }
}

/// The roles of an application: as many instances as are at work at once.
fn roles(app: App, counts: &Counts) -> Vec<Role> {
    let role = |name, argument, instances| Role { name, argument, instances };
    match app {
        App::Video => {
            vec![role("streaming", "streaming", 1), role("decoder", "decoder", 1), role("recogniser", "recogniser", counts.many)]
        }
        App::Stacking => vec![
            role("driver", "driver", 1),
            role("trainer", "trainer", 4),
            role("reducer", "reducer", 1),
            role("meta-trainer", "meta-trainer", 1),
        ],
        App::MapReduce => vec![
            role("driver", "visits-driver", 1),
            role("mapper", "visits-mapper", counts.many),
            role("reducer", "visits-reducer", counts.few),
        ],
    }
}

/// The program of that name beside this one.
fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("this program's own path")?.with_file_name(name);
    if !path.is_file() {
        bail!(
            "the program {} is missing\nhint: `cargo build --release -p zipline-video -p zipline-stacking -p zipline-mapreduce` builds the applications",
            path.display()
        );
    }
    Ok(path)
}
