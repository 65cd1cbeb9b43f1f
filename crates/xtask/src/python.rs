//! The virtual environment of the Python tests, made under `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A virtual environment with pytest in it.
pub(crate) struct Venv {
    python: PathBuf,
}

impl Venv {
    /// The project's environment; made, and filled from the package registry, where it is not there yet.
    pub(crate) fn ready(root: &Path) -> Result<Self> {
        let folder = root.join("target/python-tests");
        let python = folder.join("bin/python");
        let works = Command::new(&python).args(["-m", "pip", "--version"]).output().is_ok_and(|output| output.status.success());
        if !works {
            let mut make = Command::new("python3");
            make.args(["-m", "venv", "--clear"]).arg(&folder);
            succeed(make, "a virtual environment; Python 3.9 or newer with its `venv` module is needed")?;
        }
        let venv = Self { python };
        venv.install_requirements(&root.join("sdk/python/requirements-test.txt"))?;
        Ok(venv)
    }

    /// Installs what a requirements file lists.
    pub(crate) fn install_requirements(&self, file: &Path) -> Result<()> {
        let mut command = self.pip();
        command.arg("--requirement").arg(file);
        succeed(command, &format!("the packages of {}", file.display()))
    }

    /// Builds a package and installs it as its users get it.
    pub(crate) fn install_package(&self, folder: &Path) -> Result<()> {
        let mut command = self.pip();
        command.args(["--force-reinstall", "--no-deps"]).arg(folder);
        succeed(command, &format!("the package of {}", folder.display()))
    }

    /// pytest in a folder, with the reason of every skip in its summary.
    pub(crate) fn pytest(&self, folder: &Path, filter: Option<&str>) -> Command {
        let mut command = Command::new(&self.python);
        command.current_dir(folder).args(["-m", "pytest", "-rs", "-p", "no:cacheprovider"]);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(filter) = filter {
            command.args(["-k", filter]);
        }
        command
    }

    /// Whether a line of Python, run in a folder, ends with success.
    pub(crate) fn succeeds(&self, folder: &Path, line: &str) -> bool {
        let output = Command::new(&self.python).current_dir(folder).args(["-B", "-c", line]).output();
        output.is_ok_and(|output| output.status.success())
    }

    fn pip(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        command
    }
}

fn succeed(mut command: Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {}", command.get_program().display()))?;
    if !status.success() {
        bail!("could not get {what} ({status})");
    }
    Ok(())
}
