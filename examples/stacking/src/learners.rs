//! The learners of the ensemble, and what is trained of each: cross-validated predictions, a model of everything, a score.

use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use smartcore::algorithm::neighbour::KNNAlgorithmName;
use smartcore::ensemble::random_forest_regressor::{RandomForestRegressor, RandomForestRegressorParameters};
use smartcore::error::Failed;
use smartcore::linalg::basic::arrays::Array;
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::linear::logistic_regression::{LogisticRegression, LogisticRegressionParameters};
use smartcore::metrics::roc_auc_score;
use smartcore::neighbors::knn_regressor::{KNNRegressor, KNNRegressorParameters};

use crate::data::{DataSet, to_bytes};
use crate::linear::Linear;

/// Parts of the data that are predicted by what the others taught.
const FOLDS: usize = 5;
const LASSO_ALPHA: f64 = 0.1;
const NEIGHBOURS: usize = 20;
const FOREST: (usize, u16, u64) = (2, 2, 42);

/// A kind of model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Learner {
    SupportVectors,
    Lasso,
    Forest,
    Neighbours,
}

impl Learner {
    /// The ensemble, in the order of its columns.
    pub(crate) const ALL: [Self; 4] = [Self::SupportVectors, Self::Lasso, Self::Forest, Self::Neighbours];
}

/// What training gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trained {
    /// A model of all the data.
    pub(crate) model: Vec<u8>,
    /// Each row predicted by a model that did not see it.
    pub(crate) predictions: Vec<f64>,
    /// Area under the receiver operating characteristic of these.
    pub(crate) auc: f64,
}

/// Predictions for a data set and the model's bytes.
type Fitted = Box<dyn Fn(&DataSet) -> Result<Vec<f64>>>;

/// Trains a learner of the ensemble.
pub(crate) fn train(learner: Learner, data: &DataSet) -> Result<Trained> {
    let predictions = cross_validated(data, |known| fit(learner, known).map(|(_, predict)| predict))?;
    let (model, _) = fit(learner, data)?;
    Ok(Trained { model, auc: roc_auc_score(&data.labels, &predictions), predictions })
}

/// Trains the meta-learner on the predictions of the ensemble, a column a learner.
pub(crate) fn train_meta(labels: &[f64], columns: &[Vec<f64>]) -> Result<Trained> {
    ensure!(columns.iter().all(|column| column.len() == labels.len()), "a column has not as many rows as there are labels");
    let values = (0..labels.len()).flat_map(|row| columns.iter().map(move |column| column[row])).collect();
    let data = DataSet { features: columns.len(), values, labels: labels.to_vec() };
    let predictions = cross_validated(&data, |known| {
        let fitted = logistic(known)?;
        Ok(Box::new(move |unknown: &DataSet| Ok((0..unknown.rows()).map(|row| fitted.predict(unknown.row(row))).collect())))
    })?;
    let fitted = logistic(&data)?;
    Ok(Trained { model: encode(&fitted), auc: roc_auc_score(&data.labels, &predictions), predictions })
}

/// Predicts each fold by what the others taught. The rows were shuffled when the data was made.
fn cross_validated(data: &DataSet, fit: impl Fn(&DataSet) -> Result<Fitted>) -> Result<Vec<f64>> {
    let rows = data.rows();
    ensure!(rows >= FOLDS, "{rows} rows are too few for {FOLDS} folds");
    let mut predictions = Vec::with_capacity(rows);
    for fold in 0..FOLDS {
        let (first, end) = (fold * rows / FOLDS, (fold + 1) * rows / FOLDS);
        let (unknown, known): (Vec<usize>, Vec<usize>) = (0..rows).partition(|row| (first..end).contains(row));
        predictions.extend(fit(&data.take(&known))?(&data.take(&unknown))?);
    }
    Ok(predictions)
}

