//! What tests of operations are made of: parameters and values from a seed.

#![allow(dead_code, reason = "each test binary uses its part")]

use numeric::{Matrix, Rng};
use ops::{Adapter, Buffer, Linear, Parameter};

pub(crate) struct World {
    rng: Rng,
    next: usize,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), next: 0 }
    }

    pub(crate) fn values(&mut self, n: usize, scale: f64) -> Vec<f32> {
        (0..n).map(|_| (scale * self.rng.normal()) as f32).collect()
    }

    pub(crate) fn buffer(&mut self, rows: usize, width: usize) -> Buffer {
        Buffer::from_values(width, self.values(rows * width, 1.0))
    }

    pub(crate) fn parameter(&mut self, rows: usize, columns: usize) -> Parameter {
        self.next += 1;
        let matrix = Matrix::from_f32(rows, columns, self.values(rows * columns, 0.5));
        Parameter {
            id: self.next - 1,
            name: format!("p{}", self.next),
            shape: vec![rows, columns],
            trained: true,
            matrix,
        }
    }

    pub(crate) fn linear(&mut self, outputs: usize, inputs: usize) -> Linear {
        Linear { weight: self.parameter(outputs, inputs), bias: None, adapter: None }
    }

    pub(crate) fn adapted(&mut self, outputs: usize, inputs: usize, rank: usize) -> Linear {
        let (a, b) = (self.parameter(rank, inputs), self.parameter(outputs, rank));
        let adapter = Adapter { a, b, alpha: 0.7 * rank as f32, rank_stabilized: false, dropout: 0.4 };
        Linear { adapter: Some(adapter), ..self.linear(outputs, inputs) }
    }

    /// Of a bank of so many experts, if it is its own factor for each.
    pub(crate) fn factor(&mut self, experts: Option<usize>, rows: usize, columns: usize) -> Parameter {
        let mut factor = self.parameter(experts.unwrap_or(1) * rows, columns);
        if let Some(experts) = experts {
            factor.shape = vec![experts, rows, columns];
        }
        factor
    }
}
