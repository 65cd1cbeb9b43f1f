//! `cargo xtask image`: a program's image as an archive, without a container engine.
//!
//! The program is built with the `image` profile, linked statically against glibc (`+crt-static` on the gnu target: the one that
//! every toolchain has), with this machine's paths taken out, so that two builds of one state give the same bytes wherever they
//! are made. Beside the archive lies the list of what is in it, in CycloneDX' form; it is in the image too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use zipline_image::{Entry, Image, Platform, Static};

use crate::{cargo, root, sbom};

/// What an image may have at most.
const IMAGE_BYTES_MAX: u64 = 20 * 1000 * 1000;
/// Where an image keeps the list of what is in it.
const SBOM_FOLDERS: [&str; 3] = ["usr", "usr/share", "usr/share/sbom"];
/// Where its repository is: no registry of that name exists, so nothing is ever pulled by mistake.
const REPOSITORY: &str = "dev.local/zipline";

/// What can be made into an image.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Program {
    /// The sidecar
    QueueProxy,
    /// Webhook and controller
    Kubernetes,
    /// The function and the driver of the tests on a cluster
    E2eFunction,
    /// Driver, mapper and reducer of `zipline demo --cluster`
    Mapreduce,
}

impl Program {
    fn package(self) -> &'static str {
        match self {
            Self::QueueProxy => "zipline-queue-proxy",
            Self::Kubernetes => "zipline-kubernetes",
            Self::E2eFunction => "zipline-e2e-cluster",
            Self::Mapreduce => "zipline-mapreduce",
        }
    }

    fn binary(self) -> &'static str {
        match self {
            Self::QueueProxy => "zipline-queue-proxy",
            Self::Kubernetes => "zipline-kubernetes",
            Self::E2eFunction => "zipline-e2e-function",
            Self::Mapreduce => "zipline-mapreduce",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::QueueProxy => "Zipline queue-proxy",
            Self::Kubernetes => "Zipline's webhook and controller",
            Self::E2eFunction => "Zipline's test function",
            Self::Mapreduce => "Zipline's demo",
        }
    }

    fn default_name(self) -> String {
        let name = match self {
            Self::QueueProxy => "queue-proxy",
            Self::Kubernetes => "controller",
            Self::E2eFunction => "e2e-function",
            Self::Mapreduce => "mapreduce",
        };
        format!("{REPOSITORY}/{name}:{}", env!("CARGO_PKG_VERSION"))
    }
}

/// Where it goes and what it is called.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which program
    #[arg(value_enum, default_value = "queue-proxy")]
    program: Program,
    /// Name and tag of the image [default: dev.local/zipline/PROGRAM:VERSION]
    #[arg(long)]
    name: Option<String>,
    /// Folder for the archive and the list of what is in it [default: target/image]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Builds everything a second time, in another folder, and fails where a byte differs
    #[arg(long)]
    check: bool,
}

/// Builds and writes; false when `check` found a difference.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let root = root()?;
    let out = options.out.clone().unwrap_or_else(|| root.join("target/image"));
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let program = options.program;
    let name = options.name.clone().unwrap_or_else(|| program.default_name());
    let made = make(&root, &root.join("target/image-build"), program, &name)?;
    let archive = out.join(format!("{}.tar", program.binary()));
    fs::write(&archive, &made.archive).with_context(|| archive.display().to_string())?;
    fs::write(out.join(format!("{}.cdx.json", program.binary())), &made.sbom)?;
    println!("{}: {} bytes, {name} {}", archive.display(), made.archive.len(), made.digest);
    if !options.check {
        return Ok(true);
    }
    let elsewhere = tempfile::tempdir().context("a folder for the second build")?;
    let again = make(&root, elsewhere.path(), program, &name)?;
    let is_same = again.archive == made.archive;
    println!("built twice: {}", if is_same { "the same bytes" } else { "the archives differ" });
    Ok(is_same)
}

struct Made {
    archive: Vec<u8>,
    sbom: Vec<u8>,
    digest: String,
}

fn make(root: &Path, target_dir: &Path, program: Program, name: &str) -> Result<Made> {
    let target = target()?;
    let path = build(root, target_dir, &target, program)?;
    let content = fs::read(&path).with_context(|| path.display().to_string())?;
    Static::check(&content).with_context(|| path.display().to_string())?;
    let steered = zipline_fault_point::SOCKET_VARIABLE.as_bytes();
    let is_steered = content.windows(steered.len()).any(|window| window == steered);
    ensure!(!is_steered, "{} can be stopped at fault points: it was built with debug assertions", path.display());
    let sbom = sbom::of(root, program.package(), &target)?;
    let mut image = Image::of_program(name, program.binary(), content);
    image.platform = if target.starts_with("aarch64") { Platform::ARM64 } else { Platform::AMD64 };
    image.labels = [
        ("org.opencontainers.image.title", program.title()),
        ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
        ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE")),
    ]
    .map(|(label, value)| (label.to_owned(), value.to_owned()))
    .into();
    image.entries.extend(SBOM_FOLDERS.map(|folder| Entry::directory(folder, 0o755)));
    image.entries.push(Entry::file(&format!("{}/{}.cdx.json", SBOM_FOLDERS[2], program.binary()), 0o644, sbom.clone()));
    let mut archive = Vec::new();
    let written = image.write(&mut archive)?;
    let bytes = archive.len() as u64;
    ensure!(bytes <= IMAGE_BYTES_MAX, "the image has {bytes} bytes, more than the {IMAGE_BYTES_MAX} that were promised");
    Ok(Made { archive, sbom, digest: written.manifest.to_string() })
}

/// Builds the program and returns its path.
fn build(root: &Path, target_dir: &Path, target: &str, program: Program) -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"), PathBuf::from);
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Clink-arg=-Wl,--build-id=none".to_owned(),
        format!("--remap-path-prefix={}=/cargo", home.display()),
        format!("--remap-path-prefix={}=/zipline", root.display()),
    ];
    let status = Command::new(cargo())
        .current_dir(root)
        .args(["build", "--locked", "--profile", "image", "--package", program.package(), "--bin", program.binary()])
        .args(["--target", target, "--target-dir"])
        .arg(target_dir)
        // Flags for the target only: a static proc macro could not be loaded.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_INCREMENTAL", "0")
        .status();
    if !status.context("starting cargo")?.success() {
        bail!("{} does not build", program.binary());
    }
    Ok(target_dir.join(target).join("image").join(program.binary()))
}

/// This machine's own target: the one whose standard library is always there.
fn target() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("starting rustc")?;
    let text = String::from_utf8(output.stdout).context("what rustc says of itself")?;
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned).context("rustc names its host")
}