fn fit(learner: Learner, data: &DataSet) -> Result<(Vec<u8>, Fitted)> {
    Ok(match learner {
        Learner::SupportVectors => linear(Linear::support_vectors(data)),
        Learner::Lasso => linear(Linear::lasso(data, LASSO_ALPHA)),
        Learner::Forest => {
            let (trees, depth, seed) = FOREST;
            let parameters = RandomForestRegressorParameters::default()
                .with_n_trees(trees)
                .with_max_depth(depth)
                .with_m(data.features)
                .with_seed(seed);
            let forest = RandomForestRegressor::fit(&matrix(data)?, &data.labels, parameters).map_err(library)?;
            (serde_json::to_vec(&forest)?, Box::new(move |unknown| forest.predict(&matrix(unknown)?).map_err(library)))
        }
        Learner::Neighbours => {
            let parameters = KNNRegressorParameters::default().with_k(NEIGHBOURS).with_algorithm(KNNAlgorithmName::LinearSearch);
            let neighbours = KNNRegressor::fit(&matrix(data)?, &data.labels, parameters).map_err(library)?;
            // Such a model is its training data.
            let mut model = (NEIGHBOURS as u64).to_le_bytes().to_vec();
            model.extend(data.encode()?);
            (model, Box::new(move |unknown| neighbours.predict(&matrix(unknown)?).map_err(library)))
        }
    })
}

fn linear(fitted: Linear) -> (Vec<u8>, Fitted) {
    let model = encode(&fitted);
    (model, Box::new(move |unknown| Ok((0..unknown.rows()).map(|row| fitted.predict(unknown.row(row))).collect())))
}

fn encode(fitted: &Linear) -> Vec<u8> {
    let mut model = to_bytes(&fitted.weights);
    model.extend(fitted.intercept.to_le_bytes());
    model
}

/// Logistic regression with the usual penalty; its predictions are the linear scores, of which the area is the same as of probabilities.
fn logistic(data: &DataSet) -> Result<Linear> {
    let classes: Vec<i32> = data.labels.iter().map(|label| i32::from(*label == 1.0)).collect();
    ensure!(classes.contains(&0) && classes.contains(&1), "the data has rows of one class alone");
    let parameters = LogisticRegressionParameters::default().with_alpha(1.0);
    let fitted = LogisticRegression::fit(&matrix(data)?, &classes, parameters).map_err(library)?;
    Ok(Linear { weights: fitted.coefficients().iterator(0).copied().collect(), intercept: *fitted.intercept().get((0, 0)) })
}

fn matrix(data: &DataSet) -> Result<DenseMatrix<f64>> {
    DenseMatrix::new(data.rows(), data.features, data.values.clone(), false).map_err(library)
}

fn library(failed: Failed) -> anyhow::Error {
    anyhow!("the library of learners: {failed}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Shape;

    /// What scikit-learn gives on its own data of this shape is 0.59, 0.81, 0.77 and 0.49: ours is other data, so bands.
    #[test]
    fn the_learners_see_what_there_is_to_be_seen() {
        let data = DataSet::make(&Shape { rows: 300, features: 1024, seed: 42 }).expect("made");
        let bands = [(0.45, 0.80), (0.70, 0.95), (0.65, 0.95), (0.35, 0.70)];
        let mut columns = Vec::new();
        for (learner, (low, high)) in Learner::ALL.into_iter().zip(bands) {
            let trained = train(learner, &data).expect("trained");
            eprintln!("{learner:?}: {} ({} bytes)", trained.auc, trained.model.len());
            assert!((low..high).contains(&trained.auc), "{learner:?}: {}", trained.auc);
            assert_eq!(train(learner, &data).expect("trained"), trained, "the same every time");
            columns.push(trained.predictions);
        }
        let meta = train_meta(&data.labels, &columns).expect("trained");
        eprintln!("meta: {}", meta.auc);
        assert!((0.65..0.95).contains(&meta.auc), "{}", meta.auc);
    }
}
