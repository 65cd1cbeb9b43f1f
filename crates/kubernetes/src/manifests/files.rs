//! The files under `deploy/`, for whoever applies manifests or charts instead of running `zipline install`.

use std::io;
use std::path::Path;

use serde_json::Value;

use super::{Options, chart, monitoring, objects, yaml};

/// Every generated file, by its path under `deploy/`.
pub fn all() -> Vec<(String, String)> {
    let manifests = yaml::documents(&objects(&Options::default()));
    let kustomization = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n  - zipline.yaml\n";
    let mut files = vec![
        ("manifests/zipline.yaml".to_owned(), manifests),
        ("manifests/kustomization.yaml".to_owned(), kustomization.to_owned()),
        ("monitoring/dashboard.json".to_owned(), pretty(&monitoring::dashboard())),
        ("monitoring/alerts.yaml".to_owned(), yaml::documents(&[monitoring::alerts()])),
    ];
    files.extend(chart::files().into_iter().map(|(path, content)| (format!("chart/{path}"), content)));
    files
}

/// Writes them under this folder.
///
/// # Errors
/// When a file can't be written.
pub fn write(folder: &Path) -> io::Result<Vec<String>> {
    let files = all();
    for (path, content) in &files {
        let path = folder.join(path);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, content)?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n" // A value is always printable.
}
