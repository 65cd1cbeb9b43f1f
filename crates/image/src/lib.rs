//! Container images from built programs, without a container engine.
//!
//! An [`Image`] is a list of files and what to run; [`Image::write`] makes one archive of it that is both an OCI image layout and
//! what `docker save` writes, so that `docker load`, `podman load`, `ctr images import`, `skopeo` and `kind load image-archive` all
//! take it. One layer, uncompressed; no base image. The same input gives the same bytes: files are sorted, belong to root, and
//! bear no time.
//!
//! [`Static`] looks into a program and refuses one that would need a loader or shared libraries, which an image from scratch has not.
//!
//! Not here: building the programs, compressing layers (registries do it on push), images for several platforms in one archive.
#![forbid(unsafe_code)]

mod archive;
mod elf;
mod layer;

pub use archive::{Digest, Platform, Written};
pub use elf::{NotStatic, Static};
pub use layer::{Entry, EntryError};

use std::collections::BTreeMap;

/// Who runs in our images: the id that Knative's own images and most policies know as "nonroot".
pub const NONROOT: u32 = 65532;

/// An image to be written.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name with a tag: `registry/repository:tag`.
    pub name: String,
    /// What it runs on.
    pub platform: Platform,
    /// Program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments where whoever starts it gives none.
    pub arguments: Vec<String>,
    /// User id, also the group.
    pub user: u32,
    /// `NAME=VALUE` of its environment.
    pub environment: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What lies in it.
    pub entries: Vec<Entry>,
}

impl Image {
    /// An image from scratch that runs one program as [`NONROOT`]: the program at `/NAME`, an `/etc/passwd` that knows the user,
    /// and an empty `/tmp`.
    pub fn of_program(name: &str, program_name: &str, program: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            platform: Platform::AMD64,
            entrypoint: vec![format!("/{program_name}")],
            arguments: Vec::new(),
            user: NONROOT,
            environment: Vec::new(),
            labels: BTreeMap::new(),
            entries: vec![
                Entry::directory("etc", 0o755),
                Entry::file("etc/passwd", 0o644, passwd().into_bytes()),
                Entry::directory("tmp", 0o1777),
                Entry::file(program_name, 0o755, program),
            ],
        }
    }
}

fn passwd() -> String {
    format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{NONROOT}:{NONROOT}:nonroot:/tmp:/sbin/nologin\n")
}
