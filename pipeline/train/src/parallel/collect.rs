//! What all ranks do together: along a binary tree whose root is the first rank, so that sums have one order, whatever
//! the transport.

use super::{Ranks, trained};
use numeric::wire::{Message, Reading};
use ops::{Gradients, Parameter};

/// Numbers of a message: enough to be fast, few beside a model.
const PIECE: usize = 4 << 20;

/// The distances to a rank's children in the tree, the nearest first; and its parent, if it has one.
fn neighbours(rank: usize, size: usize) -> (Vec<usize>, Option<usize>) {
    let lowest = if rank == 0 { size.next_power_of_two() } else { rank & rank.wrapping_neg() };
    let children = (0..).map(|bit| 1 << bit).take_while(|&step| step < lowest && rank + step < size);
    (children.map(|step| rank + step).collect(), (rank > 0).then(|| rank - lowest))
}

/// The first rank's bytes, to all.
pub(super) fn broadcast(ranks: &dyn Ranks, message: Option<Message>) -> Vec<u8> {
    let (children, parent) = neighbours(ranks.rank(), ranks.size());
    let bytes = match (parent, message) {
        (None, Some(message)) => message.into_bytes(),
        (Some(parent), None) => ranks.receive(parent),
        (None, None) | (Some(_), Some(_)) => unreachable!("the first rank alone has something to say"),
    };
    children.iter().rev().for_each(|&child| ranks.send(child, &bytes));
    bytes
}

/// Leaves the sum over all ranks with the first; the others keep part of it.
pub(super) fn sum(ranks: &dyn Ranks, numbers: &mut [f32]) {
    let (children, parent) = neighbours(ranks.rank(), ranks.size());
    for child in children {
        let bytes = ranks.receive(child);
        let mut reading = Reading::new(&bytes);
        let others = reading.take_f32s();
        reading.end();
        assert_eq!(others.len(), numbers.len(), "rank {child} sums something else");
        numbers.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
    }
    if let Some(parent) = parent {
        let mut message = Message::default();
        message.put_f32s(numbers);
        ranks.send(parent, message.bytes());
    }
}

/// Leaves the sum of all gradients of the trained ones among these with the first rank. What no rank has met stays
/// without a gradient.
pub(super) fn sum_gradients(ranks: &dyn Ranks, parameters: &[&Parameter], gradients: &mut Gradients) {
    let trained = trained(parameters);
    let mut met: Vec<f32> =
        trained.iter().map(|parameter| f32::from(u8::from(gradients.get(parameter.id).is_some()))).collect();
    sum(ranks, &mut met);
    let met = share_out(ranks, met);
    let mut piece: Vec<&Parameter> = Vec::new();
    let mut numbers = 0;
    for parameter in trained.into_iter().zip(met).filter(|(_, met)| *met > 0.0).map(|(parameter, _)| parameter) {
        numbers += gradients.entry(parameter).len();
        piece.push(parameter);
        if numbers >= PIECE {
            sum_piece(ranks, &piece, gradients);
            piece.clear();
            numbers = 0;
        }
    }
    sum_piece(ranks, &piece, gradients);
}

/// The first rank's numbers, to all.
fn share_out(ranks: &dyn Ranks, numbers: Vec<f32>) -> Vec<f32> {
    let message = (ranks.rank() == 0).then(|| {
        let mut message = Message::default();
        message.put_f32s(&numbers);
        message
    });
    let bytes = broadcast(ranks, message);
    Reading::new(&bytes).take_f32s()
}

fn sum_piece(ranks: &dyn Ranks, parameters: &[&Parameter], gradients: &mut Gradients) {
    let mut numbers = Vec::new();
    parameters.iter().for_each(|parameter| numbers.extend_from_slice(gradients.entry(parameter)));
    sum(ranks, &mut numbers);
    let mut rest = numbers.as_slice();
    for parameter in parameters {
        let gradient = gradients.entry(parameter);
        let (own, others) = rest.split_at(gradient.len());
        gradient.copy_from_slice(own);
        rest = others;
    }
}

#[cfg(test)]
mod tests {
    use super::neighbours;

    #[test]
    fn every_rank_is_one_others_child() {
        for size in 1..20 {
            let mut seen = vec![0; size];
            for rank in 0..size {
                for child in neighbours(rank, size).0 {
                    assert_eq!(neighbours(child, size).1, Some(rank), "{size}");
                    seen[child] += 1;
                }
            }
            assert_eq!(seen[0], 0);
            assert!(seen[1..].iter().all(|&times| times == 1), "{size}: {seen:?}");
        }
    }
}
