//! What a frame shows, as the network says.

use std::fmt::Write;

use anyhow::{Context, Result};
use image::imageops::{self, FilterType};
use image::{ImageFormat, RgbImage};

use crate::network::{Network, SIDE};

/// Labels of a frame that are named.
const NAMED: usize = 100;
/// The shorter side of a frame before its middle is cut out.
const SHORT_SIDE: u32 = 256;
/// Mean and deviation of each colour in the pictures such networks are trained on.
const COLOURS: [(f32, f32); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

/// The most likely labels of a JPEG, one a line with its share.
pub(crate) fn recognise(network: &Network, jpeg: &[u8]) -> Result<String> {
    let picture = image::load_from_memory_with_format(jpeg, ImageFormat::Jpeg).context("the frame is no JPEG")?.into_rgb8();
    let scores = network.scores(&prepare(&picture))?;
    Ok(describe(&scores))
}

/// Shrinks a frame, cuts its middle out and scales its colours.
fn prepare(picture: &RgbImage) -> Vec<f32> {
    let short = picture.width().min(picture.height()).max(1);
    let scaled = |side: u32| (u64::from(side) * u64::from(SHORT_SIDE) / u64::from(short)) as u32;
    let small = imageops::resize(picture, scaled(picture.width()), scaled(picture.height()), FilterType::Triangle);
    let side = SIDE as u32;
    let (left, top) = ((small.width() - side) / 2, (small.height() - side) / 2);
    let mut planes = Vec::with_capacity(3 * SIDE * SIDE);
    for (channel, (mean, deviation)) in COLOURS.into_iter().enumerate() {
        for y in 0..side {
            planes.extend((0..side).map(|x| {
                let value = small.get_pixel(left + x, top + y).0[channel];
                (f32::from(value) / 255.0 - mean) / deviation
            }));
        }
    }
    planes
}

fn describe(scores: &[f32]) -> String {
    let mut ranked: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
    ranked.sort_by(|(at, score), (other_at, other)| other.total_cmp(score).then(at.cmp(other_at)));
    let sum: f32 = scores.iter().sum::<f32>().max(f32::MIN_POSITIVE);
    let mut text = String::new();
    for (label, score) in ranked.into_iter().take(NAMED) {
        // Writing to a string does not fail.
        writeln!(text, "label {label:03}: {:.5} of all", score / sum).ok();
    }
    text
}
