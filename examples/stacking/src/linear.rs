//! Linear learners by coordinate descent: support vector regression and Lasso.
//!
//! `smartcore` has kernel machines, whose model is the data, and a Lasso for more rows than features; ours has fewer. These
//! are the published algorithms that scikit-learn runs: the dual method of Ho and Lin (2012) for the first, cyclic descent
//! of Friedman and others (2010) for the second.

use crate::data::DataSet;

/// Rounds over all coordinates, at most.
const ROUNDS_MAX: usize = 1000;
/// A round whose largest step is below it is the last.
const TOLERANCE: f64 = 1e-4;

/// A weight a feature, and what a row of zeros gives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Linear {
    pub(crate) weights: Vec<f64>,
    pub(crate) intercept: f64,
}

impl Linear {
    pub(crate) fn predict(&self, row: &[f64]) -> f64 {
        dot(&self.weights, row) + self.intercept
    }

    /// Support vector regression with absolute loss (epsilon 0) and cost 1; the intercept is one weight more, on a feature of ones.
    pub(crate) fn support_vectors(data: &DataSet) -> Self {
        const COST: f64 = 1.0;
        let rows = data.rows();
        let mut fitted = Self { weights: vec![0.0; data.features], intercept: 0.0 };
        let curvature: Vec<f64> = (0..rows).map(|row| dot(data.row(row), data.row(row)) + 1.0).collect();
        let mut duals = vec![0.0f64; rows];
        for _ in 0..ROUNDS_MAX {
            let mut largest: f64 = 0.0;
            for (row, (dual, curvature)) in duals.iter_mut().zip(&curvature).enumerate() {
                let values = data.row(row);
                let slope = fitted.predict(values) - data.labels[row];
                let next = (*dual - slope / curvature).clamp(-COST, COST);
                let step = next - std::mem::replace(dual, next);
                if step != 0.0 {
                    fitted.weights.iter_mut().zip(values).for_each(|(weight, value)| *weight += step * value);
                    fitted.intercept += step;
                    largest = largest.max(step.abs() * curvature);
                }
            }
            if largest < TOLERANCE {
                break;
            }
        }
        fitted
    }

    /// Least squares with an absolute penalty, `alpha` times the sum of all weights.
    pub(crate) fn lasso(data: &DataSet, alpha: f64) -> Self {
        let rows = data.rows() as f64;
        let label_mean = data.labels.iter().sum::<f64>() / rows;
        let columns: Vec<(f64, Vec<f64>)> = (0..data.features)
            .map(|feature| {
                let column: Vec<f64> = (0..data.rows()).map(|row| data.row(row)[feature]).collect();
                let mean = column.iter().sum::<f64>() / rows;
                (mean, column.into_iter().map(|value| value - mean).collect())
            })
            .collect();
        let mut residual: Vec<f64> = data.labels.iter().map(|label| label - label_mean).collect();
        let mut weights = vec![0.0; data.features];
        for _ in 0..ROUNDS_MAX {
            let mut largest: f64 = 0.0;
            for ((_, column), weight) in columns.iter().zip(&mut weights) {
                let square = dot(column, column) / rows;
                if square == 0.0 {
                    continue;
                }
                let pull = dot(column, &residual) / rows + square * *weight;
                let next = pull.signum() * (pull.abs() - alpha).max(0.0) / square;
                let step = next - std::mem::replace(weight, next);
                if step != 0.0 {
                    residual.iter_mut().zip(column).for_each(|(left, value)| *left -= step * value);
                    largest = largest.max(step.abs());
                }
            }
            if largest < TOLERANCE {
                break;
            }
        }
        let shift: f64 = columns.iter().zip(&weights).map(|((mean, _), weight)| mean * weight).sum();
        Self { weights, intercept: label_mean - shift }
    }
}

/// The sum of products, in eight lanes so that it is computed as vectors; the order of additions is fixed.
fn dot(left: &[f64], right: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    for (left, right) in left.iter().zip(right) {
        lanes.iter_mut().zip(left).zip(right).for_each(|((lane, left), right)| *lane += left * right);
    }
    lanes.iter().sum::<f64>() + left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Shape;

    fn plain() -> DataSet {
        // The label is the first feature; the second says nothing.
        let values = [(0.0, 1.0), (1.0, 1.0), (0.0, -1.0), (1.0, -1.0)];
        DataSet {
            features: 2,
            values: values.iter().flat_map(|(first, second)| [*first, *second]).collect(),
            labels: values.iter().map(|(first, _)| *first).collect(),
        }
    }

    #[test]
    fn the_lasso_of_an_orthogonal_design_is_soft_thresholding() {
        let fitted = Linear::lasso(&plain(), 0.1);
        // Variance 1/4 of the first feature: its weight is (1/4 - 0.1) / (1/4).
        assert!((fitted.weights[0] - 0.6).abs() < 1e-9, "{fitted:?}");
        assert_eq!(fitted.weights[1], 0.0);
        assert!((fitted.intercept - 0.2).abs() < 1e-9, "{fitted:?}");
    }

    #[test]
    fn support_vectors_fit_what_can_be_fitted() {
        let data = DataSet::make(&Shape { rows: 30, features: 200, seed: 1 }).expect("made");
        let fitted = Linear::support_vectors(&data);
        let worst = (0..30).map(|row| (fitted.predict(data.row(row)) - data.labels[row]).abs()).fold(0.0, f64::max);
        assert!(worst < 0.01, "{worst}");
    }
}
