//! The archive: blobs by digest, with the two indexes that readers look for.

use std::fmt;
use std::io::Write;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::layer::{self, append};
use crate::{EntryError, Image};

/// Operating system and processor, in the words of the OCI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Processor: `amd64`, `arm64`.
    pub architecture: &'static str,
}

impl Platform {
    /// Linux on x86-64.
    pub const AMD64: Self = Self { architecture: "amd64" };
    /// Linux on 64-bit ARM.
    pub const ARM64: Self = Self { architecture: "arm64" };
}

/// SHA-256 of a blob, written `sha256:…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest(String);

impl Digest {
    fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Digest of the image's manifest: what `image@sha256:…` names.
    pub manifest: Digest,
    /// Bytes of the one layer.
    pub layer_bytes: u64,
}

impl Image {
    /// Writes the image as one archive.
    ///
    /// # Errors
    /// An entry has no place in an image, or `out` can't be written.
    pub fn write(&self, out: impl Write) -> Result<Written, EntryError> {
        let layer = layer::tar(&self.entries)?;
        let layer_digest = Digest::of(&layer);
        let config = self.config(&layer_digest).to_string().into_bytes();
        let config_digest = Digest::of(&config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer_digest, &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let manifest_digest = Digest::of(&manifest);

        let mut archive = tar::Builder::new(out);
        for folder in ["blobs/", "blobs/sha256/"] {
            append(&mut archive, folder, tar::EntryType::Directory, 0o755, &[])?;
        }
        let mut file = |path: &str, content: &[u8]| append(&mut archive, path, tar::EntryType::Regular, 0o644, content);
        file(&layer_digest.path(), &layer)?;
        file(&config_digest.path(), &config)?;
        file(&manifest_digest.path(), &manifest)?;
        file("index.json", self.index(&manifest_digest, &manifest).to_string().as_bytes())?;
        file("manifest.json", self.saved(&config_digest, &layer_digest).to_string().as_bytes())?;
        file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.into_inner()?.flush()?;
        Ok(Written { manifest: manifest_digest, layer_bytes: layer.len() as u64 })
    }

    fn config(&self, layer: &Digest) -> Value {
        json!({
            "architecture": self.platform.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "User": format!("{user}:{user}", user = self.user),
                "Env": self.environment,
                "Entrypoint": self.entrypoint,
                "Cmd": self.arguments,
                "WorkingDir": "/",
                "Labels": self.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [layer.to_string()] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "zipline-image" }],
        })
    }

    /// The index of an OCI image layout.
    fn index(&self, digest: &Digest, manifest: &[u8]) -> Value {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", digest, manifest);
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        entry["annotations"] = json!({ "io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag });
        entry["platform"] = json!({ "architecture": self.platform.architecture, "os": "linux" });
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry] })
    }

    /// The index that `docker save` writes.
    fn saved(&self, config: &Digest, layer: &Digest) -> Value {
        json!([{ "Config": config.path(), "RepoTags": [self.name], "Layers": [layer.path()] }])
    }
}

fn descriptor(media_type: &str, digest: &Digest, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": blob.len() })
}
