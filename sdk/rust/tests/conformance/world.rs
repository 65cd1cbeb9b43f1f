//! Two queue-proxies that share keys, and the function behind one of them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use zipline_sdk::{Client, Config, Endpoint, Server};
use zipline_testkit::{KeyRing, Keys, Proxy, ProxyOptions, Scratch, free_port};

use crate::function;
use crate::stores::Variables;

pub(crate) struct World {
    pub(crate) producer: Client,
    consumer: Client,
    nowhere: Client,
    _function: JoinSet<()>,
    _proxies: [Proxy; 2],
    _scratch: Scratch,
}

impl World {
    /// Starts a world whose clients are made with these variables beside their `ZIPLINE_API`.
    pub(crate) async fn start(environment: &BTreeMap<String, String>, variables: &Variables) -> Result<Self> {
        let scratch = Scratch::new()?;
        let ring = KeyRing::random()?;
        let port = free_port()?;
        let set =
            |options: ProxyOptions| options.envs(environment.iter().map(|(variable, value)| (variable.as_str(), value.as_str())));
        let consumer = set(ProxyOptions::new("consumer", Keys::Inherited(ring.clone())).function(port)).start(&scratch).await?;
        let producer = set(ProxyOptions::new("producer", Keys::Inherited(ring))
            .env("ZIPLINE_INGRESS", consumer.request_address().to_string())
            .env("ZIPLINE_PEERS_KNOWN", "all"))
        .start(&scratch)
        .await?;
        let client = |api: &Path| {
            let api = Endpoint::Unix(api.to_owned()).to_string();
            let variable = |name: &str| if name == "ZIPLINE_API" { Some(api.clone()) } else { variables.get(name).cloned() };
            Config::from_variables(variable).map(Client::new)
        };
        let own = client(consumer.api_path())?;
        let server = Server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), own.clone()).await?;
        let mut function = JoinSet::new();
        let served = own.clone();
        function.spawn(async move {
            server.serve(move |request| function::answer(served.clone(), request), std::future::pending()).await.ok();
        });
        Ok(Self {
            producer: client(producer.api_path())?,
            consumer: own,
            nowhere: client(&scratch.join("nowhere"))?,
            _function: function,
            _proxies: [consumer, producer],
            _scratch: scratch,
        })
    }

    pub(crate) fn client(&self, at: &str) -> Result<&Client> {
        match at {
            "producer" => Some(&self.producer),
            "consumer" => Some(&self.consumer),
            "nowhere" => Some(&self.nowhere),
            _ => None,
        }
        .with_context(|| format!("`{at}` is no place of a world"))
    }
}
