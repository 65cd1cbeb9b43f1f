//! Video analytics as a workflow of scaled functions: a clip is decoded, and its frames are looked at by a network.
//!
//! One program, three services (`streaming`, `decoder`, `recogniser`) and the tools around them. [`roles`] is the whole workflow.
#![forbid(unsafe_code)]

mod clip;
mod frames;
mod labels;
mod network;
mod roles;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "zipline-video", version, about = "Video analytics as a workflow of scaled functions")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as the source of the clip
    Streaming,
    /// Serve as the decoder
    Decoder,
    /// Serve as a recogniser
    Recogniser,
    /// Make a clip
    Clip {
        /// Where it goes
        output: PathBuf,
        #[arg(long, default_value_t = 1920)]
        width: usize,
        #[arg(long, default_value_t = 1080)]
        height: usize,
        #[arg(long, default_value_t = 61)]
        frames: u32,
        /// Standard deviation of the noise
        #[arg(long, default_value_t = 6.5)]
        sigma: f64,
        /// Quantiser of the codec, 0 (finest) to 51
        #[arg(long, default_value_t = 24)]
        quantiser: u8,
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
    /// Compute the answer in this one process; prints JSON
    Reference {
        /// The clip
        clip: PathBuf,
        /// Frames to look at
        #[arg(long, default_value_t = 6)]
        frames: usize,
        /// Of the network's weights
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Streaming => zipline_workflow::serve(roles::stream),
        Command::Decoder => zipline_workflow::serve(roles::decode),
        Command::Recogniser => zipline_workflow::serve(roles::recognise_frame),
        Command::Clip { output, width, height, frames, sigma, quantiser, seed } => {
            let clip = clip::make(&clip::Shape { width, height, frames, sigma, quantiser, seed })?;
            std::fs::write(&output, clip).with_context(|| format!("the file {}", output.display()))
        }
        Command::Reference { clip, frames, seed } => {
            let clip = std::fs::read(&clip).with_context(|| format!("the clip {}", clip.display()))?;
            let mut out = std::io::stdout().lock();
            serde_json::to_writer(&mut out, &roles::reference(&clip, frames, seed)?)?;
            writeln!(out).context("writing to standard output")
        }
    }
}
