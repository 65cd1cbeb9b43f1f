//! `cargo xtask test`: every test there is, with the runners' own summaries and a last one over all.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::python::Venv;
use crate::stage::{self, Ended, Tally};
use crate::{cargo, root};

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Only tests whose names contain it
    filter: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// `cargo test --workspace`
    Rust,
    /// The Python SDK, and the Python side of the example
    Python,
    /// The suite written against Knative's own queue-proxy
    Knative,
    /// `cargo xtask simulate`: seeded schedules of faults, then every mutant
    Simulation,
}

/// Runs the tests; false when one failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let root = root()?;
    let wanted = |part| match (options.only, &options.filter) {
        (Some(only), _) => only == part,
        (None, Some(_)) => part != Part::Simulation, // It has no tests to choose from.
        (None, None) => true,
    };
    build(&root, wanted(Part::Rust))?;
    let mut stages = Vec::new();
    if wanted(Part::Rust) {
        prepare(&root)?;
        stages.push(rust(&root, options.filter.as_deref())?);
    }
    if wanted(Part::Python) || wanted(Part::Knative) {
        let venv = Venv::ready(&root)?;
        if wanted(Part::Python) {
            stages.push(python(&root, &venv, options.filter.as_deref())?);
        }
        if wanted(Part::Knative) {
            stages.push(knative(&root, &venv, options.filter.as_deref())?);
        }
    }
    if wanted(Part::Simulation) {
        stages.push(simulation(&root)?);
    }
    Ok(report(&stages))
}

/// Builds every program, and every test where they are wanted: in one go, so that no dependency is compiled twice.
fn build(root: &Path, with_tests: bool) -> Result<()> {
    let mut command = Command::new(cargo());
    command.current_dir(root).args(["build", "--workspace", "--bins"]).args(with_tests.then_some("--tests"));
    let status = command.status();
    if !status.context("starting cargo")?.success() {
        bail!("the programs under test do not build");
    }
    Ok(())
}

/// Programs that tests run beside ours, and the Debian packages they come from.
const PROGRAMS: [(&str, &str); 4] = [("nft", "nftables"), ("strace", "strace"), ("ip", "iproute2"), ("chromium", "chromium")];

/// Installs what tests need beside Rust and Python, where that may be done. What can't be had is skipped by its tests, which say so.
fn prepare(root: &Path) -> Result<()> {
    let setup = Command::new(built()?.join("zipline-bench")).arg("setup").current_dir(root).status();
    if !setup.context("starting the bench's setup")?.success() {
        println!("── tests against Redis or S3 are skipped: see above");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_here = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing: Vec<&str> = PROGRAMS.iter().filter(|(program, _)| !is_here(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&missing);
    apt.env("DEBIAN_FRONTEND", "noninteractive").stdout(std::process::Stdio::null());
    if !apt.status().is_ok_and(|status| status.success()) {
        println!("── without {}: their tests are skipped (apt-get as root installs them)", missing.join(", "));
    }
    Ok(())
}

fn rust(root: &Path, filter: Option<&str>) -> Result<Ended> {
    let mut command = Command::new(cargo());
    command.current_dir(root).args(["test", "--workspace", "--no-fail-fast"]).args(filter);
    stage::run("rust", command)
}

fn python(root: &Path, venv: &Venv, filter: Option<&str>) -> Result<Ended> {
    let folder = root.join("sdk/python");
    venv.install_package(&folder)?;
    let mut command = venv.pytest(&folder, filter);
    command.arg("tests").arg(root.join("examples/mapreduce/python/tests")).env("ZIPLINE_TEST_BIN_DIR", built()?);
    stage::run("python", command)
}

fn knative(root: &Path, venv: &Venv, filter: Option<&str>) -> Result<Ended> {
    let folder = root.join("e2e/knative-suite");
    venv.install_requirements(&folder.join("requirements.txt"))?;
    if !venv.succeeds(&folder, "import netns; raise SystemExit(netns.enter() != 'netns')") {
        let reason =
            "the whole suite: each of its proxies needs a network namespace, and none can be made here (root is the usual way)";
        println!("\n── knative: skipped: {reason}");
        let mut tally = Tally::default();
        tally.skip(1, reason);
        return Ok(Ended { name: "knative", tally, succeeded: true, took: Duration::ZERO });
    }
    let mut command = venv.pytest(&folder, filter);
    command.args(["-n", "2"]).env("PROXY_CMD", built()?.join("zipline-queue-proxy"));
    stage::run("knative", command)
}

/// The runner is this program: it says how many schedules there were, what they went through, and which mutants were found.
fn simulation(root: &Path) -> Result<Ended> {
    // By name: the build before may have put a new file in the place of the one that runs.
    let mut command = Command::new(built()?.join(format!("zipline-xtask{}", std::env::consts::EXE_SUFFIX)));
    command.current_dir(root).arg("simulate");
    let mut ended = stage::run("simulation", command)?;
    let outcome = if ended.succeeded { &mut ended.tally.passed } else { &mut ended.tally.failed };
    *outcome += 1;
    Ok(ended)
}

/// The folder of the programs that [`build`] made.
fn built() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.parent().context("this program lies in the build folder")?.to_owned())
}

fn report(stages: &[Ended]) -> bool {
    println!("\n── summary");
    let (mut passed_in_all, mut failed_in_all, mut skipped_in_all) = (0, 0, 0);
    for stage in stages {
        let Tally { passed, failed, skipped, reasons } = &stage.tally;
        let state = if stage.succeeded { "ok" } else { "FAILED" };
        println!("{:10} {state}: {passed} passed, {failed} failed, {skipped} skipped in {:.0?}", stage.name, stage.took);
        for reason in reasons {
            println!("           skipped: {reason}");
        }
        passed_in_all += passed;
        failed_in_all += failed;
        skipped_in_all += skipped;
    }
    println!("total: {passed_in_all} passed, {failed_in_all} failed, {skipped_in_all} skipped");
    stages.iter().all(|stage| stage.succeeded && stage.tally.failed == 0)
}
