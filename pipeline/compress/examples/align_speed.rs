//! How many pairs of experts are aligned in a second: `cargo run --release -p compress --example align_speed [WIDTH]`.
//!
//! Experts of 512 neurons, of bf16 numbers as checkpoints have them, and of f32 ones; pairs of an expert and a
//! shuffled, noisy copy, and unrelated pairs.

use compress::{Neurons, align};
use numeric::{Matrix, Rng, bf16};
use ops::{Expert, Linear, Parameter};
use std::time::{Duration, Instant};

const NEURONS: usize = 512;
const PAIRS: usize = 64;

fn linear(rows: usize, columns: usize, values: Vec<f32>) -> Linear {
    let matrix = Matrix::from_f32(rows, columns, values);
    let weight = Parameter { id: 0, name: String::new(), shape: vec![rows, columns], trained: false, matrix };
    Linear { weight, bias: None, adapter: None }
}

fn random(rng: &mut Rng, width: usize) -> [Vec<f32>; 3] {
    [0; 3].map(|_| (0..NEURONS * width).map(|_| rng.normal() as f32).collect())
}

fn neurons(raw: &[Vec<f32>; 3], width: usize, is_bf16: bool) -> Neurons {
    let stored = |value: &f32| if is_bf16 { bf16::from_f32(*value).to_f32() } else { *value };
    let [gate, up, down] = raw.each_ref().map(|values| values.iter().map(stored).collect());
    let expert = Expert {
        gate: linear(NEURONS, width, gate),
        up: linear(NEURONS, width, up),
        down: linear(width, NEURONS, down),
    };
    Neurons::of(&expert)
}

/// The neurons in another order, each number with some noise.
fn shuffled([gate, up, down]: &[Vec<f32>; 3], rng: &mut Rng, width: usize) -> [Vec<f32>; 3] {
    let mut order: Vec<usize> = (0..NEURONS).collect();
    rng.shuffle(&mut order);
    let mut noisy = |value: f32| value + 0.5 * rng.normal() as f32;
    let mut rows = |values: &[f32]| -> Vec<f32> {
        order.iter().flat_map(|&i| values[i * width..(i + 1) * width].to_vec()).map(&mut noisy).collect()
    };
    let (gate, up) = (rows(gate), rows(up));
    let down = (0..width).flat_map(|row| order.iter().map(move |&i| down[row * NEURONS + i]));
    [gate, up, down.collect()]
}

#[allow(clippy::print_stdout, reason = "an example shows its figures")]
fn main() {
    let width = std::env::args().nth(1).map_or(512, |width| width.parse().expect("the hidden width, a number"));
    let mut rng = Rng::new(1);
    let centroids: Vec<[Vec<f32>; 3]> = (0..4).map(|_| random(&mut rng, width)).collect();
    let related: Vec<[Vec<f32>; 3]> = centroids.iter().map(|raw| shuffled(raw, &mut rng, width)).collect();
    let unrelated: Vec<[Vec<f32>; 3]> = (0..4).map(|_| random(&mut rng, width)).collect();
    println!("{NEURONS} neurons, hidden width {width}, {} threads", kernels::pool::threads());
    for (format, is_bf16) in [("bf16", true), ("f32", false)] {
        let experts = |raw: &[[Vec<f32>; 3]]| raw.iter().map(|raw| neurons(raw, width, is_bf16)).collect::<Vec<_>>();
        let centroids = experts(&centroids);
        for (name, members) in [("shuffled copies", experts(&related)), ("unrelated", experts(&unrelated))] {
            let mut distances = vec![0.0; PAIRS];
            let mut best = Duration::MAX;
            for _ in 0..5 {
                let start = Instant::now();
                kernels::pool::for_each(distances.iter_mut().enumerate().collect(), |(pair, distance)| {
                    *distance = align(&centroids[pair % 4], &members[pair % 4], None).relative_after();
                });
                best = best.min(start.elapsed());
            }
            let (mean, speed) = (distances.iter().sum::<f64>() / PAIRS as f64, PAIRS as f64 / best.as_secs_f64());
            println!("{format}, {name}: {speed:.0} pairs/s, mean distance {mean:.3}");
        }
    }
}
