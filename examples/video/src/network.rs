//! SqueezeNet 1.1 with seeded weights, run by `tract`.
//!
//! Layers and their sizes are those of the published network, and so are its 1,235,496 parameters and its cost, about
//! 0.35 GFLOP a frame. The weights are drawn, not learned: what a frame is said to show has no meaning.

use std::sync::Arc;

use anyhow::{Context, Result};
use tract_core::internal::*;
use tract_core::ops::array::TypedConcat;
use tract_core::ops::cnn::{Conv, KernelFormat, MaxPool, PaddingSpec, PoolSpec};
use tract_core::ops::math;
use tract_core::ops::nn::{DataFormat, Reduce, Reducer};
use zipline_workflow::Random;

/// Width and height of what it looks at.
pub(crate) const SIDE: usize = 224;
/// Labels it knows.
pub(crate) const LABELS: usize = 1000;

/// Channels of a fire module: in, squeezed, and out by 1 × 1 and by 3 × 3 each.
const FIRES: [(usize, usize, usize); 8] =
    [(64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)];
/// Fire modules before which the picture is halved.
const POOLED_BEFORE: [usize; 3] = [0, 2, 4];

/// The network, ready to run.
pub(crate) struct Network {
    plan: Arc<TypedRunnableModel>,
    /// Weights and biases.
    #[cfg_attr(not(test), expect(dead_code, reason = "a count that only a test reads"))]
    parameters: usize,
}

impl Network {
    /// Builds it with the weights of that seed.
    pub(crate) fn seeded(seed: u64) -> Result<Self> {
        let mut layers = Layers { model: TypedModel::default(), random: Random::seeded(seed), parameters: 0 };
        let input = layers.model.add_source("picture", f32::fact([1, 3, SIDE, SIDE]))?;
        let mut at = layers.convolution("conv1", input, (3, 64), 3, 2)?;
        for (number, (channels, squeezed, expanded)) in FIRES.into_iter().enumerate() {
            if POOLED_BEFORE.contains(&number) {
                at = layers.pool(&format!("pool{number}"), at, channels)?;
            }
            let name = format!("fire{}", number + 2);
            let squeeze = layers.convolution(&format!("{name}.squeeze"), at, (channels, squeezed), 1, 1)?;
            let one = layers.convolution(&format!("{name}.one"), squeeze, (squeezed, expanded), 1, 1)?;
            let three = layers.convolution(&format!("{name}.three"), squeeze, (squeezed, expanded), 3, 1)?;
            at = layers.wire(&format!("{name}.join"), TypedConcat { axis: 1 }, &[one, three])?;
        }
        let scores = layers.convolution("conv10", at, (512, LABELS), 1, 1)?;
        let sums = layers.wire("sums", Reduce { axes: tvec!(2, 3), reducer: Reducer::Sum }, &[scores])?;
        layers.model.select_output_outlets(&[sums])?;
        let parameters = layers.parameters;
        let plan = layers.model.into_optimized()?.into_runnable()?;
        Ok(Self { plan, parameters })
    }

    /// Scores of the labels for a picture of [`SIDE`] × [`SIDE`], planes red, green and blue one after another.
    pub(crate) fn scores(&self, picture: &[f32]) -> Result<Vec<f32>> {
        let input = Tensor::from_shape(&[1, 3, SIDE, SIDE], picture)?;
        let outputs = self.plan.run(tvec!(input.into_tvalue()))?;
        let sums = outputs.first().context("the network has one output")?;
        Ok(sums.to_plain_array_view::<f32>()?.iter().copied().collect())
    }
}

/// Layers wired so far.
struct Layers {
    model: TypedModel,
    random: Random,
    parameters: usize,
}

impl Layers {
    fn wire(&mut self, name: &str, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> Result<OutletId> {
        let outlets = self.model.wire_node(name, op.into(), inputs)?;
        outlets.first().copied().with_context(|| format!("layer {name} has no output"))
    }

    /// A square convolution, its bias and ReLU. The 3 × 3 of a fire module keep the size of the picture; the first layer does not.
    fn convolution(
        &mut self,
        name: &str,
        input: OutletId,
        (channels, out): (usize, usize),
        side: usize,
        stride: usize,
    ) -> Result<OutletId> {
        let fan_in = channels * side * side;
        // He's deviation for ReLU layers, as a uniform distribution, so that the signal neither dies nor explodes.
        let bound = (6.0 / fan_in as f64).sqrt();
        let weights: Vec<f32> = (0..out * fan_in).map(|_| (bound * (2.0 * self.random.unit() - 1.0)) as f32).collect();
        let biases: Vec<f32> = (0..out).map(|_| (0.1 * (2.0 * self.random.unit() - 1.0)) as f32).collect();
        self.parameters += weights.len() + biases.len();
        let kernel =
            self.model.add_const(format!("{name}.kernel"), Tensor::from_shape(&[out, channels, side, side], &weights)?)?;
        let bias = self.model.add_const(format!("{name}.bias"), tensor1(&biases))?;
        let edge = if stride == 1 { side / 2 } else { 0 };
        let padding = PaddingSpec::Explicit(tvec!(edge, edge), tvec!(edge, edge));
        let pool_spec = pool_spec(side, stride, padding, channels, out);
        let op = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group: 1, q_params: None };
        let linear = self.wire(name, op, &[input, kernel, bias])?;
        let zero = self.model.add_const(format!("{name}.zero"), Tensor::from_shape(&[1, 1, 1, 1], &[0f32])?)?;
        self.wire(&format!("{name}.relu"), math::max(), &[linear, zero])
    }

    /// Maxima of 3 × 3, every second.
    fn pool(&mut self, name: &str, input: OutletId, channels: usize) -> Result<OutletId> {
        let pool_spec = pool_spec(3, 2, PaddingSpec::Valid, channels, channels);
        self.wire(name, MaxPool { pool_spec, with_index_outputs: None }, &[input])
    }
}

fn pool_spec(side: usize, stride: usize, padding: PaddingSpec, channels: usize, out: usize) -> PoolSpec {
    PoolSpec {
        data_format: DataFormat::NCHW,
        kernel_shape: tvec!(side, side),
        padding,
        dilations: None,
        strides: Some(tvec!(stride, stride)),
        input_channels: channels,
        output_channels: out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_has_the_published_number_of_parameters() {
        assert_eq!(Network::seeded(1).expect("built").parameters, 1_235_496);
    }

    #[test]
    fn the_same_picture_has_the_same_scores_and_another_has_others() {
        let network = Network::seeded(1).expect("built");
        let picture = |seed| -> Vec<f32> {
            let mut random = Random::seeded(seed);
            (0..3 * SIDE * SIDE).map(|_| random.normal() as f32).collect()
        };
        let scores = network.scores(&picture(1)).expect("run");
        assert_eq!(scores.len(), LABELS);
        assert!(scores.iter().all(|score| score.is_finite()) && scores.iter().any(|score| *score > 0.0));
        assert_eq!(network.scores(&picture(1)).expect("run"), scores);
        assert_ne!(network.scores(&picture(2)).expect("run"), scores);
    }
}
