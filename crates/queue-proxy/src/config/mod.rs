//! Everything a queue-proxy is told at its start, as final types.
//!
//! Knative's variables ([`Identity`], [`Sidecar`]) and Zipline's own ([`Zipline`], from the settings table of
//! `zipline_contract`) are read once, through [`Variables`], without side effects: no port is
//! bound, no file opened, no process environment consulted but by [`Variables::of_process`]. Every bad value is found in
//! one go ([`ConfigError`]); an unknown `ZIPLINE_*` name is a warning that names the nearest known one.
//!
//! Nobody else in this program reads the environment.

mod knative;
mod observability;
mod probe;
mod reader;
mod tier;
mod zipline;

pub use knative::{Door, Identity, Sidecar, Timeouts};
pub use observability::{Endpoint, Export, ExportProtocol, Observability, OtelVariables, RequestLog, Tracing, UserMetrics};
pub use probe::{HttpProbe, Probe, ProbeAction};
pub use reader::{ConfigError, ConfigProblem, Variables};
pub use tier::{Access, Spill, Tier};
pub use zipline::{ApiSocket, Congestion, Known, Network, PeerMode, Role, Zipline};

use std::time::Duration;

use reader::Reader;

/// The whole configuration of one queue-proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this instance is.
    pub identity: Identity,
    /// What the revision controller says about the function; `None`: there is no function (the role `client`).
    pub sidecar: Option<Sidecar>,
    /// What Zipline adds.
    pub zipline: Zipline,
    /// What an operator should know but need not act on: unknown names with the nearest known one, and what is not there.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads every variable.
    ///
    /// # Errors
    /// All that is wrong, at once: a required variable that is missing, a value that can't be read or lies outside its range.
    pub fn parse(variables: &Variables) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(variables);
        let zipline = Zipline::read(&mut reader);
        let (identity, sidecar) = match zipline.role {
            Role::Sidecar => (Identity::required(&mut reader), Some(Sidecar::read(&mut reader))),
            Role::Client => (Identity::optional(&mut reader), None),
        };
        let warnings = reader.warnings();
        reader.finish()?;
        Ok(Self { identity, sidecar, zipline, warnings })
    }
}

impl Config {
    /// Limit over the whole drain: `ZIPLINE_GRACE_SECONDS`, or else the revision's timeout, or else Knative's default for it.
    pub fn grace(&self) -> Duration {
        /// Knative's default of `timeoutSeconds`.
        const DEFAULT: Duration = Duration::from_secs(300);
        let revision = self.sidecar.as_ref().map(|sidecar| sidecar.timeouts.whole);
        self.zipline.grace.or(revision).unwrap_or(DEFAULT)
    }

    /// What is logged: `ZIPLINE_LOG`, or else what Knative's logging level says, or else `info`.
    pub fn log_filter(&self) -> &str {
        let sidecar = self.sidecar.as_ref();
        let configured = sidecar.and_then(|sidecar| sidecar.logging.as_ref()).map_or("", |zap| &zap.level);
        let level = sidecar.map_or("", |sidecar| &sidecar.logging_level);
        let named = match if level.is_empty() { configured } else { level } {
            level @ ("debug" | "info" | "warn" | "error") => level,
            "dpanic" | "panic" | "fatal" => "error",
            _ => zipline_contract::settings::LOG.default,
        };
        self.zipline.log.as_deref().unwrap_or(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [(&str, &str); 12] = [
        ("CONTAINER_CONCURRENCY", "0"),
        ("QUEUE_SERVING_PORT", "8012"),
        ("QUEUE_SERVING_TLS_PORT", "8112"),
        ("USER_PORT", "8080"),
        ("REVISION_TIMEOUT_SECONDS", "300"),
        ("SERVING_NAMESPACE", "default"),
        ("SERVING_CONFIGURATION", "shop"),
        ("SERVING_REVISION", "shop-00001"),
        ("SERVING_POD", "shop-00001-deployment-abc"),
        ("SERVING_POD_IP", "10.0.0.7"),
        ("SERVING_LOGGING_CONFIG", ""),
        ("SERVING_LOGGING_LEVEL", ""),
    ];

    fn with(extra: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::parse(&REQUIRED.iter().chain(extra).copied().collect())
    }

    fn text(result: Result<Config, ConfigError>) -> String {
        result.map(|_| ()).expect_err("a bad configuration").to_string()
    }

    #[test]
    fn the_required_variables_are_enough() {
        let config = with(&[]).expect("a configuration");
        let sidecar = config.sidecar.as_ref().expect("a sidecar");
        assert_eq!((sidecar.door.port, sidecar.user_port, sidecar.concurrency), (8012, 8080, 0));
        assert_eq!(sidecar.timeouts, Timeouts { whole: Duration::from_secs(300), start: None, idle: None });
        assert_eq!(config.grace(), Duration::from_secs(300));
        assert_eq!(config.identity.receiver(), "default/shop");
        assert_eq!(config.zipline.buffer_bytes, 512 << 20);
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn each_required_variable_is_missed_by_name() {
        for (name, _) in REQUIRED {
            let rest = REQUIRED.iter().filter(|(other, _)| *other != name).copied().collect();
            let message = text(Config::parse(&rest));
            assert!(message.contains(&format!("{name} is not set")), "{message}");
        }
    }

    #[test]
    fn everything_bad_is_reported_in_one_go() {
        let message = text(with(&[
            ("USER_PORT", "http"),
            ("CONTAINER_CONCURRENCY", "some"),
            ("SERVING_READINESS_PROBE", "{"),
            ("OBSERVABILITY_CONFIG", "no"),
            ("ZIPLINE_PULL_PORT", "70000"),
            ("ZIPLINE_BUFFER_BYTES", "much"),
            ("ZIPLINE_TRANSFER", "pigeon"),
        ]));
        for part in [
            "7 settings",
            "USER_PORT: `http`",
            "CONTAINER_CONCURRENCY: `some`",
            "SERVING_READINESS_PROBE",
            "OBSERVABILITY_CONFIG",
            "ZIPLINE_PULL_PORT: 70000 is outside 1 to 65535",
            "ZIPLINE_BUFFER_BYTES: `much`",
            "ZIPLINE_TRANSFER: `pigeon` is not one of `zipline`",
        ] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn every_setting_of_the_table_is_known_and_no_other() {
        let named: Vec<(&str, &str)> =
            zipline_contract::settings::ALL.iter().map(|setting| (setting.variable, setting.default)).collect();
        let config = with(&named).expect("the defaults, spelt out");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        let config = with(&[("ZIPLINE_BUFER_BYTES", "1GiB")]).expect("a warning only");
        assert_eq!(config.warnings.len(), 1);
    }

    #[test]
    fn a_client_proxy_needs_nothing_of_knative() {
        let config = Config::parse(&[("ZIPLINE_ROLE", "client")].into_iter().collect()).expect("a configuration");
        assert!(config.sidecar.is_none());
        assert_eq!(config.grace(), Duration::from_secs(300));
    }
}
