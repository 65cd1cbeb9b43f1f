//! The four services: driver, trainer, reducer, meta-trainer.
//!
//! The driver broadcasts its data to the trainers and the meta-trainer; trainers answer with a model and predictions each;
//! the reducer joins these; the meta-trainer trains on top of them and gives the whole model back to the driver. Attachments
//! are named by their order, which each pair of functions agrees on here.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, spawn_blocking};
use zipline_sdk::{Client, Failure, Payload, Request, Response};
use zipline_workflow::{Attachment, Work, bad_request, failed, letter};

use crate::data::{DataSet, Shape, from_bytes, to_bytes};
use crate::learners::{Learner, Trained, train, train_meta};

/// Readers of the data set: every trainer, and the meta-trainer.
const DATA_READERS: NonZeroU32 = NonZeroU32::new(Learner::ALL.len() as u32 + 1).expect("above zero");

/// To the driver: train the ensemble.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ensemble {
    pub(crate) data: Shape,
    /// All trainers at once, not one after another.
    pub(crate) parallel: bool,
    /// Services.
    pub(crate) trainer: String,
    pub(crate) reducer: String,
    pub(crate) meta_trainer: String,
}

/// The driver's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stacked {
    /// Scores of the learners, in their order, and of the ensemble.
    pub(crate) aucs: Vec<f64>,
    /// FNV-1a of the whole model and of the ensemble's predictions.
    pub(crate) model: String,
    pub(crate) predictions: String,
    pub(crate) model_bytes: u64,
}

/// To a trainer, with the data.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Train {
    learner: Learner,
}

/// A trainer's answer, with model and predictions; the meta-trainer's too.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Score {
    auc: f64,
}

/// To the reducer, with models and then predictions of all learners.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reduce {
    learners: usize,
}

/// The reducer's answer, with features and models.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reduced {}

/// To the meta-trainer, with data, features and models.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TrainMeta {
    learners: usize,
}

/// Trains the ensemble. The data is made once an instance: it stands for what the driver was given.
pub(crate) async fn drive(client: Client, request: Request) -> Result<Response, Failure> {
    let work = Arc::new(Work::begin(&client, "driver"));
    let ensemble: Ensemble = letter(&request)?.head;
    let data = data_of(ensemble.data).await?;
    let mut to_readers = work.attach(data, DATA_READERS).await?;
    let to_meta_trainer = to_readers.pop().ok_or_else(|| failed("the data set has no reader"))?;

    let trained = train_all(&work, &ensemble, to_readers).await?;
    let mut aucs: Vec<f64> = trained.iter().map(|trained| trained.auc).collect();
    let models = trained.iter().map(|trained| trained.model.clone());
    let parts: Vec<Attachment> = models.chain(trained.iter().map(|trained| trained.predictions.clone())).collect();

    let reduced = work.ask::<_, Reduced>(&ensemble.reducer, &Reduce { learners: trained.len() }, &parts).await?;
    let mut attachments = vec![to_meta_trainer];
    attachments.extend(reduced.attachments);
    let whole = work.ask::<_, Score>(&ensemble.meta_trainer, &TrainMeta { learners: trained.len() }, &attachments).await?;
    aucs.push(whole.head.auc);
    let payloads = work.take_all(&whole.attachments).await?;
    let [model, predictions] = &payloads[..] else { return Err(odd("meta-trainer", 2, payloads.len())) };
    work.answer(&summary(aucs, model, predictions), &[])
}

/// What is known of a trainer's work.
struct Answered {
    auc: f64,
    model: Attachment,
    predictions: Attachment,
}

async fn train_all(work: &Arc<Work>, ensemble: &Ensemble, data: Vec<Attachment>) -> Result<Vec<Answered>, Failure> {
    let mut trained = Vec::with_capacity(data.len());
    if ensemble.parallel {
        let mut training = JoinSet::new();
        for (at, (learner, data)) in Learner::ALL.into_iter().zip(data).enumerate() {
            let (work, trainer) = (Arc::clone(work), ensemble.trainer.clone());
            training.spawn(async move { Ok::<_, Failure>((at, train_one(&work, &trainer, learner, data).await?)) });
        }
        while let Some(answered) = training.join_next().await {
            trained.push(answered??);
        }
        trained.sort_by_key(|(at, _)| *at);
    } else {
        for (at, (learner, data)) in Learner::ALL.into_iter().zip(data).enumerate() {
            trained.push((at, train_one(work, &ensemble.trainer, learner, data).await?));
        }
    }
    Ok(trained.into_iter().map(|(_, answered)| answered).collect())
}

async fn train_one(work: &Work, trainer: &str, learner: Learner, data: Attachment) -> Result<Answered, Failure> {
    let answer = work.ask::<_, Score>(trainer, &Train { learner }, &[data]).await?;
    let number = answer.attachments.len();
    let Ok([model, predictions]) = <[Attachment; 2]>::try_from(answer.attachments) else { return Err(odd("trainer", 2, number)) };
    Ok(Answered { auc: answer.head.auc, model, predictions })
}

async fn data_of(shape: Shape) -> Result<Payload, Failure> {
    static DATA: OnceLock<(Shape, Payload)> = OnceLock::new();
    if let Some((_, data)) = DATA.get().filter(|(of, _)| *of == shape) {
        return Ok(data.clone());
    }
    let made = spawn_blocking(move || DataSet::make(&shape).and_then(|data| data.encode())).await?.map_err(bad_request)?;
    let data = Payload::from(made);
    DATA.get_or_init(|| (shape, data.clone()));
    Ok(data)
}

