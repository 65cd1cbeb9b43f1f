//! Whether the text of a setting can be used, for those who hand settings on: the local platform and the webhook. A
//! queue-proxy that is given a value it can't read does not start, so they refuse it earlier.

use zipline_contract::settings::{self, Unit};
use zipline_contract::{Setting, Transfer};

use crate::tier::Durability;

/// The values of a setting whose text is one of a few.
fn choices(setting: &Setting) -> Option<Vec<&'static str>> {
    if setting.variable == settings::TRANSFER.variable {
        Some(Transfer::ALL.map(Transfer::name).to_vec())
    } else if setting.variable == settings::DURABILITY.variable {
        Some(Durability::ALL.map(Durability::name).to_vec())
    } else if setting.variable == settings::CORE_DUMPS.variable {
        Some(vec!["off", "on"])
    } else {
        None
    }
}

/// A setting's name in an annotation, behind the prefix: `ZIPLINE_PUT_TTL_SECONDS` is `put-ttl-seconds`.
pub fn annotation_name(setting: &Setting) -> String {
    setting.variable.trim_start_matches("ZIPLINE_").to_ascii_lowercase().replace('_', "-")
}

/// The setting of an annotation's name, without the prefix.
pub fn of_annotation(name: &str) -> Option<&'static Setting> {
    let variable = format!("ZIPLINE_{}", name.to_ascii_uppercase().replace('-', "_"));
    settings::ALL.iter().find(|setting| setting.variable == variable)
}

/// Whether a setting's value can be read and lies within its range.
///
/// # Errors
/// What it should be, in words.
pub fn check_value(setting: &Setting, value: &str) -> Result<(), String> {
    let number = match setting.unit {
        Unit::Text => {
            return match choices(setting) {
                Some(choices) if !choices.contains(&value) => Err(format!("one of {}", choices.join(", "))),
                _ => Ok(()),
            };
        }
        Unit::Bytes => bytes(value),
        Unit::Seconds => value.parse::<f64>().ok(),
        Unit::Count | Unit::Port => value.parse::<u64>().ok().map(|n| n as f64),
    };
    let unit = match setting.unit {
        Unit::Bytes => "bytes (KiB, MiB, GiB may follow)",
        Unit::Seconds => "seconds",
        Unit::Port => "a port",
        Unit::Count | Unit::Text => "a whole number",
    };
    let (low, high) = setting.range.unwrap_or((0.0, f64::MAX));
    match number {
        Some(number) if number >= low && number <= high => Ok(()),
        _ => Err(format!("{unit} from {low} to {high}")),
    }
}

fn bytes(value: &str) -> Option<f64> {
    let units = [("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0)];
    let (digits, unit) = units.iter().find_map(|(name, unit)| Some((value.strip_suffix(name)?, *unit))).unwrap_or((value, 1.0));
    digits.trim_end().parse::<u64>().ok().map(|n| n as f64 * unit)
}
