#!/usr/bin/env python3
"""Loads a model directory that lateen wrote with transformers and compares logits on random token sequences.

Usage: check_transformers.py MODEL [--lateen target/release/lateen] [--gradients]
Prints the largest absolute difference; exits 1 above the tolerance (2e-4: both sides compute in f32).
"""
import argparse, json, os, subprocess, sys, tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--lateen", default="target/release/lateen")
parser.add_argument("--gradients", action="store_true")
parser.add_argument("--tolerance", type=float, default=2e-4)
args = parser.parse_args()

torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
vocabulary = model.config.vocab_size
sequences = [torch.randint(0, vocabulary, (n,)).tolist() for n in (17, 64, 131)]
failed = False

with tempfile.TemporaryDirectory() as scratch:
    tokens = os.path.join(scratch, "tokens.json")
    json.dump(sequences, open(tokens, "w"))

    def ours(what):
        out = os.path.join(scratch, what + ".safetensors")
        subprocess.run([args.lateen, "inspect", what, args.model, "--tokens", tokens, "--out", out], check=True)
        return load_file(out)

    logits = ours("logits")
    for i, ids in enumerate(sequences):
        with torch.no_grad():
            theirs = model(torch.tensor([ids])).logits[0].float()
        difference = (theirs - logits[f"logits.{i}"]).abs().max().item()
        agree = (theirs.argmax(-1) == logits[f"logits.{i}"].argmax(-1)).float().mean().item()
        print(f"sequence of {len(ids)} tokens: largest logit {theirs.abs().max():.2f}, difference {difference:.2e}, same argmax {agree:.1%}")
        failed |= difference > args.tolerance

    if args.gradients:
        gradients = ours("gradients")
        predicted = sum(len(ids) - 1 for ids in sequences)
        model.zero_grad()
        for ids in sequences:
            out = model(torch.tensor([ids])).logits[0].float()
            loss = torch.nn.functional.cross_entropy(out[:-1], torch.tensor(ids[1:]), reduction="sum") / predicted
            loss.backward()
        worst = 0.0
        for name, parameter in model.named_parameters():
            key = "grad." + name
            if key in gradients and parameter.grad is not None:
                scale = parameter.grad.norm().item()
                worst = max(worst, (gradients[key].reshape(parameter.shape) - parameter.grad).norm().item() / (scale + 1e-12))
        print(f"gradients: worst relative error of a tensor {worst:.2e}")
        failed |= worst > 1e-3

if os.path.exists(os.path.join(args.model, "tokenizer.json")):
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    print("tokenizer:", len(tokenizer), "entries; chat:", repr(tokenizer.apply_chat_template(
        [{"role": "user", "content": "Write f."}], tokenize=False, add_generation_prompt=True)))
sys.exit(1 if failed else 0)
