#!/usr/bin/env python3
"""Adapters between lateen and PEFT, both ways, on a model directory: the same logits, and merged the same again.

Usage: check_peft.py MODEL [--lateen target/release/lateen] [--adapter FOLDER…]
1. Adapters that PEFT makes here (plain, rsLoRA with rank patterns, fused experts, routers, modules saved whole) are run
   by lateen.
2. Each is merged by lateen, and the merged model must say in transformers what PEFT says.
3. Adapters that lateen wrote (--adapter, from a recipe's stage or a checkpoint) are loaded by PEFT without a missing
   or unexpected key, and both say the same.
Exits 1 above the tolerance (2e-4 absolute on logits: both sides compute in f32).
"""
import argparse, json, os, subprocess, sys, tempfile, warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--lateen", default="target/release/lateen")
parser.add_argument("--adapter", nargs="*", default=[])
parser.add_argument("--tolerance", type=float, default=2e-4)
args = parser.parse_args()
failed = False


def base():
    return AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()


def theirs(model, sequences):
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0].float() for ids in sequences]


def ours(scratch, sequences, model, *more):
    tokens, out = os.path.join(scratch, "tokens.json"), os.path.join(scratch, "logits.safetensors")
    with open(tokens, "w") as file:
        json.dump(sequences, file)
    subprocess.run([args.lateen, "inspect", "logits", model, "--tokens", tokens, "--out", out, *more],
                   check=True, capture_output=True)
    logits = load_file(out)
    return [logits[f"logits.{i}"] for i in range(len(sequences))]


def compare(what, ours, theirs, effect):
    global failed
    worst = max((a - b).abs().max().item() for a, b in zip(ours, theirs))
    good = worst <= args.tolerance and effect > 10 * args.tolerance
    failed |= not good
    print(f"{'ok ' if good else 'BAD'} {what}: logits differ by {worst:.1e}; the adapter changes them by {effect:.2f}")


torch.manual_seed(0)
model = base()
vocabulary = model.config.vocab_size
sequences = [torch.randint(0, vocabulary, (n,)).tolist() for n in (17, 64)]
plain = theirs(model, sequences)
leaves = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
has_experts = any(name.endswith("experts.gate_up_proj") for name, _ in model.named_parameters())
attention = [n for n in ("q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkvz", "in_proj_ba", "out_proj") if n in leaves]
experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] if has_experts else None
configs = {
    "attention": dict(r=4, lora_alpha=8, target_modules=attention),
    "rsLoRA with patterns": dict(r=4, lora_alpha=6, use_rslora=True, target_modules=attention,
                                 rank_pattern={"o_proj": 2, r"layers\.0\..*": 3}, alpha_pattern={"v_proj": 12}),
    "whole expression": dict(r=2, lora_alpha=4, target_modules=r".*layers\.[01]\..*(q_proj|out_proj|o_proj)"),
}
if has_experts:
    configs["experts"] = dict(r=4, lora_alpha=8, target_modules=attention, target_parameters=experts)
    configs["gate and up alone"] = dict(r=2, lora_alpha=4, target_modules=attention, target_parameters=experts[:1])
    configs["experts with patterns"] = dict(r=4, lora_alpha=8, target_modules=attention, target_parameters=experts,
                                            rank_pattern={"experts.down_proj": 3}, alpha_pattern={"gate_up_proj": 5})
    configs["routers"] = dict(r=2, lora_alpha=4, target_modules=attention, target_parameters=["mlp.gate.weight"])
# Whole modules: what stands outside of adapters, the table of tokens with the head among it.
kept = [n for n in ("input_layernorm", "model.norm", "conv1d", "mlp.gate", "shared_expert_gate")
        if any(name.endswith(n) for name, _ in model.named_modules())]
tied = bool(model.config.tie_word_embeddings)
configs["whole modules"] = dict(r=4, lora_alpha=8, target_modules=attention, modules_to_save=kept)
configs["table and head"] = dict(r=4, lora_alpha=8, target_modules=attention, ensure_weight_tying=tied,
                                 modules_to_save=["embed_tokens"] if tied else ["embed_tokens", "lm_head"])
for name, config in configs.items():
    torch.manual_seed(1)
    tuned = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **config)).eval()
    for key, parameter in tuned.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.05)
        elif "modules_to_save" in key:
            parameter.data += 0.02 * torch.randn_like(parameter)
    with tempfile.TemporaryDirectory() as scratch:
        adapter, merged = os.path.join(scratch, "adapter"), os.path.join(scratch, "merged")
        tuned.save_pretrained(adapter)
        wanted = theirs(tuned, sequences)
        effect = max((a - b).abs().max().item() for a, b in zip(wanted, plain))
        compare(f"PEFT's {name}", ours(scratch, sequences, args.model, "--adapter", adapter), wanted, effect)
        subprocess.run([args.lateen, "adapter", "merge", args.model, adapter, "-o", merged], check=True,
                       capture_output=True)
        again = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32, attn_implementation="eager").eval()
        # What is stored in bf16 is rounded once more.
        stored = max(t.element_size() == 2 for t in load_file(os.path.join(merged, "model.safetensors")).values())
        if not stored:
            compare(f"merged from PEFT's {name}", theirs(again, sequences), wanted, effect)
for adapter in args.adapter:
    with warnings.catch_warnings(record=True) as said, tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("always")
        tuned = PeftModel.from_pretrained(base(), adapter).eval()
        wanted = theirs(tuned, sequences)
        effect = max((a - b).abs().max().item() for a, b in zip(wanted, plain))
        compare(f"ours in {adapter}", ours(scratch, sequences, args.model, "--adapter", adapter), wanted, effect)
        for message in (str(w.message) for w in said):
            # PEFT says of patterns on fused experts that they match no module, of its own adapters too, and applies them:
            # the logits above would differ else. Keys of the file that are missing or left over are another matter.
            if "missing" in message.lower() or "unexpected" in message.lower():
                failed = True
                print(f"BAD {message}")
sys.exit(1 if failed else 0)
