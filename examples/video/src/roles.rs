//! The three services: streaming, decoder, recogniser.
//!
//! Streaming sends its clip to the decoder; the decoder sends each of the first frames to a recogniser, one after
//! another or all at once; labels travel back as answers.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, spawn_blocking};
use zipline_sdk::{Client, Failure, Payload, Request, Response};
use zipline_workflow::{Work, bad_request, failed, letter};

use crate::frames::{self, Frame};
use crate::labels;
use crate::network::Network;

/// Frames of a request.
const FRAMES_MAX: usize = 64;

/// To streaming: analyse this clip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// The clip's file.
    pub(crate) clip: PathBuf,
    /// Service of the decoder.
    pub(crate) decoder: String,
    #[serde(flatten)]
    pub(crate) decode: Decode,
}

/// To the decoder, with the clip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Decode {
    /// Frames to look at, from the first.
    pub(crate) frames: usize,
    /// All at once, not one after another.
    pub(crate) parallel: bool,
    /// Service of the recognisers.
    pub(crate) recogniser: String,
    /// Of the network's weights.
    pub(crate) seed: u64,
}

/// To a recogniser, with a frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Recognise {
    seed: u64,
}

/// The labels of a recogniser's frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Recognised {
    labels: String,
}

/// The labels of every frame, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Analysed {
    pub(crate) frames: Vec<String>,
}

/// Sends the clip to the decoder. It is read once an instance: it stands for a camera.
pub(crate) async fn stream(client: Client, request: Request) -> Result<Response, Failure> {
    static CLIP: OnceLock<(PathBuf, Payload)> = OnceLock::new();
    let work = Work::begin(&client, "streaming");
    let Stream { clip: path, decoder, decode } = letter(&request)?.head;
    let clip = match CLIP.get().filter(|(of, _)| *of == path) {
        Some((_, clip)) => clip.clone(),
        None => {
            let read = std::fs::read(&path).map_err(|error| bad_request(format_args!("the clip {}: {error}", path.display())))?;
            let clip = Payload::from(read);
            CLIP.get_or_init(|| (path, clip.clone()));
            clip
        }
    };
    let clip = work.attach_one(clip).await?;
    let analysed = work.ask::<_, Analysed>(&decoder, &decode, &[clip]).await?;
    work.answer(&analysed.head, &[])
}

/// Decodes the clip's first frames and has each looked at.
pub(crate) async fn decode(client: Client, request: Request) -> Result<Response, Failure> {
    let work = Arc::new(Work::begin(&client, "decoder"));
    let letter = letter::<Decode>(&request)?;
    let Decode { frames: number, parallel, recogniser, seed } = letter.head;
    if !(1..=FRAMES_MAX).contains(&number) {
        return Err(bad_request(format_args!("frames: {number}, expected 1 to {FRAMES_MAX}")));
    }
    let [clip] = &letter.attachments[..] else { return Err(bad_request("the decoder takes one clip")) };
    let clip = work.take(clip).await?;
    let frames = spawn_blocking(move || frames::decode(&clip, number)).await?.map_err(bad_request)?;
    let mut labels = Vec::with_capacity(frames.len());
    if parallel {
        let mut recognising = JoinSet::new();
        for (at, frame) in frames.into_iter().enumerate() {
            let (frame, work, recogniser) = (encode(frame).await?, Arc::clone(&work), recogniser.clone());
            recognising.spawn(async move { Ok::<_, Failure>((at, recognise(&work, &recogniser, seed, frame).await?)) });
        }
        while let Some(recognised) = recognising.join_next().await {
            labels.push(recognised??);
        }
        labels.sort_unstable_by_key(|(at, _)| *at);
    } else {
        for (at, frame) in frames.into_iter().enumerate() {
            labels.push((at, recognise(&work, &recogniser, seed, encode(frame).await?).await?));
        }
    }
    work.answer(&Analysed { frames: labels.into_iter().map(|(_, labels)| labels).collect() }, &[])
}

async fn encode(frame: Frame) -> Result<Payload, Failure> {
    spawn_blocking(move || frame.encode()).await?.map_err(failed)
}

async fn recognise(work: &Work, recogniser: &str, seed: u64, frame: Payload) -> Result<String, Failure> {
    let frame = work.attach_one(frame).await?;
    Ok(work.ask::<_, Recognised>(recogniser, &Recognise { seed }, &[frame]).await?.head.labels)
}

/// Says what a frame shows. The network is built once an instance.
pub(crate) async fn recognise_frame(client: Client, request: Request) -> Result<Response, Failure> {
    static NETWORK: OnceLock<(u64, Network)> = OnceLock::new();
    let work = Work::begin(&client, "recogniser");
    let letter = letter::<Recognise>(&request)?;
    let [frame] = &letter.attachments[..] else { return Err(bad_request("a recogniser takes one frame")) };
    let frame = work.take(frame).await?;
    let seed = letter.head.seed;
    let labels = spawn_blocking(move || {
        let (of, network) = match NETWORK.get() {
            Some(built) => built,
            None => {
                let built = Network::seeded(seed).map_err(failed)?;
                NETWORK.get_or_init(|| (seed, built))
            }
        };
        if *of != seed {
            return Err(bad_request(format_args!("this instance has the network of seed {of}, not {seed}")));
        }
        labels::recognise(network, &frame).map_err(bad_request)
    });
    work.answer(&Recognised { labels: labels.await?? }, &[])
}

/// The same answer by this one process, without services.
pub(crate) fn reference(clip: &[u8], frames: usize, seed: u64) -> anyhow::Result<Analysed> {
    let network = Network::seeded(seed)?;
    let frames = frames::decode(clip, frames)?;
    let labels = frames.iter().map(|frame| labels::recognise(&network, &frame.encode()?)).collect::<anyhow::Result<_>>()?;
    Ok(Analysed { frames: labels })
}
