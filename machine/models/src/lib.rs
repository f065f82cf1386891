//! The model family: one forward pass for qwen3_next, qwen3_moe, qwen3 and qwen2.
