//! The client proxy: a queue-proxy without a function, through which everything outside of instances comes in.
//!
//! It is the producer of what `zipline object put` and `curl` put, with the shared budget and a quiet life: when it
//! ends it is started again, and what it held is lost, which is logged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use zipline_contract::{doors, settings};
use zipline_sys::child::{Output, Spec};

use super::backoff::Backoff;
use super::environment;
use super::host::{Host, LaunchError};
use super::life::{PROXY_END, TERM_GRACE};
use super::log::{self, InstanceLog, Stream};
use super::process::Process;
use super::secrets;
use crate::http_client::{self, Ask};
use crate::shutdown::Shutdown;

/// How long it may take to open its doors.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Why there is no client proxy.
#[derive(Debug, Error)]
pub(crate) enum ClientProxyError {
    #[error("the client proxy did not start: {0}")]
    Launch(#[from] LaunchError),
    #[error("the client proxy did not open its doors within {START_LIMIT:?}; its last words: {last_words}")]
    NotReady { last_words: String },
}

/// The client proxy of one platform.
pub(crate) struct ClientProxy {
    host: Arc<Host>,
    egress_token: String,
    pub(crate) log: Arc<InstanceLog>,
}

impl ClientProxy {
    pub(crate) fn new(host: Arc<Host>) -> Result<Self, LaunchError> {
        let log = InstanceLog::open("client-proxy".to_owned(), host.state.logs_dir().join("client-proxy.log"));
        Ok(Self { host, egress_token: secrets::egress_token()?, log })
    }

    /// Starts it, waits until its doors are open, and answers what keeps it running until `stop` says otherwise.
    pub(crate) async fn start(
        self: Arc<Self>,
        stop: Shutdown,
    ) -> Result<impl Future<Output = ()> + Send + 'static, ClientProxyError> {
        let mut outputs = JoinSet::new();
        let mut process = self.launch(&mut outputs).await?;
        let ready = tokio::select! {
            ready = timeout(START_LIMIT, self.opened()) => ready.is_ok(),
            _ended = process.ended() => false,
        };
        if !ready {
            drop(process);
            // What it said is in its pipes, which are closed by now.
            while outputs.join_next().await.is_some() {}
            let lines: Vec<String> = self.log.tail(5).into_iter().map(|line| line.text).collect();
            return Err(ClientProxyError::NotReady { last_words: lines.join(" / ") });
        }
        Ok(self.keep_running(process, outputs, stop))
    }

    async fn keep_running(self: Arc<Self>, mut process: Process, mut outputs: JoinSet<()>, mut stop: Shutdown) {
        let mut backoff = Backoff::default();
        let mut began = Instant::now();
        loop {
            let status = tokio::select! {
                biased;
                () = stop.begun() => {
                    let (_status, killed) = process.stop(PROXY_END, TERM_GRACE).await;
                    if killed {
                        self.log.say(format!("the client proxy did not end within {TERM_GRACE:?} of {PROXY_END:?} and was killed"));
                    }
                    return;
                }
                status = process.ended() => status,
            };
            self.host.forget_held(Host::client_slot());
            self.log.say(format!("the client proxy ended ({status:?}); what it held is lost"));
            tracing::warn!(?status, "the client proxy ended and is started again; what it held is lost");
            process = loop {
                let wait = backoff.after_crash(began.elapsed());
                if timeout(wait, stop.begun()).await.is_ok() {
                    return;
                }
                began = Instant::now();
                match self.launch(&mut outputs).await {
                    Ok(process) => break process,
                    Err(error) => self.log.say(error.to_string()),
                }
            };
        }
    }

    async fn launch(&self, outputs: &mut JoinSet<()>) -> Result<Process, LaunchError> {
        let host = &self.host;
        let address = host.client_address();
        let mut env: BTreeMap<String, String> = host.proxy_environment(address, &host.state.client_socket());
        let own = [
            (settings::ROLE.variable, "client".to_owned()),
            ("SERVING_POD", "client".to_owned()),
            ("SERVING_POD_IP", address.to_string()),
            ("SERVING_NAMESPACE", "default".to_owned()),
        ];
        env.extend(own.map(|(name, value)| (name.to_owned(), value)));
        let ((name, value), budget) = host.budget_share(Host::client_slot())?;
        env.insert(name, value);
        let mut spec = Spec::new(&host.proxy_binary);
        spec.env = environment::into_environment(env);
        spec.descriptors = vec![
            (settings::SECRETS_FD.variable.into(), host.domain.for_proxy(&self.egress_token)?),
            (settings::SHARED_BUDGET_FD.variable.into(), budget),
        ];
        (spec.stdout, spec.stderr) = (Output::Pipe, Output::Pipe);
        let mut process = Process::start(&host.spawner, spec).await?;
        for (_, pipe) in process.outputs() {
            outputs.spawn(log::capture(pipe, Stream::Proxy, Arc::clone(&self.log)));
        }
        Ok(process)
    }

    async fn opened(&self) {
        let admin = (self.host.client_address(), doors::ADMIN).into();
        loop {
            let answered = http_client::ask(Ask::get(admin, "/zipline/status")).await;
            if answered.is_ok_and(|answer| answer.status.is_success()) && self.host.state.client_socket().exists() {
                return;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}
