//! The autoscaler of a revision: Knative's KPA, without its clock, its cluster and its network.
//!
//! What happens to a revision's load on its way to a number of instances:
//!
//! 1. [`Collector`]: reports of instances and of the activator, in buckets of a second, become averages over the stable and
//!    the panic window ([`AverageWindow`]).
//! 2. [`Decider`]: every two seconds the averages become a [`Decision`]: instances wanted, and whether there is enough
//!    capacity to spare for bursts.
//! 3. [`Scaler`]: initial scale, bounds and the careful way to zero turn that into the number of instances to run, and
//!    into who stands in the path of requests.
//!
//! [`Autoscaler`] is the last two in one; each of its calls answers a [`Tick`], input and decision, which can be logged and
//! [replayed](replay). [`KpaSpec`] reads what a revision's annotations ask for. The driver scrapes, passes the time in, and
//! starts and stops instances.

mod autoscaler;
mod collector;
mod config;
mod decider;
mod log;
mod maximum;
mod scaler;
mod setting;
mod spec;
mod window;

pub use autoscaler::{Autoscaler, Tick, TickDecision, TickInput};
pub use collector::{BUCKET, Collector, ScrapePlan, TooFewAnswers, average_over_population, sample_size};
pub use config::AutoscalerConfig;
pub use decider::{Decider, DeciderSpec, Decision, Metric, Observed, TICK_INTERVAL};
pub use log::{LOG_SCHEMA, LogRecord, ReplayError, replay};
pub use scaler::{Activity, RequestPath, ScaleDecision, ScaleInput, Scaler, ScalerSpec};
pub use setting::{SettingError, SettingErrors};
pub use spec::{ANNOTATION_PREFIX, AnnotationErrors, AnnotationWarning, KPA_CLASS, KpaSpec};
pub use window::{Aggregation, AverageWindow};

/// Durations in logs and vectors: whole milliseconds.
mod as_millis {
    use core::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
