//! An ingress: routes become ready, and requests for a service's host reach one of its revisions.
//!
//! Follows Knative's `Ingress` objects, tells each that it is programmed, and forwards by host: to the Service of a split chosen by its
//! percentage, with the headers that the split asks for. Bodies stream both ways; nothing is sent twice. HTTP/1.1 and h2c.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::services::{DOMAIN, Services};
use crate::Api;
use crate::api::Event;

/// The class of ingresses that are ours; `config-network` names it.
pub const CLASS: &str = "zipline-e2e.ingress.networking.knative.dev";
/// The Service in front of this, in Knative's own namespace.
pub const SERVICE: &str = "zipline-e2e-ingress";
const PATH: &str = "/apis/networking.internal.knative.dev/v1alpha1/ingresses";
/// Port of revisions' Services that speak h2c; the other, 80, speaks HTTP/1.1.
const PORT_H2C: u64 = 81;

type Upstream = Client<HttpConnector, Incoming>;

/// Serves at port 80 of an address.
pub async fn serve(api: Api, address: Ipv4Addr) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((address, 80))).await.context("the ingress' port")?;
    let proxy = Arc::new(Proxy::new());
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    let proxy = Arc::clone(&proxy);
                    connections.spawn(async move {
                        let service = service_fn(|request| {
                            let proxy = Arc::clone(&proxy);
                            async move { Ok::<_, Infallible>(proxy.forward(request).await) }
                        });
                        // A connection that breaks is its client's business.
                        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    };
    tokio::select! {
        result = accept => result,
        result = proxy.services.follow(&api) => result,
        result = follow(&api, &proxy.routes) => result,
    }
}

/// Where one host's requests go.
#[derive(Clone, Debug, PartialEq)]
struct Split {
    service: String,
    port: u64,
    percent: u64,
    headers: Vec<(HeaderName, HeaderValue)>,
}

type Routes = RwLock<BTreeMap<String, Vec<Split>>>;

async fn follow(api: &Api, routes: &Routes) -> Result<()> {
    // Knative's definitions may not be there yet.
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/ingresses.networking.internal.knative.dev";
    let limit = std::time::Duration::from_secs(600);
    let established = |definition: &Value| {
        let conditions = definition["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
    };
    api.until("Knative's ingress definition", limit, definition, established).await?;
    let mut ingresses = api.follow(PATH);
    loop {
        match ingresses.next().await {
            Event::Begun => routes.write().unwrap_or_else(PoisonError::into_inner).clear(),
            Event::Changed(kind, ingress) => see(api, routes, &kind, &ingress).await?,
        }
    }
}

async fn see(api: &Api, routes: &Routes, kind: &str, ingress: &Value) -> Result<()> {
    let rules = || ingress["spec"]["rules"].as_array().into_iter().flatten();
    for rule in rules() {
        let splits = splits(rule);
        let mut routes = routes.write().unwrap_or_else(PoisonError::into_inner);
        for host in rule["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if kind == "DELETED" {
                routes.remove(host)
            } else {
                routes.insert(host.to_owned(), splits.clone())
            };
        }
    }
    let metadata = &ingress["metadata"];
    let is_current = metadata["generation"] == ingress["status"]["observedGeneration"];
    if kind == "DELETED" || is_current || metadata["deletionTimestamp"].is_string() {
        return Ok(());
    }
    // The API server wants a time; nobody reads it.
    let since = &metadata["creationTimestamp"];
    let conditions = ["NetworkConfigured", "LoadBalancerReady", "Ready"]
        .map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": since }));
    let balancer = json!({ "ingress": [{ "domainInternal": format!("{SERVICE}.knative-serving.{DOMAIN}") }] });
    let status = json!({ "status": {
        "observedGeneration": metadata["generation"],
        "conditions": conditions,
        "publicLoadBalancer": balancer,
        "privateLoadBalancer": balancer,
    }});
    let (name, namespace) = (&metadata["name"], &metadata["namespace"]);
    let path = format!(
        "/apis/networking.internal.knative.dev/v1alpha1/namespaces/{}/ingresses/{}/status",
        namespace.as_str().unwrap_or_default(),
        name.as_str().unwrap_or_default()
    );
    if let Err(error) = api.patch(&path, &status).await {
        // It may have gone meanwhile, and if not, its next change comes by here.
        println!("ingress {name}: {error:#}");
    }
    Ok(())
}

