//! Which service a call is for: from a host of the domain, or from the path of `/v1/invoke`.

use std::fmt;

use crate::zipline::problem::Problem;

/// Longest DNS label, so longest service or namespace name.
const LABEL_BYTES_MAX: usize = 63;

/// A service of the cluster or the local platform.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Service {
    /// Its name, a DNS label in lower case.
    pub(crate) name: String,
    /// Its namespace, a DNS label in lower case.
    pub(crate) namespace: String,
}

impl Service {
    /// `NAMESPACE/SERVICE`, as it stands in a reference.
    pub(crate) fn receiver(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Reads `NAME` or `NAME.NAMESPACE`, as they stand in a path of `/v1/invoke`.
    ///
    /// # Errors
    /// `request-invalid` for anything but one or two DNS labels.
    pub(crate) fn from_path(text: &str, own_namespace: &str) -> Result<Self, Problem> {
        let lower = text.to_ascii_lowercase();
        let (name, namespace) = lower.split_once('.').unwrap_or((&lower, own_namespace));
        if is_label(name) && is_label(namespace) {
            Ok(Self { name: name.to_owned(), namespace: namespace.to_owned() })
        } else {
            Err(Problem::invalid(format!("{text:?} is not NAME or NAME.NAMESPACE, each a DNS label")))
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// The names services have here.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    /// What follows `NAME.NAMESPACE.`, in lower case: `svc.cluster.local`, `localhost`.
    suffix: String,
    /// The namespace of this proxy.
    own_namespace: String,
}

impl Domain {
    /// The domain with this suffix, seen from a namespace.
    pub(crate) fn new(suffix: &str, own_namespace: &str) -> Self {
        Self { suffix: suffix.trim_matches('.').to_ascii_lowercase(), own_namespace: own_namespace.to_owned() }
    }

    /// The namespace of this proxy.
    pub(crate) fn own_namespace(&self) -> &str {
        &self.own_namespace
    }

    /// The host by which a service is called.
    pub(crate) fn host(&self, service: &Service) -> String {
        format!("{service}.{}", self.suffix)
    }

    /// The service that a host (without port) names; `None` for every other host.
    ///
    /// `NAME.NAMESPACE` alone could be any name of the Internet (`example.com`); it counts only for the own namespace.
    pub(crate) fn service(&self, host: &str) -> Option<Service> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<&str> = host.splitn(3, '.').collect();
        let (name, namespace, rest) = match labels.as_slice() {
            [name, namespace] => (*name, *namespace, None),
            [name, namespace, rest] => (*name, *namespace, Some(*rest)),
            _ => return None,
        };
        let ours = match rest {
            Some(rest) if rest == self.suffix => true,
            Some("svc") => self.suffix.starts_with("svc."),
            Some(_) => false,
            None => namespace == self.own_namespace,
        };
        (ours && is_label(name) && is_label(namespace))
            .then(|| Service { name: name.to_owned(), namespace: namespace.to_owned() })
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, namespace: &str) -> Option<Service> {
        Some(Service { name: name.into(), namespace: namespace.into() })
    }

    #[test]
    fn in_a_cluster_a_service_has_three_hosts() {
        let domain = Domain::new("svc.cluster.local", "shop");
        for host in ["cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local", "CART.shop.svc.cluster.local."] {
            assert_eq!(domain.service(host), service("cart", "shop"), "{host}");
        }
        assert_eq!(domain.service("cart.other.svc"), service("cart", "other"));
    }

    #[test]
    fn hosts_of_the_world_are_no_services() {
        let domain = Domain::new("svc.cluster.local", "shop");
        for host in [
            "example.com",
            "cart.other",
            "cart",
            "a.b.c.d",
            "cart.shop.svc.example.com",
            "10.0.0.1",
            "[::1]",
            "",
            "cart..svc",
            "-a.shop",
        ] {
            assert_eq!(domain.service(host), None, "{host}");
        }
    }

    #[test]
    fn on_the_local_platform_every_namespace_is_under_localhost() {
        let domain = Domain::new("localhost", "default");
        assert_eq!(domain.service("echo.default.localhost"), service("echo", "default"));
        assert_eq!(domain.service("echo.other.localhost"), service("echo", "other"));
        assert_eq!(domain.service("echo.default"), service("echo", "default"));
        assert_eq!(domain.service("echo.default.svc"), None);
        assert_eq!(domain.service("localhost"), None);
        assert_eq!(service("echo", "default").map(|echo| domain.host(&echo)).as_deref(), Some("echo.default.localhost"));
    }

    #[test]
    fn a_path_names_a_service_of_the_own_or_a_named_namespace() {
        assert_eq!(Service::from_path("echo", "shop").ok(), service("echo", "shop"));
        assert_eq!(Service::from_path("echo.other", "shop").ok(), service("echo", "other"));
        for text in ["", ".", "echo.", ".shop", "echo.shop.svc", "ec_ho", "ec%20ho"] {
            assert!(Service::from_path(text, "shop").is_err(), "{text}");
        }
    }
}
