//! What is left of the fault points in a release build: nothing.
//!
//! The crate has no dependencies, so the compiler alone builds it both ways, as cargo's profiles would, within a second.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use zipline_fault_point::SOCKET_VARIABLE;

/// Passes a point and enlists while it is compiled, which only an empty expansion and an empty function allow.
const IN_A_CONSTANT: &str = r#"
    const PASSED: () = { zipline_fault_point::fault_point!("put.begun"); zipline_fault_point::enlist("itself"); };
    fn main() { PASSED; assert_eq!(zipline_fault_point::wall_shift_ms(), 0); assert_eq!(zipline_fault_point::passed_on().count(), 0); }
"#;
const WHILE_IT_RUNS: &str = r#"
    fn main() { zipline_fault_point::enlist("itself"); zipline_fault_point::fault_point!("put.begun"); }
"#;
/// Names a folder with programs of a release build, to be looked through.
const PROGRAMS_VARIABLE: &str = "ZIPLINE_RELEASE_BIN_DIR";

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("zlf-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Builds the crate and a program that uses it, with or without debug assertions; the program's path and what was said.
fn build(folder: &Path, program: &str, has_assertions: bool) -> (PathBuf, Output) {
    let rustc = |source: &Path, kind: &str| {
        let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        command.args(["--edition", "2024", "-C", "opt-level=1", "-C"]).arg(format!("debug-assertions={has_assertions}"));
        command.args(["--crate-type", kind, "--out-dir"]).arg(folder).arg("-L").arg(folder).arg(source);
        command
    };
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let built = rustc(&library, "rlib").args(["--crate-name", "zipline_fault_point"]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let source = folder.join("program.rs");
    std::fs::write(&source, program).unwrap();
    let output = rustc(&source, "bin").args(["--extern", "zipline_fault_point"]).output().unwrap();
    (folder.join("program"), output)
}

fn mentions(program: &Path, text: &str) -> bool {
    let content = std::fs::read(program).unwrap();
    content.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn in_a_release_build_a_fault_point_is_nothing_and_nobody_can_steer() {
    let folder = Folder::new("release");
    let (program, output) = build(&folder.0, IN_A_CONSTANT, false);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = Command::new(&program).env(SOCKET_VARIABLE, "/dev/null").output().unwrap();
    assert!(run.status.success() && run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(!mentions(&program, SOCKET_VARIABLE) && !mentions(&program, "put.begun"));
}

#[test]
fn in_a_debug_build_a_fault_point_is_code_and_its_name_is_found() {
    let folder = Folder::new("debug");
    let (_, output) = build(&folder.0, IN_A_CONSTANT, true);
    assert!(!output.status.success(), "a point that may stop a process is no constant");
    let (program, output) = build(&folder.0, WHILE_IT_RUNS, true);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(mentions(&program, SOCKET_VARIABLE) && mentions(&program, "put.begun"));
}

#[test]
fn no_program_of_a_release_folder_mentions_a_fault_point() {
    let Some(folder) = std::env::var_os(PROGRAMS_VARIABLE) else {
        let test = "no_program_of_a_release_folder_mentions_a_fault_point";
        eprintln!("skipped: {test}: {PROGRAMS_VARIABLE} names no folder of a release build");
        return;
    };
    for program in ["zipline", "zipline-queue-proxy"].map(|name| Path::new(&folder).join(name)) {
        assert!(!mentions(&program, SOCKET_VARIABLE) && !mentions(&program, "put.begun"), "{}", program.display());
    }
}
