//! One process that is steered: this one.
#![cfg(debug_assertions)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;

use zipline_fault_point::{SOCKET_VARIABLE, enlist, fault_point, wall_shift_ms};

/// Names the socket to the test run as the steered process.
fn steered() -> bool {
    std::env::var_os(SOCKET_VARIABLE).is_some()
}

#[test]
fn a_process_stands_where_it_was_armed_until_it_is_let_go() {
    if steered() {
        enlist("itself");
        for _ in 0..3 {
            fault_point!("pull.block");
        }
        println!("clock {}", wall_shift_ms());
        return;
    }
    let path = std::env::temp_dir().join(format!("zlf-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_stands_where_it_was_armed_until_it_is_let_go", "--nocapture"])
        .env(SOCKET_VARIABLE, &path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut process, _) = listener.accept().unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines = lines_of(&process);
    assert_eq!(lines.recv().unwrap(), format!("hello {} itself", child.id()));
    process.write_all(b"arm pull.block 2\nclock -5000\nready\n").unwrap();
    assert_eq!(lines.recv().unwrap(), "clocked");
    assert_eq!(lines.recv().unwrap(), "reached pull.block");
    assert!(child.try_wait().unwrap().is_none(), "it stands there");
    process.write_all(b"go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("clock -5000"));
    assert!(lines.recv().is_err(), "it passed the point three times and stood there once");
}

fn lines_of(process: &UnixStream) -> mpsc::Receiver<String> {
    let reader = BufReader::new(process.try_clone().unwrap());
    let (lines, received) = mpsc::channel();
    std::thread::spawn(move || reader.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    received
}
