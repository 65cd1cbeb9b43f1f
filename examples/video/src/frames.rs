//! From a clip to its frames as JPEG.

use std::io::{BufWriter, Write};

use anyhow::{Context, Result};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use openh264::decoder::Decoder;
use openh264::formats::YUVSource;
use zipline_sdk::{Payload, PayloadWriter};

/// Quality of the frames as JPEG.
const QUALITY: u8 = 95;
/// Bytes that are gathered before they are written into a payload.
const WRITE_BYTES: usize = 64 * 1024;

/// A frame as it was decoded.
pub(crate) struct Frame {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

/// Decodes the first `number` frames of a clip; fewer where it has fewer.
pub(crate) fn decode(clip: &[u8], number: usize) -> Result<Vec<Frame>> {
    let mut decoder = Decoder::new().context("the H.264 decoder")?;
    let mut frames = Vec::new();
    for unit in openh264::nal_units(clip) {
        if frames.len() == number {
            break;
        }
        if let Some(picture) = decoder.decode(unit).context("the clip cannot be decoded")? {
            let (width, height) = picture.dimensions();
            let mut rgb = vec![0; width * height * 3];
            picture.write_rgb8(&mut rgb);
            frames.push(Frame { width: u32::try_from(width)?, height: u32::try_from(height)?, rgb });
        }
    }
    Ok(frames)
}

impl Frame {
    /// The frame as JPEG, written straight into a payload.
    pub(crate) fn encode(&self) -> Result<Payload> {
        let mut writer = BufWriter::with_capacity(WRITE_BYTES, PayloadWriter::new()?);
        JpegEncoder::new_with_quality(&mut writer, QUALITY).encode(
            &self.rgb,
            self.width,
            self.height,
            ExtendedColorType::Rgb8,
        )?;
        writer.flush()?;
        Ok(writer.into_inner().map_err(|error| error.into_error())?.finish()?)
    }
}
