//! Episodes become rendered tokens with a weight each, packed into batches that do not leak.
