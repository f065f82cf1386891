//! The rows that a mixture is measured on, and where its router sends them.
//!
//! Legend: T rows, H hidden width of the model, E experts.

use super::neurons::output;
use kernels::router;
use ops::{Buffer, Execute, Infer, Moe, Precision};

/// Inputs of a mixture `[T, H]`, as they come from the norm before it.
#[derive(Debug)]
pub struct Rows {
    /// What weights are fitted on.
    pub calibration: Buffer,
    /// What decisions are measured on.
    pub held_out: Buffer,
}

/// Where rows go.
pub(crate) struct Routed {
    pub(crate) top_k: usize,
    /// `[T, top_k]`.
    pub(crate) indices: Vec<u32>,
    /// `[T, top_k]`.
    pub(crate) gates: Vec<f32>,
    /// `[T, E]`.
    pub(crate) probabilities: Buffer,
    pub(crate) logits: Buffer,
}

impl Routed {
    pub(crate) fn of(x: &Buffer, moe: &Moe) -> Self {
        let logits = Infer::new(Precision::F32).linear(x, &moe.router);
        let (experts, top_k) = (logits.width, moe.top_k);
        let mut probabilities = Buffer::unwritten(x.rows, experts);
        let (mut indices, mut gates) = (vec![0; x.rows * top_k], vec![0.0; x.rows * top_k]);
        if x.rows > 0 {
            let shape = router::Shape { experts, top_k, normalize: moe.normalize };
            router::forward(&mut indices, &mut gates, &mut probabilities, &logits, &shape);
        }
        Self { top_k, indices, gates, probabilities, logits }
    }

    /// The rows that chose an expert, with their gates.
    pub(crate) fn of_expert(&self, expert: usize) -> (Vec<usize>, Vec<f32>) {
        let chosen = self.indices.iter().zip(&self.gates).enumerate();
        let chosen = chosen.filter(|(_, (index, _))| **index as usize == expert);
        chosen.map(|(place, (_, &gate))| (place / self.top_k, gate)).unzip()
    }

    /// Whether a row chose any of these.
    pub(crate) fn chose_any(&self, row: usize, experts: &[usize]) -> bool {
        self.indices[row * self.top_k..(row + 1) * self.top_k].iter().any(|&index| experts.contains(&(index as usize)))
    }
}

/// The rows that a group's members were chosen for.
pub(crate) struct GroupRows {
    /// Of all rows, ascending.
    pub(crate) rows: Vec<usize>,
    /// Their inputs.
    pub(crate) x: Buffer,
    /// The sum of the members' gates.
    pub(crate) mass: Vec<f32>,
    /// The sum of the members' outputs, each times its gate: what one expert in their place should say.
    pub(crate) wanted: Buffer,
    /// For each member, the rows (of these) that chose it, with its gates.
    chosen: Vec<Vec<(usize, f32)>>,
}

impl GroupRows {
    /// `members` are experts of `moe`, which routed all rows of `x`.
    pub(crate) fn gather(x: &Buffer, routed: &Routed, moe: &Moe, members: &[usize]) -> Self {
        let rows: Vec<usize> = (0..x.rows).filter(|&row| routed.chose_any(row, members)).collect();
        let mut wanted = Buffer::zeros(rows.len(), x.width);
        let mut mass = vec![0.0; rows.len()];
        let mut chosen = Vec::with_capacity(members.len());
        for &member in members {
            let (of_member, gates) = routed.of_expert(member);
            let outputs = output(&moe.experts[member], &x.gathered(&of_member));
            let places: Vec<usize> =
                of_member.iter().map(|row| rows.binary_search(row).expect("the row chose a member")).collect();
            for (from, (&to, &gate)) in places.iter().zip(&gates).enumerate() {
                mass[to] += gate;
                wanted.row_mut(to).iter_mut().zip(outputs.row(from)).for_each(|(sum, value)| *sum += gate * value);
            }
            chosen.push(places.into_iter().zip(gates).collect());
        }
        Self { x: x.gathered(&rows), rows, mass, wanted, chosen }
    }

    /// The rows that chose member k, with its gates.
    pub(crate) fn gates(&self, k: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.chosen[k].iter().copied()
    }
}

/// Rows times a number each.
pub(crate) fn scale_rows(values: &mut Buffer, by: &[f32]) {
    values.for_each_row(|row, values| values.iter_mut().for_each(|value| *value *= by[row]));
}

/// `Σ ‖found − wanted‖²` over these rows of `wanted`, which `found` has in order.
pub(crate) fn squared_error(found: &Buffer, wanted: &Buffer, rows: &[usize]) -> f64 {
    let of_row = |(place, &row): (usize, &usize)| {
        let pairs = found.row(place).iter().zip(wanted.row(row));
        pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>()
    };
    rows.iter().enumerate().map(of_row).sum()
}
