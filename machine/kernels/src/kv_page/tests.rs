//! Pages against the definition.

use super::{KvFormat, PAGE_TOKENS, Page, PageShape, row_width, scalar};
use crate::simd::testing::random;

#[test]
fn rows_read_back_as_they_are_kept() {
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
        for head_dim in [3, 16, 37, 64] {
            let shape = PageShape { kv_heads: 3, head_dim };
            let mut page = Page::empty(format, shape);
            let tokens = [0, 1, 17, PAGE_TOKENS - 1];
            let row = 3 * head_dim;
            let (keys, values) = (random(5, tokens.len() * row), random(6, tokens.len() * row));
            for (at, &token) in tokens.iter().enumerate() {
                page.write(token, &keys[at * row..(at + 1) * row], &values[at * row..(at + 1) * row]);
            }
            for (at, &token) in tokens.iter().enumerate() {
                for head in 0..3 {
                    let of = |all: &[f32]| scalar::kept(&all[at * row + head * head_dim..][..head_dim], format);
                    let found = [page.keys(head, token, 1).to_f32(), page.values(head, token, 1).to_f32()];
                    for (found, mut want) in found.into_iter().zip([of(&keys), of(&values)]) {
                        want.resize(row_width(head_dim), 0.0);
                        assert_eq!(found, want, "{format:?}, {head_dim} wide, token {token}, head {head}");
                    }
                }
            }
            assert_eq!(page.bytes(), 2 * 3 * PAGE_TOKENS * format.row_bytes(head_dim));
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    let shape = PageShape { kv_heads: 1, head_dim: 20 };
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut page = Page::empty(format, shape);
            let mut key = random(7, 20);
            key[19] = bad;
            page.write(9, &key, &random(8, 20));
            assert!(!page.keys(0, 9, 1).to_f32()[19].is_finite(), "{format:?}");
            assert!(page.values(0, 9, 1).to_f32().iter().all(|value| value.is_finite()));
        }
    }
}
