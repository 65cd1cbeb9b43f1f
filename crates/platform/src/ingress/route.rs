//! Which revision a request is for.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use http::{HeaderMap, Uri, header};
use thiserror::Error;
use zipline_contract::headers::{KNATIVE_SERVING_NAMESPACE, KNATIVE_SERVING_REVISION};

use crate::manifest::ServiceName;
use crate::revision::Revision;

/// What may follow `NAME.NAMESPACE` in a host, the longest first: the local platform's own domain, and those under
/// which the same service is known in Kubernetes.
const DOMAINS: [&str; 4] = [".svc.cluster.local", ".localhost", ".svc", ""];

/// Why a request leads nowhere.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum NoRoute {
    #[error("the request names no host")]
    NoHost,
    #[error("host `{0}` is no service's: one has the form NAME.NAMESPACE.localhost")]
    NotAService(String),
    #[error("host `{host}`: there is no service {service}")]
    NoService { host: String, service: ServiceName },
    #[error("there is no revision {revision} in namespace {namespace}")]
    NoRevision { namespace: String, revision: String },
}

/// Services and the revisions their requests go to.
#[derive(Default)]
pub(crate) struct Routes {
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    services: BTreeMap<ServiceName, Arc<Revision>>,
    /// All revisions that have instances or may get some, routed or not.
    revisions: Vec<Arc<Revision>>,
}

impl Routes {
    /// The revision that a request is for: by Knative's headers where both are there, else by host.
    pub(crate) fn find(&self, uri: &Uri, headers: &HeaderMap) -> Result<Arc<Revision>, NoRoute> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let (Some(namespace), Some(revision)) = (text(KNATIVE_SERVING_NAMESPACE), text(KNATIVE_SERVING_REVISION)) {
            let tables = self.read();
            let found = tables.revisions.iter().find(|known| known.name == revision && known.service.namespace == namespace);
            return found
                .cloned()
                .ok_or_else(|| NoRoute::NoRevision { namespace: namespace.to_owned(), revision: revision.to_owned() });
        }
        let host = host(uri, headers).ok_or(NoRoute::NoHost)?;
        let Some(service) = service_of(host) else { return Err(NoRoute::NotAService(host.to_owned())) };
        let found = self.read().services.get(&service).cloned();
        found.ok_or_else(|| NoRoute::NoService { host: host.to_owned(), service })
    }

    /// The revision that a service's requests go to.
    pub(crate) fn of(&self, service: &ServiceName) -> Option<Arc<Revision>> {
        self.read().services.get(service).cloned()
    }

    /// Makes a revision known, so that headers can name it.
    pub(crate) fn add(&self, revision: &Arc<Revision>) {
        self.write().revisions.push(Arc::clone(revision));
    }

    /// Sends a service's requests to a revision, and answers which one they went to before.
    pub(crate) fn lead(&self, service: &ServiceName, revision: &Arc<Revision>) -> Option<Arc<Revision>> {
        self.write().services.insert(service.clone(), Arc::clone(revision))
    }

    /// Forgets a revision that is over.
    pub(crate) fn forget(&self, revision: &Revision) {
        self.write().revisions.retain(|known| !std::ptr::eq(Arc::as_ptr(known), revision));
    }

    /// Forgets a service: from here on its host is unknown.
    pub(crate) fn close(&self, service: &ServiceName) {
        self.write().services.remove(service);
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        // Every step is one insertion or removal.
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host a request names, with its port if there is one.
pub(super) fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    authority.or_else(|| headers.get(header::HOST)?.to_str().ok()).filter(|host| !host.is_empty())
}

/// The service that a host names, if it has the form of one.
fn service_of(host: &str) -> Option<ServiceName> {
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let stem = DOMAINS.iter().find_map(|domain| name.strip_suffix(domain))?;
    let (service, namespace) = stem.split_once('.')?;
    let sound = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    (sound(service) && sound(namespace)).then(|| ServiceName { namespace: namespace.to_owned(), name: service.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_host_with_or_without_port_and_domain() {
        let known = [
            "shop.jobs.localhost",
            "shop.jobs.localhost:8080",
            "SHOP.jobs.localhost.",
            "shop.jobs",
            "shop.jobs.svc.cluster.local",
        ];
        for host in known {
            assert_eq!(service_of(host).map(|service| service.to_string()).as_deref(), Some("jobs/shop"), "{host}");
        }
        for host in ["localhost", "shop.localhost", "a.b.c.localhost", "127.0.0.1:8080", ".jobs.localhost", "sh op.jobs"] {
            assert_eq!(service_of(host), None, "{host}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_named() {
        let routes = Routes::default();
        let find = |uri: &'static str, name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, http::HeaderValue::from_static(value));
            routes.find(&Uri::from_static(uri), &headers).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(find("/", "host", "shop.jobs.localhost:80").contains("there is no service jobs/shop"));
        assert!(find("http://shop.other.localhost/", "host", "ignored").contains("other/shop"));
        assert!(find("/", "host", "example.com").contains("`example.com`"));
        assert!(find("/", "accept", "x").contains("names no host"));
    }
}
