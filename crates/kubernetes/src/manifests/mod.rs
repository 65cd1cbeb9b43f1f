//! Every object of an installation, made here and nowhere else.
//!
//! `zipline install` applies them; [`files`] has them as plain manifests and as a chart, as they stand under `deploy/`.

pub mod chart;
pub mod files;
pub mod monitoring;
mod objects;
pub mod yaml;

use serde_json::Value;

pub use objects::{labels, objects};

/// What differs between installations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Image of the controller.
    pub controller_image: String,
    /// Image of the queue-proxy, as it will stand in `config-deployment`.
    pub queue_proxy_image: String,
    /// Images of queue-proxies that pods still have while they are rolled to that one.
    pub earlier_images: Vec<String>,
    /// Controllers at once.
    pub replicas: u32,
    /// Settings of every queue-proxy.
    pub settings: Vec<(String, String)>,
    /// Whether pods get a deletion cost by what they hold.
    pub deletion_cost: bool,
}

impl Default for Options {
    fn default() -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self {
            controller_image: format!("zipline.dev/zipline-controller:{version}"),
            queue_proxy_image: format!("zipline.dev/zipline-queue-proxy:{version}"),
            earlier_images: Vec::new(),
            replicas: 2,
            settings: Vec::new(),
            deletion_cost: false,
        }
    }
}

/// An object's `kind/name`, for messages.
pub fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
}