/// The splits of a rule's first path that asks for no header.
fn splits(rule: &Value) -> Vec<Split> {
    let mut paths = rule["http"]["paths"].as_array().into_iter().flatten();
    let Some(path) = paths.find(|path| path["headers"].as_object().is_none_or(serde_json::Map::is_empty)) else {
        return Vec::new();
    };
    let each = path["splits"].as_array().into_iter().flatten().map(|split| {
        let text = |field: &str| split[field].as_str().unwrap_or_default().to_owned();
        let headers = [&path["appendHeaders"], &split["appendHeaders"]].into_iter().filter_map(Value::as_object).flatten();
        Split {
            service: format!("{}.{}.{DOMAIN}", text("serviceName"), text("serviceNamespace")),
            port: split["servicePort"].as_u64().unwrap_or(80),
            percent: split["percent"].as_u64().unwrap_or(100),
            headers: headers.filter_map(|(name, value)| Some((name.parse().ok()?, value.as_str()?.parse().ok()?))).collect(),
        }
    });
    each.collect()
}

struct Proxy {
    services: Services,
    routes: Routes,
    http1: Upstream,
    h2c: Upstream,
    turn: AtomicU64,
}

impl Proxy {
    fn new() -> Self {
        let client = || {
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_timer(TokioTimer::new());
            builder
        };
        Self {
            services: Services::default(),
            routes: Routes::default(),
            http1: client().build_http(),
            h2c: client().http2_only(true).build_http(),
            turn: AtomicU64::new(0),
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, hyper::Error>> {
        let host = request
            .headers()
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .or(request.uri().authority().map(|host| host.as_str()));
        let host = host.unwrap_or_default().to_owned();
        let Some(split) = self.choose(host.split(':').next().unwrap_or_default()) else {
            return refusal(StatusCode::NOT_FOUND, &format!("no route for host {host:?}"));
        };
        let Some(Some(address)) = self.services.address(&split.service) else {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("no address for {}", split.service));
        };
        match self.send(request, &host, &split, address).await {
            Ok(response) => response.map(BodyExt::boxed),
            Err(error) => refusal(StatusCode::BAD_GATEWAY, &format!("{}: {error:#}", split.service)),
        }
    }

    async fn send(&self, request: Request<Incoming>, host: &str, split: &Split, address: Ipv4Addr) -> Result<Response<Incoming>> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = Uri::try_from(format!("http://{address}:{}{path}", split.port))?;
        let client = if split.port == PORT_H2C { &self.h2c } else { &self.http1 };
        head.version = if split.port == PORT_H2C { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
        head.headers.insert(HOST, HeaderValue::from_str(host)?);
        for (name, value) in &split.headers {
            head.headers.insert(name, value.clone());
        }
        Ok(client.request(Request::from_parts(head, body)).await?)
    }

    fn choose(&self, host: &str) -> Option<Split> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let splits = routes.get(host)?;
        let mut left = self.turn.fetch_add(1, Ordering::Relaxed) % 100;
        for split in splits {
            match left.checked_sub(split.percent) {
                None => return Some(split.clone()),
                Some(rest) => left = rest,
            }
        }
        splits.last().cloned()
    }
}

fn refusal(status: StatusCode, text: &str) -> Response<BoxBody<Bytes, hyper::Error>> {
    let body = Full::from(format!("ingress: {text}\n")).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
