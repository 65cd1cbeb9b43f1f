//! The clip that is analysed: made here, the same for the same seed, and encoded to H.264 by a real codec.
//!
//! Shapes move over a gradient with Gaussian noise. The noise stands still, as a camera's fixed pattern does: so the first
//! frame carries it and the further ones cost the codec little, and both the clip and its frames have the sizes wanted
//! (1.3 MB, and 0.79 MB a frame as JPEG of quality 95).

use anyhow::{Context, Result};
use openh264::encoder::{BitRate, Complexity, Encoder, EncoderConfig, FrameRate, IntraFramePeriod, QpRange, RateControlMode};
use openh264::formats::YUVBuffer;
use openh264::{OpenH264API, Timestamp};
use zipline_workflow::Random;

/// What clip to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Even.
    pub(crate) width: usize,
    /// Even.
    pub(crate) height: usize,
    pub(crate) frames: u32,
    /// Standard deviation of the noise, in steps of 255.
    pub(crate) sigma: f64,
    /// Quantiser of the codec, 0 (finest) to 51.
    pub(crate) quantiser: u8,
    pub(crate) seed: u64,
}

/// Shapes in a clip.
const FIGURES: usize = 6;
const FRAMES_PER_SECOND: u64 = 30;
/// Above what any clip here needs: the quantiser decides the size, not the rate.
const BITS_PER_SECOND: u32 = 200_000_000;

/// A disc or a square on its way.
struct Figure {
    round: bool,
    half: f64,
    at: (f64, f64),
    /// Pixels a frame.
    step: (f64, f64),
    colour: [u8; 3],
}

/// Makes the clip: H.264, Annex B.
pub(crate) fn make(shape: &Shape) -> Result<Vec<u8>> {
    anyhow::ensure!(shape.width.is_multiple_of(2) && shape.height.is_multiple_of(2), "a clip's width and height are even");
    anyhow::ensure!(shape.quantiser <= 51, "a quantiser is 0 to 51, not {}", shape.quantiser);
    let config = EncoderConfig::new()
        .bitrate(BitRate::from_bps(BITS_PER_SECOND))
        .max_frame_rate(FrameRate::from_hz(FRAMES_PER_SECOND as f32))
        .rate_control_mode(RateControlMode::Quality)
        .qp(QpRange::new(shape.quantiser, shape.quantiser))
        .skip_frames(false)
        .adaptive_quantization(false)
        .background_detection(false)
        .scene_change_detect(false)
        .complexity(Complexity::Low)
        .intra_frame_period(IntraFramePeriod::from_num_frames(0))
        .num_threads(1);
    let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config).context("the H.264 encoder")?;
    let mut random = Random::seeded(shape.seed);
    let background = background(shape, &mut random);
    let figures = figures(shape, &mut random);
    let mut clip = Vec::new();
    for number in 0..shape.frames {
        let frame = YUVBuffer::from_vec(frame(shape, &background, &figures, number), shape.width, shape.height);
        let at = Timestamp::from_millis(u64::from(number) * 1000 / FRAMES_PER_SECOND);
        encoder.encode_at(&frame, at).with_context(|| format!("encoding frame {number}"))?.write_vec(&mut clip);
    }
    Ok(clip)
}

/// Gradient and noise, as planes Y, U and V one after another.
fn background(shape: &Shape, random: &mut Random) -> Vec<u8> {
    let (width, height) = (shape.width, shape.height);
    let mut planes = Vec::with_capacity(width * height * 3 / 2);
    for y in 0..height {
        for x in 0..width {
            let gradient = 60.0 + 120.0 * (x + y) as f64 / (width + height) as f64;
            planes.push((gradient + shape.sigma * random.normal()).round().clamp(16.0, 235.0) as u8);
        }
    }
    let (half_width, half_height) = (width / 2, height / 2);
    planes.extend((0..half_width * half_height).map(|at| 96 + (at % half_width * 64 / half_width) as u8));
    planes.extend((0..half_width * half_height).map(|at| 160 - (at / half_width * 64 / half_height) as u8));
    planes
}

fn figures(shape: &Shape, random: &mut Random) -> Vec<Figure> {
    let (width, height) = (shape.width as f64, shape.height as f64);
    let one = |index: usize| Figure {
        round: index.is_multiple_of(2),
        half: height * (0.03 + 0.05 * random.unit()),
        at: (width * random.unit(), height * random.unit()),
        step: (8.0 * random.unit() - 4.0, 8.0 * random.unit() - 4.0),
        colour: [0; 3].map(|_| 32 + random.below(192) as u8),
    };
    (0..FIGURES).map(one).collect()
}

fn frame(shape: &Shape, background: &[u8], figures: &[Figure], number: u32) -> Vec<u8> {
    let mut planes = background.to_vec();
    let (luma, chroma) = planes.split_at_mut(shape.width * shape.height);
    let (u, v) = chroma.split_at_mut(shape.width * shape.height / 4);
    for figure in figures {
        let [bright, blue, red] = figure.colour;
        paint(luma, (shape.width, shape.height), 1.0, figure, number, bright);
        paint(u, (shape.width / 2, shape.height / 2), 0.5, figure, number, blue);
        paint(v, (shape.width / 2, shape.height / 2), 0.5, figure, number, red);
    }
    planes
}

/// Paints a figure onto a plane of that size and scale; what leaves at one edge comes in at the other.
fn paint(plane: &mut [u8], (width, height): (usize, usize), scale: f64, figure: &Figure, number: u32, value: u8) {
    let half = figure.half * scale;
    let centre = |at: f64, step: f64, size: usize| ((at + step * f64::from(number)) * scale).rem_euclid(size as f64);
    let (x, y) = (centre(figure.at.0, figure.step.0, width), centre(figure.at.1, figure.step.1, height));
    let within = |centre: f64, size: usize| (centre - half).max(0.0) as usize..((centre + half).max(0.0) as usize).min(size);
    for row in within(y, height) {
        for column in within(x, width) {
            let (dx, dy) = (column as f64 - x, row as f64 - y);
            if !figure.round || dx * dx + dy * dy <= half * half {
                plane[row * width + column] = value;
            }
        }
    }
}
