//! Ours against Knative's: no difference that is not in the list, and no entry of the list that does not differ.

use std::process::Command;

#[test]
fn the_proxy_differs_from_knatives_only_where_the_list_says_so() {
    let compared = Command::new(env!("CARGO_BIN_EXE_zipline-differential")).arg("compare").output().expect("the comparison");
    let told = String::from_utf8_lossy(&compared.stdout).into_owned() + &String::from_utf8_lossy(&compared.stderr);
    assert!(compared.status.success(), "{told}");
}
