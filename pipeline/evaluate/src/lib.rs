//! Evaluation: perplexity, divergence from a teacher, tasks, parity, speed.