/// Trains one learner.
pub(crate) async fn train_learner(client: Client, request: Request) -> Result<Response, Failure> {
    let work = Work::begin(&client, "trainer");
    let letter = letter::<Train>(&request)?;
    let [data] = &letter.attachments[..] else { return Err(bad_request("a trainer takes one data set")) };
    let data = work.take(data).await?;
    let learner = letter.head.learner;
    let trained = spawn_blocking(move || train(learner, &DataSet::decode(&data)?)).await?.map_err(bad_request)?;
    let model = work.attach_one(Payload::from(trained.model)).await?;
    let predictions = work.attach_one(Payload::from(to_bytes(&trained.predictions))).await?;
    work.answer(&Score { auc: trained.auc }, &[model, predictions])
}

/// Joins models and predictions.
pub(crate) async fn reduce(client: Client, request: Request) -> Result<Response, Failure> {
    let work = Work::begin(&client, "reducer");
    let letter = letter::<Reduce>(&request)?;
    let learners = letter.head.learners;
    if letter.attachments.len() != 2 * learners {
        return Err(bad_request(format_args!("{learners} learners, but {} attachments", letter.attachments.len())));
    }
    let payloads = work.take_all(&letter.attachments).await?;
    let (models, predictions) = payloads.split_at(learners);
    let features = predictions.iter().map(|column| column.to_vec()).collect::<Vec<_>>().concat();
    let features = work.attach_one(Payload::from(features)).await?;
    let models = work.attach_one(Payload::from(join_models(models))).await?;
    work.answer(&Reduced {}, &[features, models])
}

/// Trains on top of the learners and gives the whole model back.
pub(crate) async fn train_on_top(client: Client, request: Request) -> Result<Response, Failure> {
    let work = Work::begin(&client, "meta-trainer");
    let letter = letter::<TrainMeta>(&request)?;
    let payloads = work.take_all(&letter.attachments).await?;
    let Ok([data, features, models]) = <[Payload; 3]>::try_from(payloads) else {
        return Err(bad_request("the meta-trainer takes data, features and models"));
    };
    let learners = letter.head.learners;
    let trained = spawn_blocking(move || {
        let labels = DataSet::decode(&data)?.labels;
        train_meta(&labels, &columns(&features, learners, labels.len())?).map(|trained| (whole_model(&models, &trained), trained))
    });
    let (model, trained) = trained.await?.map_err(bad_request)?;
    let model = work.attach_one(Payload::from(model)).await?;
    let predictions = work.attach_one(Payload::from(to_bytes(&trained.predictions))).await?;
    work.answer(&Score { auc: trained.auc }, &[model, predictions])
}

/// The same answer by this one process, without services.
pub(crate) fn reference(shape: Shape) -> anyhow::Result<Stacked> {
    let data = DataSet::make(&shape)?;
    let trained = Learner::ALL.into_iter().map(|learner| train(learner, &data)).collect::<anyhow::Result<Vec<_>>>()?;
    let columns: Vec<_> = trained.iter().map(|trained| trained.predictions.clone()).collect();
    let meta = train_meta(&data.labels, &columns)?;
    let models: Vec<_> = trained.iter().map(|trained| Payload::from(trained.model.clone())).collect();
    let aucs = trained.iter().map(|trained| trained.auc).chain([meta.auc]).collect();
    Ok(summary(aucs, &whole_model(&join_models(&models), &meta), &to_bytes(&meta.predictions)))
}

fn columns(features: &[u8], learners: usize, rows: usize) -> anyhow::Result<Vec<Vec<f64>>> {
    let numbers = from_bytes(features);
    anyhow::ensure!(
        numbers.len() == learners * rows && rows > 0,
        "{} features of {learners} learners and {rows} rows",
        numbers.len()
    );
    Ok(numbers.chunks(rows).map(<[f64]>::to_vec).collect())
}

/// Each model behind its length.
fn join_models(models: &[Payload]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(models.iter().map(|model| model.len() + 8).sum());
    for model in models {
        joined.extend((model.len() as u64).to_le_bytes());
        joined.extend_from_slice(model);
    }
    joined
}

fn whole_model(models: &[u8], meta: &Trained) -> Vec<u8> {
    let mut whole = Vec::with_capacity(models.len() + meta.model.len());
    whole.extend_from_slice(models);
    whole.extend_from_slice(&meta.model);
    whole
}

fn summary(aucs: Vec<f64>, model: &[u8], predictions: &[u8]) -> Stacked {
    Stacked { aucs, model: digest(model), predictions: digest(predictions), model_bytes: model.len() as u64 }
}

/// FNV-1a over words of eight bytes: it tells whether two answers are alike, no more.
fn digest(bytes: &[u8]) -> String {
    let (words, rest) = bytes.as_chunks::<8>();
    let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = words.iter().map(|word| u64::from_le_bytes(*word)).fold(0xcbf2_9ce4_8422_2325, step);
    format!("{:016x}", rest.iter().map(|byte| u64::from(*byte)).fold(hash, step))
}

fn odd(service: &str, expected: usize, came: usize) -> Failure {
    failed(format_args!("the {service} answers with {expected} attachments, not {came}"))
}
