//! The one layer of an image: a tar archive without owners, times or order of its own.

/// A file or folder of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    path: String,
    mode: u32,
    content: Option<Vec<u8>>,
}

impl Entry {
    /// A folder; `path` is relative to the root.
    pub fn directory(path: &str, mode: u32) -> Self {
        Self { path: path.into(), mode, content: None }
    }

    /// A file; `path` is relative to the root.
    pub fn file(path: &str, mode: u32, content: Vec<u8>) -> Self {
        Self { path: path.into(), mode, content: Some(content) }
    }
}

/// An entry that cannot be in an image.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Not a relative path without `..`.
    #[error("`{0}` is no path inside an image: it has to be relative and without `..`")]
    Path(String),
    /// Two entries with the same path.
    #[error("`{0}` is in the image twice")]
    Twice(String),
    /// The archive could not be made.
    #[error("the layer cannot be written: {0}")]
    Write(#[from] std::io::Error),
}

/// The layer's bytes.
pub(crate) fn tar(entries: &[Entry]) -> Result<Vec<u8>, EntryError> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return Err(EntryError::Twice(twice[0].path.clone()));
    }
    let mut archive = tar::Builder::new(Vec::new());
    for entry in sorted {
        let is_inside =
            !entry.path.starts_with('/') && entry.path.split('/').all(|part| !part.is_empty() && part != ".." && part != ".");
        if !is_inside {
            return Err(EntryError::Path(entry.path.clone()));
        }
        let kind = if entry.content.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory };
        let path = if entry.content.is_some() { entry.path.clone() } else { format!("{}/", entry.path) };
        append(&mut archive, &path, kind, entry.mode, entry.content.as_deref().unwrap_or_default())?;
    }
    Ok(archive.into_inner()?)
}

/// Adds one entry that belongs to root and was made at the beginning of time.
pub(crate) fn append<W: std::io::Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)
}
