//! The Services of the cluster as they are now, followed by a watch.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::Api;
use crate::api::Event;

const PATH: &str = "/api/v1/services";
/// The domain of Services.
pub const DOMAIN: &str = "svc.cluster.local";
/// How many names an `ExternalName` may lead through.
const ALIASES_MAX: usize = 4;

/// What a Service's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Address(Ipv4Addr),
    Alias(String),
    /// It has no address of its own.
    Headless,
}

/// A table that is kept up to date. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Services {
    entries: Arc<RwLock<BTreeMap<String, Entry>>>,
}

impl Services {
    /// The address behind `NAME.NAMESPACE.svc.cluster.local`: none inside where the name is known but has no address, none where
    /// it is not known.
    pub fn address(&self, name: &str) -> Option<Option<Ipv4Addr>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut name = name.trim_end_matches('.').to_ascii_lowercase();
        for _ in 0..ALIASES_MAX {
            match entries.get(&name)? {
                Entry::Address(address) => return Some(Some(*address)),
                Entry::Alias(other) => name = other.trim_end_matches('.').to_ascii_lowercase(),
                Entry::Headless => return Some(None),
            }
        }
        None
    }

    /// Keeps the table up to date, for as long as the API server lets it.
    pub async fn follow(&self, api: &Api) -> Result<()> {
        let mut services = api.follow(PATH);
        loop {
            match services.next().await {
                Event::Begun => self.entries.write().unwrap_or_else(PoisonError::into_inner).clear(),
                Event::Changed(kind, service) => self.see(&kind, &service)?,
            }
        }
    }

    fn see(&self, kind: &str, service: &Value) -> Result<()> {
        let (name, namespace) = (&service["metadata"]["name"], &service["metadata"]["namespace"]);
        let (Some(name), Some(namespace)) = (name.as_str(), namespace.as_str()) else { bail!("not a Service: {service}") };
        let name = format!("{name}.{namespace}.{DOMAIN}");
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if kind == "DELETED" {
            entries.remove(&name);
            return Ok(());
        }
        let spec = &service["spec"];
        let entry = match (spec["externalName"].as_str(), spec["clusterIP"].as_str().and_then(|address| address.parse().ok())) {
            (Some(other), _) if spec["type"] == "ExternalName" => Entry::Alias(other.to_owned()),
            (_, Some(address)) => Entry::Address(address),
            (_, None) => Entry::Headless,
        };
        entries.insert(name, entry);
        Ok(())
    }
}
