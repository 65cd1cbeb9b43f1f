//! What a program is made of, as a CycloneDX document: every crate that is compiled into it, Rust's standard library and the C library.
//!
//! Made from `cargo metadata` for one target, without development and build dependencies; checksums are those of the lock file.
//! The document bears neither a time nor a random number, so that one state gives one document.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cargo;

/// The document for one program.
pub(crate) fn of(root: &Path, package: &str, target: &str) -> Result<Vec<u8>> {
    let metadata = metadata(root, target)?;
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).filter_map(|each| Some((each["id"].as_str()?, each))).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).filter_map(|each| Some((each["id"].as_str()?, each))).collect();
    let top = packages.iter().find(|(_, each)| each["name"] == package).map(|(id, _)| *id);
    let top = top.with_context(|| format!("{package} is no package of this workspace"))?;
    let checksums = checksums(root)?;

    let (mut open, mut seen) = (vec![top], BTreeSet::new());
    let mut dependencies = BTreeMap::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let normal: BTreeSet<&str> = nodes.get(id).map(|node| compiled_in(node)).unwrap_or_default();
        open.extend(&normal);
        let on: Vec<String> = normal.iter().filter_map(|id| packages.get(id)).map(|each| purl(each)).collect();
        dependencies.insert(purl(packages[id]), on);
    }
    let mut components: Vec<Value> = seen.iter().filter(|id| **id != top).map(|id| component(packages[id], &checksums)).collect();
    components.extend([standard_library(), libc()].into_iter().flatten());
    components.sort_by_key(|each| each["bom-ref"].to_string());
    let dependencies: Vec<Value> = dependencies.into_iter().map(|(of, on)| json!({ "ref": of, "dependsOn": on })).collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "application", "bom-ref": purl(packages[top]), "name": package, "version": packages[top]["version"] } },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(format!("{document:#}\n").into_bytes())
}

fn metadata(root: &Path, target: &str) -> Result<Value> {
    let output = Command::new(cargo())
        .current_dir(root)
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", target])
        .output()
        .context("starting cargo metadata")?;
    serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The packages that a node compiles in: not what only its tests or its build script use.
fn compiled_in(node: &Value) -> BTreeSet<&str> {
    list(&node["deps"])
        .filter(|dep| list(&dep["dep_kinds"]).any(|kind| kind["kind"].is_null()))
        .filter_map(|dep| dep["pkg"].as_str())
        .collect()
}

fn purl(package: &Value) -> String {
    format!("pkg:cargo/{}@{}", package["name"].as_str().unwrap_or_default(), package["version"].as_str().unwrap_or_default())
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (package["name"].as_str().unwrap_or_default(), package["version"].as_str().unwrap_or_default());
    let mut component =
        json!({ "type": "library", "bom-ref": purl(package), "purl": purl(package), "name": name, "version": version });
    if let Some(licence) = package["license"].as_str() {
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// Rust's own library, which is linked in with the compiler's version.
fn standard_library() -> Option<Value> {
    let output = Command::new("rustc").arg("-V").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split(' ').nth(1)?.to_owned();
    Some(json!({
        "type": "library", "bom-ref": format!("rust-std@{version}"), "name": "rust-std", "version": version,
        "licenses": [{ "expression": "MIT OR Apache-2.0" }],
    }))
}

/// The C library that is linked in, if the system says which.
fn libc() -> Option<Value> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.trim().strip_prefix("glibc ")?.to_owned();
    Some(json!({
        "type": "library", "bom-ref": format!("glibc@{version}"), "name": "glibc", "version": version,
        "licenses": [{ "expression": "LGPL-2.1-or-later" }],
    }))
}

/// Checksums of the lock file by name and version.
fn checksums(root: &Path) -> Result<BTreeMap<(String, String), String>> {
    let text = std::fs::read_to_string(root.join("Cargo.lock")).context("Cargo.lock")?;
    let mut found = BTreeMap::new();
    for block in text.split("[[package]]") {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(checksum)) = (field("name"), field("version"), field("checksum")) {
            found.insert((name, version), checksum);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_what_is_compiled_in_with_licence_and_checksum_and_nothing_else() {
        let root = crate::root().unwrap();
        let target = "x86_64-unknown-linux-gnu";
        let written = of(&root, "zipline-queue-proxy", target).unwrap();
        assert_eq!(of(&root, "zipline-queue-proxy", target).unwrap(), written, "the same state gives the same list");
        let document: Value = serde_json::from_slice(&written).unwrap();
        let find = |name: &str| list(&document["components"]).find(|each| each["name"] == name);
        let hyper = find("hyper").expect("it serves");
        assert_eq!(hyper["licenses"][0]["expression"], "MIT");
        assert_eq!(hyper["hashes"][0]["content"].as_str().map(str::len), Some(64));
        assert!(find("zipline-core").is_some(), "our own crates are in it too");
        assert!(find("proptest").is_none() && find("zipline-testkit").is_none(), "what only tests use is not");
        let top = list(&document["dependencies"])
            .find(|each| each["ref"].as_str().is_some_and(|of| of.contains("zipline-queue-proxy")));
        assert!(list(&top.unwrap()["dependsOn"]).any(|on| on.as_str().is_some_and(|on| on.starts_with("pkg:cargo/hyper@"))));
    }
}
