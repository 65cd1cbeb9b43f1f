//! Where a call goes: to a service, through the ingress if there is one, or to any other host as it stands.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};

use crate::zipline::problem::Problem;
use crate::zipline::service::{Domain, Service};

/// The port of `http`.
const HTTP_PORT: u16 = 80;

/// The paths by which a service is called without a proxy setting.
pub(crate) const INVOKE_PATH: &str = "/v1/invoke/";

/// Where one call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The service, where the host names one.
    pub(crate) service: Option<Service>,
    /// What is dialled, with the path that the other side sees.
    pub(crate) uri: Uri,
    /// The `Host` it is sent with; `None` leaves the request's own.
    pub(crate) host: Option<HeaderValue>,
}

/// Knows the way to services.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    domain: Domain,
    /// `HOST:PORT` of the local platform's ingress.
    ingress: Option<Authority>,
}

impl Routes {
    /// Routes to services of a domain, through an ingress if there is one.
    pub(crate) fn new(domain: Domain, ingress: Option<Authority>) -> Self {
        Self { domain, ingress }
    }

    /// The target of `/v1/invoke/NAME[.NAMESPACE]/path?query`.
    ///
    /// # Errors
    /// `request-invalid` when no service is named.
    pub(crate) fn invoked(&self, uri: &Uri) -> Result<Target, Problem> {
        let rest = uri.path().strip_prefix(INVOKE_PATH).unwrap_or_default();
        let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
        let service = Service::from_path(name, self.domain.own_namespace())?;
        let path = match uri.query() {
            Some(query) => format!("/{path}?{query}"),
            None => format!("/{path}"),
        };
        let path = path.parse::<PathAndQuery>().map_err(|error| Problem::invalid(format!("the path to {service}: {error}")))?;
        let host = self.domain.host(&service);
        let dialled = match &self.ingress {
            Some(ingress) => ingress.clone(),
            None => authority(&host)?,
        };
        Ok(Target { service: Some(service), uri: absolute(dialled, path)?, host: Some(header(&host)?) })
    }

    /// The target of a request in absolute form, as a proxy gets it.
    ///
    /// # Errors
    /// `request-invalid` when it is not for `http`.
    pub(crate) fn proxied(&self, uri: &Uri) -> Result<Target, Problem> {
        let plain = uri.scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("http"));
        let Some(authority) = uri.authority().filter(|_| plain) else {
            return Err(Problem::invalid(format!("{uri}: this proxy takes http:// URLs, and CONNECT for everything else")));
        };
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let service = self.domain.service(authority.host());
        match (&service, &self.ingress) {
            (Some(named), Some(ingress)) if served_by(ingress, authority.port_u16()) => {
                let host = Some(header(&self.domain.host(named))?);
                Ok(Target { service, uri: absolute(ingress.clone(), path)?, host })
            }
            _ => Ok(Target { service, uri: absolute(bare(authority)?, path)?, host: None }),
        }
    }
}

/// Services have one port, and the ingress stands in for it: it is dialled for port 80 and for its own.
fn served_by(ingress: &Authority, port: Option<u16>) -> bool {
    port.is_none_or(|port| port == HTTP_PORT || Some(port) == ingress.port_u16())
}

fn header(host: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(host).map_err(|error| Problem::invalid(format!("host {host:?}: {error}")))
}

/// An authority without user and password, which are not the target's to see.
fn bare(full: &Authority) -> Result<Authority, Problem> {
    match full.as_str().rsplit_once('@') {
        Some((_, host)) => authority(host),
        None => Ok(full.clone()),
    }
}

fn authority(text: &str) -> Result<Authority, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("host {text:?}: {error}")))
}

fn absolute(authority: Authority, path: PathAndQuery) -> Result<Uri, Problem> {
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|error| Problem::invalid(format!("the URL: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Routes {
        Routes::new(Domain::new("svc.cluster.local", "shop"), None)
    }

    fn local() -> Routes {
        Routes::new(Domain::new("localhost", "default"), "127.0.0.1:8080".parse().ok())
    }

    fn seen(target: Result<Target, Problem>) -> Option<(String, String, Option<String>)> {
        let target = target.ok()?;
        let host = target.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("-").to_owned();
        Some((target.uri.to_string(), host, target.service.map(|service| service.receiver())))
    }

    fn expected(uri: &str, host: &str, receiver: Option<&str>) -> Option<(String, String, Option<String>)> {
        Some((uri.into(), host.into(), receiver.map(Into::into)))
    }

    #[test]
    fn an_invocation_goes_to_the_ingress_with_the_services_host() {
        let target = local().invoked(&Uri::from_static("/v1/invoke/echo/a%20b?x=1"));
        assert_eq!(seen(target), expected("http://127.0.0.1:8080/a%20b?x=1", "echo.default.localhost", Some("default/echo")));
        let target = local().invoked(&Uri::from_static("/v1/invoke/echo.other"));
        assert_eq!(seen(target), expected("http://127.0.0.1:8080/", "echo.other.localhost", Some("other/echo")));
    }

    #[test]
    fn without_an_ingress_the_service_itself_is_dialled() {
        let target = cluster().invoked(&Uri::from_static("/v1/invoke/cart/"));
        let host = "cart.shop.svc.cluster.local";
        assert_eq!(seen(target), expected(&format!("http://{host}/"), host, Some("shop/cart")));
    }

    #[test]
    fn a_proxied_service_goes_where_an_invoked_one_goes_or_is_dialled_as_it_stands() {
        for uri in [
            "http://echo.default.localhost/p?q",
            "http://echo.default/p?q",
            "http://echo.default.localhost:8080/p?q",
            "HTTP://echo.default:80/p?q",
        ] {
            let target = local().proxied(&uri.parse().unwrap_or_default());
            assert_eq!(
                seen(target),
                expected("http://127.0.0.1:8080/p?q", "echo.default.localhost", Some("default/echo")),
                "{uri}"
            );
        }
        let target = cluster().proxied(&Uri::from_static("http://cart.shop:8080/"));
        assert_eq!(seen(target), expected("http://cart.shop:8080/", "-", Some("shop/cart")));
        let target = local().proxied(&Uri::from_static("http://echo.default:9000/"));
        assert_eq!(seen(target), expected("http://echo.default:9000/", "-", Some("default/echo")));
    }

    #[test]
    fn every_other_host_is_left_as_it_stands() {
        let target = local().proxied(&Uri::from_static("http://user:secret@example.com:81/a?b"));
        assert_eq!(seen(target), expected("http://example.com:81/a?b", "-", None));
        let target = local().proxied(&Uri::from_static("http://127.0.0.1:9000"));
        assert_eq!(seen(target), expected("http://127.0.0.1:9000/", "-", None));
    }

    #[test]
    fn what_names_no_target_is_refused() {
        assert!(local().proxied(&Uri::from_static("https://example.com/")).is_err());
        assert!(local().proxied(&Uri::from_static("/origin")).is_err());
        assert!(local().invoked(&Uri::from_static("/v1/invoke/")).is_err());
        assert!(local().invoked(&Uri::from_static("/v1/invoke//x")).is_err());
    }
}
