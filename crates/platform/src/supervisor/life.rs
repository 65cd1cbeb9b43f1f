//! The life of an instance, from its first process to its last.
//!
//! ```text
//!   start queue-proxy ─► start function ─► both run ──── asked to stop ────► drain ─► ended
//!        ▲                    ▲              │   │
//!        │                    └─── back-off ─┘   │ function ended
//!        └───────────────── back-off ────────────┘ queue-proxy ended: the function is killed too, since
//!                                                  nothing can reach it and its objects are gone
//! ```

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use zipline_contract::settings;
use zipline_sys::Signal;
use zipline_sys::child::{Output, Spec};

use super::backoff::Backoff;
use super::environment::{self, Identity};
use super::host::{Host, LaunchError};
use super::instance::{Instance, Phase, StopMode};
use super::log::{self, Stream};
use super::process::{OutputOf, Process};
use super::{orphans, readiness};

/// How long processes get between the first signal and SIGKILL when there is no drain, and a function after its drain.
pub(super) const TERM_GRACE: Duration = Duration::from_secs(2);
/// Ends a queue-proxy that has nobody left to wait for: no quiet period, as after SIGTERM.
pub(super) const PROXY_END: Signal = Signal::INT;
/// How long the rest of a process' output may take to arrive after its end.
const OUTPUT_REST: Duration = Duration::from_secs(1);

/// Why one round of an instance's life was over.
enum RoundEnd {
    /// It was asked to stop, and has.
    Stopped,
    /// The queue-proxy ended, or could not be started.
    ProxyLost { lifetime: Duration },
}

impl Instance {
    /// Runs the instance until it was asked to stop and has. Dropping the future kills its processes.
    pub(crate) async fn run(self: Arc<Self>, host: Arc<Host>) {
        let mut backoff = Backoff::default();
        self.counters.started();
        loop {
            let end = self.round(&host).await;
            host.forget_held(self.slot.number);
            match end {
                RoundEnd::Stopped => break,
                RoundEnd::ProxyLost { lifetime } => {
                    let wait = backoff.after_crash(lifetime);
                    self.crashed(&format!("the queue-proxy is started again in {wait:?}"));
                    if timeout(wait, self.asked_to_stop(StopMode::Drain)).await.is_ok() {
                        break;
                    }
                }
            }
        }
        self.set_phase(Phase::Ended, "ended");
    }

    async fn round(&self, host: &Host) -> RoundEnd {
        let began = Instant::now();
        let mut outputs = JoinSet::new();
        let mut proxy = match self.start_proxy(host, &mut outputs).await {
            Ok(proxy) => proxy,
            Err(error) => {
                self.log.say(format!("the queue-proxy did not start: {error}"));
                return RoundEnd::ProxyLost { lifetime: Duration::ZERO };
            }
        };
        self.change(|status| status.proxy_pid = Some(proxy.pid()));
        let mut function = Function::default();
        let end = tokio::select! {
            biased;
            mode = self.asked_to_stop(StopMode::Drain) => Err(mode),
            status = proxy.ended() => Ok(status),
            never = self.keep_function_running(host, &mut function, &mut outputs) => match never {},
            never = readiness::follow(self) => match never {},
        };
        let end = match end {
            Err(mode) => {
                self.wind_down(mode, &mut proxy, function.process.as_mut()).await;
                RoundEnd::Stopped
            }
            Ok(status) => {
                self.set_phase(Phase::Starting, "the queue-proxy ended");
                self.log.say(format!("the queue-proxy ended: {}", in_words(&status)));
                if let Some(process) = function.process.as_mut() {
                    process.signal(Signal::KILL);
                    let _status = process.ended().await;
                }
                RoundEnd::ProxyLost { lifetime: began.elapsed() }
            }
        };
        drop((proxy, function));
        self.change(|status| (status.proxy_pid, status.function_pid) = (None, None));
        orphans::end_all(&self.log).await;
        // Pipes close with their last writer, which is dead by now; one that was handed out of reach must not hold us.
        if timeout(OUTPUT_REST, async { while outputs.join_next().await.is_some() {} }).await.is_err() {
            outputs.abort_all();
        }
        end
    }

    /// Starts the function, and again whenever it ends.
    async fn keep_function_running(
        &self,
        host: &Host,
        function: &mut Function,
        outputs: &mut JoinSet<()>,
    ) -> std::convert::Infallible {
        loop {
            let began = Instant::now();
            match self.start_function(host, outputs).await {
                Ok(process) => {
                    let process = function.process.insert(process);
                    self.change(|status| status.function_pid = Some(process.pid()));
                    let status = process.ended().await;
                    function.process = None;
                    self.change(|status| status.function_pid = None);
                    self.set_phase(Phase::Starting, "the function ended");
                    self.log.say(format!("the function ended: {}", in_words(&status)));
                    orphans::end_all(&self.log).await;
                }
                Err(error) => self.log.say(format!("the function did not start: {error}")),
            }
            let wait = function.backoff.after_crash(began.elapsed());
            self.crashed(&format!("the function is started again in {wait:?}"));
            sleep_until(Instant::now() + wait).await;
        }
    }

