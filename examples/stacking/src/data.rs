//! The data set: made here, the same for the same seed, and its form as a payload.
//!
//! Two classes, 90 to 10. Two features say something of the class: each class has two clusters, on the corners of a square of
//! side 2, each cluster with a spread of its own. All other features are noise, and a tenth of the labels are drawn anew.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use zipline_workflow::Random;

const MAGIC: &[u8; 4] = b"zse1";
/// Magic, rows, features.
const HEAD_BYTES: usize = 12;
/// Share of the rows in class 1.
const RARE: f64 = 0.1;
/// Share of the labels that are drawn anew.
const REDRAWN: f64 = 0.1;
/// Features that say something.
const INFORMATIVE: usize = 2;

/// Which data set to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) features: usize,
    pub(crate) seed: u64,
}

/// Rows of features, and a label (0 or 1) for each.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DataSet {
    /// Features a row.
    pub(crate) features: usize,
    /// Row by row.
    pub(crate) values: Vec<f64>,
    pub(crate) labels: Vec<f64>,
}

impl DataSet {
    /// Makes it.
    pub(crate) fn make(shape: &Shape) -> Result<Self> {
        ensure!(shape.rows >= 20, "a data set has 20 rows or more, not {}", shape.rows);
        ensure!(shape.features >= INFORMATIVE, "a data set has {INFORMATIVE} features or more, not {}", shape.features);
        let mut random = Random::seeded(shape.seed);
        let spreads: Vec<[f64; 4]> = (0..4).map(|_| [0; 4].map(|_| 2.0 * random.unit() - 1.0)).collect();
        let rare = (shape.rows as f64 * RARE).round() as usize;
        let mut rows: Vec<(Vec<f64>, f64)> = Vec::with_capacity(shape.rows);
        for row in 0..shape.rows {
            let class = usize::from(row < rare);
            let cluster = row % 2;
            let [a, b, c, d] = spreads[2 * class + cluster];
            let (first, second) = (random.normal(), random.normal());
            let corner = (2.0 * class as f64 - 1.0, 2.0 * cluster as f64 - 1.0);
            let mut values = vec![corner.0 + a * first + b * second, corner.1 + c * first + d * second];
            values.extend((INFORMATIVE..shape.features).map(|_| random.normal()));
            rows.push((values, class as f64));
        }
        for (_, label) in &mut rows {
            if random.unit() < REDRAWN {
                *label = random.below(2) as f64;
            }
        }
        random.shuffle(&mut rows);
        let mut order: Vec<usize> = (0..shape.features).collect();
        random.shuffle(&mut order);
        Ok(Self {
            features: shape.features,
            values: rows.iter().flat_map(|(values, _)| order.iter().map(|feature| values[*feature])).collect(),
            labels: rows.iter().map(|(_, label)| *label).collect(),
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.labels.len()
    }

    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.features..(row + 1) * self.features]
    }

    /// These rows alone.
    pub(crate) fn take(&self, rows: &[usize]) -> Self {
        Self {
            features: self.features,
            values: rows.iter().flat_map(|row| self.row(*row)).copied().collect(),
            labels: rows.iter().map(|row| self.labels[*row]).collect(),
        }
    }

    /// As a payload: magic, rows and features (4 bytes each, little-endian), values row by row, labels; numbers as little-endian f64.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + 8 * (self.values.len() + self.labels.len()));
        bytes.extend(MAGIC);
        for number in [self.rows(), self.features] {
            bytes.extend(u32::try_from(number).context("the data set is too large for its form")?.to_le_bytes());
        }
        bytes.extend(to_bytes(&self.values));
        bytes.extend(to_bytes(&self.labels));
        Ok(bytes)
    }

    /// Reads a payload.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().context("the data set ends within its head")?;
        ensure!(head.starts_with(MAGIC), "the payload is no data set");
        let number = |at: usize| head[at..at + 4].iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let (rows, features) = (number(4), number(8));
        let expected = (features + 1).checked_mul(rows).and_then(|numbers| numbers.checked_mul(8));
        ensure!(
            expected == Some(rest.len() as u64) && features >= 1,
            "a data set of {rows} rows of {features} features does not have {} bytes",
            rest.len()
        );
        let numbers = from_bytes(rest);
        let (values, labels) = numbers.split_at((rows * features) as usize);
        ensure!(labels.iter().all(|label| *label == 0.0 || *label == 1.0), "a label is 0 or 1");
        ensure!(values.iter().all(|value| value.is_finite()), "a value of the data set is no finite number");
        Ok(Self { features: features as usize, values: values.to_vec(), labels: labels.to_vec() })
    }
}

/// Numbers as little-endian f64.
pub(crate) fn to_bytes(numbers: &[f64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Numbers of little-endian f64; what is left over at the end is not looked at.
pub(crate) fn from_bytes(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { rows: 40, features: 5, seed: 42 };

    #[test]
    fn a_data_set_is_the_same_for_the_same_seed_and_survives_the_wire() {
        let data = DataSet::make(&SHAPE).expect("made");
        assert_eq!(DataSet::make(&SHAPE).expect("made"), data);
        assert_ne!(DataSet::make(&Shape { seed: 43, ..SHAPE }).expect("made"), data);
        let bytes = data.encode().expect("encoded");
        assert_eq!(bytes.len(), 12 + 8 * 40 * 6);
        assert_eq!(DataSet::decode(&bytes).expect("decoded"), data);
    }

    #[test]
    fn the_published_shape_has_the_published_size() {
        let data = DataSet::make(&Shape { rows: 300, features: 1024, seed: 42 }).expect("made");
        assert_eq!(data.encode().expect("encoded").len(), 2_460_012);
        let rare = data.labels.iter().sum::<f64>();
        assert!((30.0..60.0).contains(&rare), "{rare}");
    }

    #[test]
    fn what_is_no_data_set_is_refused() {
        let bytes = DataSet::make(&SHAPE).and_then(|data| data.encode()).expect("encoded");
        for cut in [0, 3, 11, 12, bytes.len() - 1] {
            assert!(DataSet::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut huge = bytes.clone();
        huge[4..12].fill(0xff);
        assert!(DataSet::decode(&huge).is_err());
    }
}
