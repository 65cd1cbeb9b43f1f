//! The programs that belong together: they lie beside this one's executable.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::de::DeserializeOwned;
use tokio::process::Command;

use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;

/// The program `name` beside this one.
pub(crate) fn beside(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::system("this program's own path", &error))?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    let message = format!("the program {} is missing", path.display());
    let hint = format!("`cargo build --release -p {name}` builds it");
    Err(Failure::new(Exit::System, "program-missing", message).hint(hint))
}

/// Becomes the program `name` beside this one; comes back only when that is not possible.
pub(crate) fn become_program(
    name: &str,
    arguments: impl IntoIterator<Item = OsString>,
    output: Output,
) -> Result<Outcome, Failure> {
    let program = beside(name)?;
    let mut command = std::process::Command::new(&program);
    command.args(arguments);
    if output.json {
        command.arg("--json");
    }
    let error = command.exec();
    Err(Failure::system(format_args!("starting {}", program.display()), &error))
}

/// Runs a program to its end and reads the JSON document it prints. Dropping the future ends the program.
pub(crate) async fn document<T: DeserializeOwned>(command: &mut Command) -> Result<T, Failure> {
    let output = run(command).await?;
    let name = command.as_std().get_program().display();
    serde_json::from_slice(&output)
        .map_err(|error| Failure::new(Exit::System, "protocol", format!("what {name} printed: {error}")))
}

/// Runs a program to its end and gives what it printed.
pub(crate) async fn run(command: &mut Command) -> Result<Vec<u8>, Failure> {
    let name = Path::new(command.as_std().get_program()).display().to_string();
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| Failure::system(format_args!("starting {name}"), &error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.trim().trim_start_matches("Error: ");
    Err(Failure::new(Exit::System, "program-failed", format!("{name} ended with {}: {words}", output.status)))
}

/// The nearest folder, of this program's or the working folder and those above, that holds `what`.
pub(crate) fn project_with(what: &str) -> Option<PathBuf> {
    let starts = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    let mut folders = starts.iter().flatten().flat_map(|start| start.ancestors());
    folders.find(|folder| folder.join(what).exists()).map(Path::to_owned)
}