    async fn start_proxy(&self, host: &Host, outputs: &mut JoinSet<()>) -> Result<Process, LaunchError> {
        let socket = host.state.instance_socket(self.address);
        let mut spec = Spec::new(&host.proxy_binary);
        spec.env = environment::of_proxy(host, &self.spec, &self.identity(&socket));
        zipline_fault_point::fault_point!("instance.starting");
        let secrets = host.domain.for_proxy(&self.egress_token)?;
        spec.descriptors.push((settings::SECRETS_FD.variable.into(), secrets));
        // A service with a budget of its own has it alone.
        if !self.spec.proxy_settings.contains_key(settings::BUFFER_BYTES.variable) {
            let ((name, value), budget) = host.budget_share(self.slot.number)?;
            spec.env.push((name.into(), value.into()));
            spec.descriptors.push((settings::SHARED_BUDGET_FD.variable.into(), budget));
        }
        self.start(host, spec, |_| Stream::Proxy, outputs).await
    }

    async fn start_function(&self, host: &Host, outputs: &mut JoinSet<()>) -> Result<Process, LaunchError> {
        let directory = &self.spec.function.working_dir;
        if !directory.is_dir() {
            return Err(LaunchError::NoDirectory(directory.clone()));
        }
        let socket = host.state.instance_socket(self.address);
        let (env, command) = environment::of_function(host, &self.spec, &self.identity(&socket));
        let mut command = command.into_iter();
        let program = command.next().unwrap_or_default();
        // A path is taken from the working directory, as in a container; a bare name is looked up in PATH.
        let mut spec = if program.contains('/') { Spec::new(directory.join(program)) } else { Spec::new(program) };
        spec.args = command.map(Into::into).collect();
        spec.env = env;
        spec.directory = Some(directory.clone());
        let stream = |output| match output {
            OutputOf::Stdout => Stream::Stdout,
            OutputOf::Stderr => Stream::Stderr,
        };
        self.start(host, spec, stream, outputs).await
    }

    async fn start(
        &self,
        host: &Host,
        mut spec: Spec,
        stream: impl Fn(OutputOf) -> Stream,
        outputs: &mut JoinSet<()>,
    ) -> Result<Process, LaunchError> {
        (spec.stdout, spec.stderr) = (Output::Pipe, Output::Pipe);
        let mut process = Process::start(&host.spawner, spec).await?;
        for (output, pipe) in process.outputs() {
            outputs.spawn(log::capture(pipe, stream(output), Arc::clone(&self.log)));
        }
        Ok(process)
    }

    fn identity<'i>(&'i self, api_socket: &'i std::path::Path) -> Identity<'i> {
        Identity {
            service: &self.service,
            revision: &self.revision,
            instance: &self.name,
            address: self.address,
            function_port: self.function_port.number,
            api_socket,
            egress_token: &self.egress_token,
        }
    }

    /// Ends both processes as asked; a drain under way turns quick when that is asked for.
    async fn wind_down(&self, mode: StopMode, proxy: &mut Process, function: Option<&mut Process>) {
        zipline_fault_point::fault_point!("instance.stopping");
        if mode == StopMode::Drain {
            tokio::select! {
                biased;
                () = self.drain(proxy) => {}
                _quick = self.asked_to_stop(StopMode::Quick) => {}
            }
        }
        let stop = async |process: &mut Process, signal: Signal, who: &str| {
            let (_status, killed) = process.stop(signal, TERM_GRACE).await;
            if killed {
                self.log.say(format!("{who} did not end within {TERM_GRACE:?} of {signal:?} and was killed"));
            }
        };
        let proxy = stop(proxy, PROXY_END, "the queue-proxy");
        match function {
            Some(function) => {
                tokio::join!(proxy, stop(function, Signal::TERM, "the function"));
            }
            None => proxy.await,
        }
    }

    /// Lets requests end, then what is held be read, each within the revision's timeout.
    ///
    /// Kubernetes would signal at once, and a function that is still working could no longer put what it has worked
    /// out. Here it is known which requests are with it, and that no new ones come.
    async fn drain(&self, proxy: &mut Process) {
        let limit = Duration::from_secs(self.spec.limits.timeout_seconds.into());
        tokio::select! {
            biased;
            _ended = proxy.ended() => return,
            idle = timeout(limit, self.idle()) => if idle.is_err() {
                self.log.say(format!("requests are still going on after {limit:?} (timeoutSeconds) and will be cut"));
            }
        }
        proxy.signal(Signal::TERM);
        if timeout(limit, proxy.ended()).await.is_err() {
            self.log.say(format!("the drain was not over within {limit:?} (timeoutSeconds): what it held is lost"));
            proxy.signal(Signal::KILL);
        }
    }

    /// Waits until it is asked to stop at least as quickly as `mode`, and answers how.
    async fn asked_to_stop(&self, mode: StopMode) -> StopMode {
        let mut stop = self.stop.subscribe();
        loop {
            let asked = *stop.borrow_and_update();
            if let Some(asked) = asked.filter(|asked| *asked >= mode) {
                return asked;
            }
            if stop.changed().await.is_err() {
                // The sender is ours and lives as long as we do.
                std::future::pending::<()>().await;
            }
        }
    }

    fn crashed(&self, reason: &str) {
        self.counters.crashed();
        self.log.say(reason);
        self.change(|status| {
            status.restarts = status.restarts.saturating_add(1);
            if status.phase == Phase::Starting {
                reason.clone_into(&mut status.reason);
            }
        });
    }
}

/// The function of a round: between two lives there is none.
#[derive(Default)]
struct Function {
    process: Option<Process>,
    backoff: Backoff,
}

fn in_words(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("unknown ({error})"),
    }
}
