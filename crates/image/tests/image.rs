//! What is in the archive, and that it is the same each time.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::Value;
use zipline_image::{Entry, EntryError, Image, NotStatic, Static};

fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        found.insert(path, content);
    }
    found
}

fn json(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
    serde_json::from_slice(&files[path]).unwrap()
}

fn blob(digest: &Value) -> String {
    format!("blobs/sha256/{}", digest.as_str().unwrap().strip_prefix("sha256:").unwrap())
}

fn image() -> Image {
    Image::of_program("dev.local/greeter:1", "greeter", b"a program".to_vec())
}

#[test]
fn two_writings_give_the_same_bytes_whatever_the_order_of_the_files() {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let written = image().write(&mut first).unwrap();
    let mut reordered = image();
    reordered.entries.reverse();
    assert_eq!(reordered.write(&mut second).unwrap(), written);
    assert_eq!(first, second);
}

#[test]
fn both_indexes_lead_to_a_layer_with_the_program_and_a_user_without_rights() {
    let mut archive = Vec::new();
    let written = image().write(&mut archive).unwrap();
    let files = files(&archive);

    let entry = &json(&files, "index.json")["manifests"][0];
    assert_eq!(entry["annotations"]["io.containerd.image.name"], "dev.local/greeter:1");
    assert_eq!(entry["digest"], written.manifest.to_string());
    let manifest = json(&files, &blob(&entry["digest"]));
    let saved = json(&files, "manifest.json");
    assert_eq!(saved[0]["RepoTags"][0], "dev.local/greeter:1");
    assert_eq!(saved[0]["Config"], blob(&manifest["config"]["digest"]));
    assert_eq!(saved[0]["Layers"][0], blob(&manifest["layers"][0]["digest"]));

    let config = json(&files, &blob(&manifest["config"]["digest"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], "/greeter");
    assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    let layer = &files[&blob(&manifest["layers"][0]["digest"])];
    assert_eq!(layer.len() as u64, written.layer_bytes);
    let mut seen = Vec::new();
    for entry in tar::Archive::new(layer.as_slice()).entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
        seen.push((entry.path().unwrap().to_string_lossy().into_owned(), header.mode().unwrap()));
    }
    let expected = [("etc/", 0o755), ("etc/passwd", 0o644), ("greeter", 0o755), ("tmp/", 0o1777)];
    assert_eq!(seen, expected.map(|(path, mode)| (path.to_owned(), mode)));
}

#[test]
fn paths_that_leave_the_image_or_stand_twice_are_refused() {
    for path in ["/etc/passwd", "../escape", "a//b", ""] {
        let mut image = image();
        image.entries.push(Entry::file(path, 0o644, Vec::new()));
        assert!(matches!(image.write(Vec::new()), Err(EntryError::Path(_))), "{path}");
    }
    let mut image = image();
    image.entries.push(Entry::file("greeter", 0o644, Vec::new()));
    assert!(matches!(image.write(Vec::new()), Err(EntryError::Twice(path)) if path == "greeter"));
}

#[test]
fn a_program_that_asks_for_a_loader_is_no_static_one() {
    // This test itself is linked as programs are by default.
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(Static::check(&own), Err(NotStatic::Loader));
    assert_eq!(Static::check(b"#!/bin/sh\n"), Err(NotStatic::NotElf));
    for cut in [4, 63, 64, 100] {
        assert!(Static::check(&own[..cut]).is_err(), "cut after {cut} bytes");
    }
}
