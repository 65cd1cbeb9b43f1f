//! The autoscaler's settings for all services: flags of the platform, and ConfigMap `config-autoscaler` over them.

use std::collections::BTreeMap;

use zipline_core::kpa::{AutoscalerConfig, SettingErrors};

use super::fields::{Field, Fields};
use super::node::Place;
use super::report::{Report, without_name};

/// Settings of the autoscaler, with the texts they were read from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AutoscalerSettings {
    flags: BTreeMap<String, String>,
    config_map: BTreeMap<String, String>,
    config: AutoscalerConfig,
}

impl AutoscalerSettings {
    /// The settings a platform is started with, named as the ConfigMap's keys are.
    ///
    /// # Errors
    /// Every value that can't be used, and every name that is not a setting.
    pub fn from_flags(flags: BTreeMap<String, String>) -> Result<Self, UnusableSettings> {
        let (settings, unknown) = Self::merge(flags, BTreeMap::new())?;
        if unknown.is_empty() { Ok(settings) } else { Err(UnusableSettings::Unknown(unknown)) }
    }

    /// What they mean.
    pub fn config(&self) -> &AutoscalerConfig {
        &self.config
    }

    fn merge(
        flags: BTreeMap<String, String>,
        config_map: BTreeMap<String, String>,
    ) -> Result<(Self, Vec<String>), SettingErrors> {
        // The platform's own flags are its owner's last word for this run.
        let merged = config_map.iter().chain(&flags).map(|(key, value)| (key.as_str(), value.as_str()));
        let (config, unknown) = AutoscalerConfig::from_settings(merged)?;
        Ok((Self { flags, config_map, config }, unknown))
    }
}

/// Why the autoscaler's settings can't be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UnusableSettings {
    /// Values that can't be read, lie out of range, or contradict each other.
    #[error(transparent)]
    Values(#[from] SettingErrors),
    /// Names that are no settings.
    #[error("no such setting of the autoscaler: {}", .0.join(", "))]
    Unknown(Vec<String>),
}

/// Reads what stands beside `apiVersion` and `kind` of a ConfigMap.
pub(super) fn read(mut document: Fields, over: &AutoscalerSettings, report: &mut Report) -> Option<AutoscalerSettings> {
    let place = document.place;
    let name = document.require("metadata", report).and_then(|field| read_name(field, report));
    let data = document.take("data").and_then(|field| field.fields(report));
    document.refuse("binaryData", "use `data`", report);
    document.ignore("immutable", "the platform writes no ConfigMap", report);
    document.finish(report);
    let name = name?;
    if name != "config-autoscaler" {
        let hint = "of Knative's ConfigMaps only config-autoscaler means something here";
        let message = format!("ConfigMap {name} is not supported on the local platform");
        report.error_with_hint("metadata.name", place, message, hint);
        return None;
    }
    let mut values = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (key, field) in data.map(Fields::into_entries).unwrap_or_default() {
        places.insert(key.clone(), (field.path.clone(), field.place));
        // The stock ConfigMap carries its documentation under this key.
        if key == "_example" {
            report.warn(&field.path, field.place, "is ignored: it is documentation");
        } else if over.flags.contains_key(&key) {
            report.warn(&field.path, field.place, "is ignored: the platform was started with a value of its own for it");
        } else if let Some(value) = field.text(report) {
            values.insert(key, value);
        }
    }
    let at = |name: &str| places.get(name).cloned().unwrap_or_else(|| (name.to_owned(), Place::default()));
    match AutoscalerSettings::merge(over.flags.clone(), values) {
        Ok((settings, unknown)) => {
            for name in unknown {
                let (path, place) = at(&name);
                report.warn(&path, place, "is ignored: the local platform has no such setting");
            }
            Some(settings)
        }
        Err(errors) => {
            for error in errors.0 {
                let (path, place) = at(error.name());
                report.error(&path, place, without_name(&error.to_string(), error.name()));
            }
            None
        }
    }
}

fn read_name(field: Field, report: &mut Report) -> Option<String> {
    let mut fields = field.fields(report)?;
    let name = fields.require("name", report).and_then(|field| field.text(report));
    for ignored in ["namespace", "labels", "annotations"] {
        fields.ignore(ignored, "there is one platform", report);
    }
    fields.finish(report);
    name
}
