//! A few fixed seeds of the harness, as it is run by hand: `cargo xtask faults` runs many.

use std::process::Command;

#[test]
fn of_sixty_faults_many_happen_and_nothing_is_lost_leaked_or_hung() {
    let harness = env!("CARGO_BIN_EXE_zipline-faults");
    let output = Command::new(harness).args(["--runs", "6", "--faults", "10", "--seed", "1", "--json"]).output().unwrap();
    let (said, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaints}");
    let document: serde_json::Value = serde_json::from_str(&said).unwrap();
    let number = |name: &str| document[name].as_u64().unwrap();
    // About two in three meet work that passes their point; which, the timing of two processes decides.
    assert!(number("faults") >= 20, "{said}");
    assert!(number("delivered") > 0 && number("named_errors") > 0, "{said}");
    assert_eq!([number("lost"), number("leaked"), number("hung"), number("duplicates")], [0; 4], "{said}\n{complaints}");
}
