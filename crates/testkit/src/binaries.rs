//! Where the built programs are.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Names the folder of the built programs, in place of the one the test itself was built into.
const OVERRIDE: &str = "ZIPLINE_TEST_BIN_DIR";

/// The folder the running test's programs were built into: the parent of the `deps` folder the test executable lies in.
pub fn build_dir() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(OVERRIDE) {
        return Ok(folder.into());
    }
    let executable = std::env::current_exe().context("the test's own path")?;
    let folder = executable.parent().context("a test executable lies in a folder")?;
    let is_deps = folder.file_name().is_some_and(|name| name == "deps");
    Ok(if is_deps { folder.parent().context("`deps` lies in the build folder")?.into() } else { folder.into() })
}

/// The built program `name`. Tests never build: `cargo xtask test` does, before it runs them.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = build_dir()?.join(name);
    if !path.is_file() {
        bail!(
            "{} is not built\nhint: `cargo xtask test` builds it first; so does `cargo build --workspace --bins`",
            path.display()
        );
    }
    Ok(path)
}
