#!/usr/bin/env python3
"""A hybrid mixture of 200 million parameters with random weights, for measuring speed: Qwen3-Next's layers, narrower.

Usage: make_hybrid.py OUT
"""
import sys

import torch
from transformers import AutoModelForCausalLM, Qwen3NextConfig

torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(Qwen3NextConfig(
    vocab_size=8192, hidden_size=512, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=2, head_dim=64,
    linear_num_key_heads=8, linear_num_value_heads=16, linear_key_head_dim=64, linear_value_head_dim=64,
    num_experts=32, num_experts_per_tok=4, moe_intermediate_size=256, shared_expert_intermediate_size=256,
    max_position_embeddings=8192, tie_word_embeddings=True, dtype=torch.float32))
print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters")
model.save_pretrained(sys.argv[1])
