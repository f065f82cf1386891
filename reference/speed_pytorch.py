#!/usr/bin/env python3
"""Training and decoding speed on the same model and machine: lateen and eager transformers/PyTorch, interleaved.

Usage: cargo build --release -p models --example training_speed
       speed_pytorch.py MODEL [--speed target/release/examples/training_speed] [--rounds 5] [--threads 2]
Training is forward and backward of a batch of 8 sequences of 256 tokens, in f32 and with bf16 products on both sides
(PyTorch: autocast), without the optimizer's step on either. Both decode one token at a time after a prompt
of 128 tokens. Medians are printed, and their ratios.
"""
import argparse, json, os, statistics, subprocess, time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--speed", default="target/release/examples/training_speed")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
ids = torch.randint(0, model.config.vocab_size, (8, 256))


def torch_train(autocast):
    start = time.time()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        model(ids, labels=ids).loss.backward()
    return ids.numel() / (time.time() - start)


@torch.no_grad()
def torch_decode(count=32):
    out = model(ids[:1, :128], use_cache=True)
    cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
    start = time.time()
    for _ in range(count):
        out = model(token, past_key_values=cache, use_cache=True)
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
    return count / (time.time() - start)


def ours():
    """Forward and backward without the optimizer's step, which is below 2 % of it."""
    run = subprocess.run([args.speed, args.model], check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


rows = {}
for round_ in range(args.rounds + 1):
    values = {"lateen": ours(), "torch f32": {"train": torch_train(False), "decode": torch_decode()},
              "torch bf16": {"train": torch_train(True), "decode": None}}
    if round_ == 0:
        continue  # warm-up
    for side, value in values.items():
        if side == "lateen":
            value = {"train": value["train_tokens_per_second"], "decode": value["decode_tokens_per_second"],
                     "train f32": value["train_f32_tokens_per_second"]}
        for what, figure in value.items():
            if figure is not None:
                rows.setdefault((side, what), []).append(figure)
medians = {key: statistics.median(values) for key, values in rows.items()}
for (side, what), value in sorted(medians.items()):
    print(f"{side:11} {what:10} {value:10.1f} tokens/s   (of {['%.1f' % v for v in rows[side, what]]})")
print(f"training, bf16 against torch f32: {medians['lateen', 'train'] / medians['torch f32', 'train']:.2f} x")
print(f"training, bf16 against torch bf16: {medians['lateen', 'train'] / medians['torch bf16', 'train']:.2f} x")
print(f"training, f32 against torch f32: {medians['lateen', 'train f32'] / medians['torch f32', 'train']:.2f} x")
print(f"decoding: {medians['lateen', 'decode'] / medians['torch f32', 'decode']:.2f} x")
