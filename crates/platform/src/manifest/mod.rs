//! Reads the YAML that `zipline service apply` is given: `serving.knative.dev/v1` Services, and the ConfigMap
//! `config-autoscaler`.
//!
//! The same file deploys to stock Knative; so whatever it says is either carried out here, or refused by path and
//! line, or, where ignoring it does no harm, named in a warning. Nothing is dropped in silence.
//!
//! Not here: what the autoscaling annotations mean (`zipline_core::kpa`), and what is done with a service.

mod annotations;
mod autoscaler;
mod container;
mod fields;
mod node;
mod probe;
mod report;
mod service;

use std::path::Path;

pub(crate) use annotations::check_setting;
pub use autoscaler::{AutoscalerSettings, UnusableSettings};
pub use container::{FunctionSpec, Protocol};
pub use probe::{Probe, ProbeAction};
pub use report::{Finding, ManifestError};
pub use service::{RequestLimits, RevisionSpec, ServiceName, ServiceSpec};

use fields::{Field, Fields};
use node::{Node, Place, Value};
use report::Report;

/// Bytes of one manifest.
pub const MANIFEST_BYTES_MAX: usize = 1024 * 1024;

/// What a file asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// Services, in the order of the file.
    pub services: Vec<ServiceSpec>,
    /// The autoscaler's settings with ConfigMap `config-autoscaler`, if the file has one.
    pub autoscaler: Option<AutoscalerSettings>,
    /// What has no effect here, by name.
    pub warnings: Vec<Finding>,
}

/// Reads a file of one or more documents. Relative working directories are taken from `base_dir`, which is also the
/// working directory of a function that names none. Annotations are read over `autoscaler`, or over the ConfigMap of
/// the same file, wherever it stands in it.
///
/// # Errors
/// Every mistake of the file, by path and line.
pub fn parse_manifest(text: &str, base_dir: &Path, autoscaler: &AutoscalerSettings) -> Result<Manifest, ManifestError> {
    let mut report = Report::default();
    if text.len() > MANIFEST_BYTES_MAX {
        let message = format!("the file has {} bytes, more than {MANIFEST_BYTES_MAX}", text.len());
        report.error("", Place::default(), message);
        return Err(ManifestError { findings: report.errors });
    }
    let documents = serde_saphyr::from_multiple::<Node>(text).map_err(syntax_error)?;
    let documents: Vec<Document> = documents
        .into_iter()
        .filter(|document| document.value != Value::Null)
        .filter_map(|document| Document::open(Field::root(document), &mut report))
        .collect();
    if documents.is_empty() && report.errors.is_empty() {
        report.error("", Place::default(), "the file has no document");
    }
    let mut manifest = Manifest::default();
    let (config_maps, services): (Vec<_>, Vec<_>) = documents.into_iter().partition(|document| document.kind == Kind::ConfigMap);
    for document in config_maps {
        if manifest.autoscaler.is_some() {
            report.error("kind", document.fields.place, "config-autoscaler stands in the file twice");
        }
        manifest.autoscaler = autoscaler::read(document.fields, autoscaler, &mut report);
    }
    let config = manifest.autoscaler.as_ref().unwrap_or(autoscaler).config();
    for document in services {
        let place = document.fields.place;
        let Some(service) = service::read(document.fields, base_dir, config, &mut report) else { continue };
        if manifest.services.iter().any(|other| other.name == service.name) {
            report.error("metadata.name", place, format!("{} stands in the file twice", service.name));
        }
        manifest.services.push(service);
    }
    report.sort();
    if !report.errors.is_empty() {
        return Err(ManifestError { findings: report.errors });
    }
    manifest.warnings = report.warnings;
    Ok(manifest)
}

fn syntax_error(error: serde_saphyr::Error) -> ManifestError {
    let place = error.location().map_or_else(Place::default, |at| Place { line: at.line(), column: at.column() });
    let message = error.without_snippet().to_string();
    ManifestError { findings: vec![Finding { path: String::new(), line: place.line, column: place.column, message, hint: None }] }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    ConfigMap,
}

/// A document of which `apiVersion` and `kind` were read.
struct Document {
    kind: Kind,
    fields: Fields,
}

impl Document {
    fn open(document: Field, report: &mut Report) -> Option<Self> {
        let mut fields = document.fields(report)?;
        let version = fields.require("apiVersion", report).and_then(|field| field.text(report));
        let kind = fields.require("kind", report).and_then(|field| field.text(report));
        let (version, kind) = (version?, kind?);
        match (version.as_str(), kind.as_str()) {
            ("serving.knative.dev/v1", "Service") => Some(Self { kind: Kind::Service, fields }),
            ("v1", "ConfigMap") => Some(Self { kind: Kind::ConfigMap, fields }),
            _ => {
                report.error_with_hint(
                    "kind",
                    fields.place,
                    format!("{version} {kind} is not supported on the local platform"),
                    "serving.knative.dev/v1 Service and the v1 ConfigMap config-autoscaler are",
                );
                None
            }
        }
    }
}
