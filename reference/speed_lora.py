#!/usr/bin/env python3
"""Speed of training an adapter on every projection and every expert: lateen and PEFT, interleaved on one machine.

Usage: cargo build --release -p models --example lora_speed
       speed_lora.py MODEL [--speed target/release/examples/lora_speed] [--rank 16] [--rounds 3] [--threads 2]
                     [--experts-alone TOKENS]
Forward and backward of a batch of 8 sequences of 256 tokens, without the optimizer's step on either side. PEFT adapts
the fused experts through target_parameters (its ParamWrapper). The experts of the first layer are timed by themselves
too, with --experts-alone nothing else, on so many tokens. MODEL may hold a config.json alone; weights are random then.
Medians of tokens/s and their ratios are printed.
"""
import argparse, glob, json, os, statistics, subprocess, time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--speed", default="target/release/examples/lora_speed")
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--experts-alone", type=int, metavar="TOKENS")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
if glob.glob(f"{args.model}/*.safetensors"):
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
else:
    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(args.model), dtype=torch.float32)
names = {name.rsplit(".", 1)[-1] for name, _ in base.named_modules()}
wanted = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkvz", "out_proj"]
model = get_peft_model(base, LoraConfig(
    r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules=[n for n in wanted if n in names],
    target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], task_type="CAUSAL_LM"))
ids = torch.randint(0, base.config.vocab_size, (8, 256))


def theirs(autocast):
    start = time.time()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        model(ids, labels=ids).loss.backward()
    return ids.numel() / (time.time() - start)


block = base.model.layers[0].mlp
count = args.experts_alone or ids.numel()
rows = torch.randn(count, base.config.hidden_size, requires_grad=True)
gates, chosen = torch.rand(count, base.config.num_experts).topk(base.config.num_experts_per_tok)
gates = gates / gates.sum(-1, keepdim=True)
asked = torch.randn_like(rows)


def their_experts(autocast):
    start = time.time()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        said = block.experts(rows, chosen, gates)
    said.float().backward(asked)
    return count / (time.time() - start)


def ours():
    tokens = [str(args.experts_alone)] if args.experts_alone else []
    command = [args.speed, args.model, str(args.rank), *tokens]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


found = {}
for round_ in range(args.rounds + 1):
    values = {f"lateen {name}": value for name, value in ours().items() if name != "rank"}
    if not args.experts_alone:
        values |= {"peft f32": theirs(False), "peft bf16": theirs(True)}
    values |= {"peft experts f32": their_experts(False), "peft experts bf16": their_experts(True)}
    if round_ > 0:  # the first warms up
        for name, value in values.items():
            found.setdefault(name, []).append(value)
medians = {name: statistics.median(values) for name, values in found.items()}
for name, value in medians.items():
    print(f"{name:26} {value:10.1f} tokens/s   (of {['%.1f' % v for v in found[name]]})")
for precision in ("f32", "bf16"):
    experts = medians[f"lateen experts_{precision}"] / medians[f"peft experts {precision}"]
    print(f"{precision}: experts alone {experts:.2f} x peft")
    if not args.experts_alone:
        ratio = medians[f"lateen lora_{precision}"] / medians[f"peft {precision}"]
        full = medians[f"lateen lora_{precision}"] / medians[f"lateen full_{precision}"]
        print(f"{precision}: {ratio:.2f} x peft; {full:.2f} x our full training")
