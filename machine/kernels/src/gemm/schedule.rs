//! Who computes what: products cut into tiles, tiles given to threads.

use super::blocking::{COLUMN_ALIGNMENT, Tile, run_tile};
use super::product::{Product, Variant};
use crate::pool;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tiles per thread, so that a thread that is kept from its work does not keep everyone waiting.
const TILES_PER_THREAD: usize = 2;

/// Packing an element of the right factor costs about this many times one of the left.
const RIGHT_COST: usize = 2;

/// Computes all `products`. Every output element is one thread's, in an order fixed by the shapes alone.
pub(super) fn run(variant: &Variant, products: &[Product]) {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    // Relaxed: only the numbers' being different matters.
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let total: u64 = products.iter().map(Product::flops).sum();
    let threads = if total < variant.parallel_flops { 1 } else { pool::threads() };
    let tiles = cut(variant, products, total, threads);
    let compute = |tile: &Tile| run_tile(variant, &products[tile.product], tile, call);
    if threads == 1 || tiles.len() < 2 {
        tiles.iter().for_each(compute);
    } else {
        pool::run(tiles.len(), &|index| compute(&tiles[index]));
    }
}

fn cut(variant: &Variant, products: &[Product], total: u64, threads: usize) -> Vec<Tile> {
    let mut tiles = Vec::with_capacity(products.len() + threads * TILES_PER_THREAD);
    for (index, product) in products.iter().enumerate() {
        if product.rows == 0 || product.columns == 0 {
            continue;
        }
        let wanted = if threads == 1 { 1 } else { pieces(product, total, threads) };
        let (row_parts, column_parts) = grid(variant, product, wanted, threads);
        let row_step = product.rows.div_ceil(row_parts).next_multiple_of(variant.panel_rows);
        let column_step = product.columns.div_ceil(column_parts).next_multiple_of(COLUMN_ALIGNMENT);
        for row in (0..product.rows).step_by(row_step) {
            for column in (0..product.columns).step_by(column_step) {
                tiles.push(Tile {
                    product: index,
                    rows: row..(row + row_step).min(product.rows),
                    columns: column..(column + column_step).min(product.columns),
                });
            }
        }
    }
    tiles
}

/// Into how many tiles a product is cut: as many as its share of the work.
fn pieces(product: &Product, total: u64, threads: usize) -> usize {
    let share = product.flops() as f64 / total as f64;
    (share * (threads * TILES_PER_THREAD) as f64).round().max(1.0) as usize
}

/// How a product is cut into `wanted` tiles: by rows and by columns, so that the least is packed more than once.
fn grid(variant: &Variant, product: &Product, wanted: usize, threads: usize) -> (usize, usize) {
    let most_rows = product.rows.div_ceil(variant.panel_rows);
    let most_columns = product.columns.div_ceil(COLUMN_ALIGNMENT);
    let cost = |row_parts: usize| {
        let column_parts = wanted.div_ceil(row_parts).min(most_columns);
        // A thread keeps the right block that it packed last, so that more rows a thread do not pack it again.
        let packed = column_parts * product.rows + row_parts.min(threads) * product.columns * RIGHT_COST;
        let missing = wanted.saturating_sub(row_parts * column_parts);
        (missing, packed)
    };
    let row_parts = (1..=wanted.min(most_rows)).min_by_key(|&parts| cost(parts)).unwrap_or(1);
    (row_parts, wanted.div_ceil(row_parts).min(most_columns))
}
