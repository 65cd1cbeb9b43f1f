//! The running platform that a command speaks to, found by its state directory.

use std::path::PathBuf;

use zipline_sdk::{Client, Config, Endpoint, Stores, Transfer};

use crate::control::Control;
use crate::failure::{Exit, Failure};

/// File of the control API in a state directory.
const CONTROL_SOCKET: &str = "control.sock";
/// The namespace of whoever names none.
const DEFAULT_NAMESPACE: &str = "default";
/// File of the client proxy's local API in a state directory.
const CLIENT_SOCKET: &str = "client.sock";

/// Where the platform keeps its sockets.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    state: PathBuf,
    namespace: String,
}

impl Running {
    pub(crate) fn new(state: PathBuf) -> Self {
        Self { state, namespace: DEFAULT_NAMESPACE.to_owned() }
    }

    /// A cluster's sockets; whoever names no namespace means this one.
    pub(crate) fn of_cluster(state: PathBuf, namespace: String) -> Self {
        Self { state, namespace }
    }

    /// The namespace that was named, or the one that is meant.
    pub(crate) fn namespace<'a>(&'a self, named: &'a Option<String>) -> &'a str {
        named.as_deref().unwrap_or(&self.namespace)
    }

    pub(crate) fn control(&self) -> Control {
        Control::new(self.state.join(CONTROL_SOCKET))
    }

    /// A client of the platform's client proxy: the producer of what is put from outside any instance.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let socket = self.state.join(CLIENT_SOCKET);
        if !socket.exists() {
            let message = format!("no platform runs on the state directory {}", self.state.display());
            return Err(Failure::new(Exit::NotRunning, "not-running", message)
                .hint("start one with `zipline up`, or name its state directory with --state or ZIPLINE_STATE"));
        }
        let stores = Stores::from_variables(|name| std::env::var(name).ok())?;
        Ok(Client::new(Config { stores, ..Config::new(Endpoint::Unix(socket)) }))
    }

    /// As [`client`](Self::client), with the transfer method that the platform is set to.
    pub(crate) async fn calling_client(&self) -> Result<Client, Failure> {
        let client = self.client()?;
        let name = &client.proxy().await?.transfer;
        let transfer = Transfer::from_name(name).ok_or_else(|| {
            let message = format!("the platform's transfer method `{name}` is not one that this program knows");
            Failure::new(Exit::Configuration, "configuration", message).hint("use the `zipline` that started the platform")
        })?;
        Ok(Client::new(Config { transfer, ..client.config().clone() }))
    }

    /// As [`calling_client`](Self::calling_client), with these stores in place of those of the environment.
    pub(crate) async fn client_of(&self, stores: Stores) -> Result<Client, Failure> {
        let client = self.calling_client().await?;
        Ok(Client::new(Config { stores, ..client.config().clone() }))
    }
}
