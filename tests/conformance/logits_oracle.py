"""The decoder against transformers: logits, block streaming, the KV cache, greedy generation.

Usage: logits_oracle.py MODELS_DUMP [MODEL_FOLDER ...]

Checks models/tiny-6m, the folders given or named by QUANTD_REF_MODELS (colon-separated), and small random
checkpoints of every architecture, made here with transformers' own save_pretrained. QUANTD_ORACLE_DEVICE
(default "cpu") is where the engine runs; transformers always runs on the CPU. Needs no network.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

DUMP = sys.argv[1]
DEVICE = os.environ.get("QUANTD_ORACLE_DEVICE", "cpu")
SOURCE = Path(__file__).resolve().parents[2]
SEED = 20260101
NEW_TOKENS = 64

# float32: the promise of the engine. Two programs that add the same numbers in another order differ by about
# 1e-7 of the largest logit (20 here) a layer.
ABS_ERROR_FP32 = 1e-4

# 16 bits: transformers' own 16-bit logits differ from its float32 ones by E (maximum) and e (root mean square). The
# engine makes the same casts in the same order and differs only where sums are ordered otherwise, which is one
# rounding of the same size as those that make up E. Its error against float32 must therefore be that of
# transformers up to the spread of a maximum over other roundings: 2 E for the maximum, and for the mean,
# over thousands of logits a far steadier number, 1.25 e.
FACTOR_MAX_16 = 2.0
FACTOR_RMS_16 = 1.25


def small(cls, **changes):
    """A config of a few thousand weights; large initial weights, so that attention is far from uniform."""
    fields = dict(vocab_size=199, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, rms_norm_eps=1e-5,
                  bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=False)
    fields.update(changes)
    return cls(**fields)


def rope(kind, **fields):
    return dict(rope_type=kind, rope_theta=10000.0, **fields)


LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

# name: (config, extra arguments of save_pretrained)
RANDOM = {
    "llama": (small(LlamaConfig), {}),
    "llama-tied": (small(LlamaConfig, tie_word_embeddings=True), {}),
    "llama-mha": (small(LlamaConfig, num_key_value_heads=4), {}),
    "llama-mqa-gelu": (small(LlamaConfig, num_key_value_heads=1, hidden_act="gelu"), {}),
    "llama-biases": (small(LlamaConfig, attention_bias=True, mlp_bias=True, hidden_act="gelu_pytorch_tanh"), {}),
    "llama-head-dim": (small(LlamaConfig, head_dim=24), {}),
    "llama-llama3": (small(LlamaConfig, rope_parameters=LLAMA3), {}),
    "llama-linear": (small(LlamaConfig, rope_parameters=rope("linear", factor=4.0)), {}),
    "llama-sharded": (small(LlamaConfig), dict(max_shard_size="60KB")),
    "mistral": (small(MistralConfig, sliding_window=None), {}),
    "mistral-window": (small(MistralConfig, sliding_window=9, head_dim=32), {}),
    "qwen2": (small(Qwen2Config), {}),
    "qwen2-window": (small(Qwen2Config, use_sliding_window=True, sliding_window=7, max_window_layers=1), {}),
    "qwen3": (small(Qwen3Config, head_dim=32), {}),
    "qwen3-biases-tied": (small(Qwen3Config, head_dim=16, attention_bias=True, tie_word_embeddings=True), {}),
    "qwen3-layer-types": (small(Qwen3Config, head_dim=16, use_sliding_window=True, sliding_window=5,
                                layer_types=["sliding_attention", "full_attention", "sliding_attention"]), {}),
}

# One thread: the models are small, and two programs that spin for the same processors take a hundred times longer.
torch.set_num_threads(1)

failures = []


def check(name, good, words):
    if not good:
        failures.append(f"{name}: {words}")
    print(f"  {'ok  ' if good else 'FAIL'} {words}", flush=True)


def ask(folder, request):
    """What models_dump makes of `request`: (tensors, measurements)."""
    with tempfile.TemporaryDirectory() as work:
        ask_path, out_path = Path(work, "request.json"), Path(work, "out.safetensors")
        ask_path.write_text(json.dumps(dict(request, device=DEVICE, threads=1)))
        run = subprocess.run([DUMP, str(folder), str(ask_path), str(out_path)], capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"{folder}: {run.stderr}")
        return load_file(out_path), json.loads(run.stdout)


@torch.no_grad()
def reference(folder, dtype, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    return model, model(ids).logits.float()


@torch.no_grad()
def greedy(model, prompt):
    """transformers' own forward pass and argmax; generate() would stop or alter tokens by generation_config.json."""
    ids, cache, tokens = torch.tensor([prompt]), None, []
    for _ in range(NEW_TOKENS):
        out = model(ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        tokens.append(int(out.logits[0, -1].argmax()))
        ids = torch.tensor([[tokens[-1]]])
    return tokens


def compare(name, folder, bench=False):
    print(name)
    generator = torch.Generator().manual_seed(SEED)
    vocabulary = json.loads(Path(folder, "config.json").read_text())["vocab_size"]
    ids = torch.randint(vocabulary, (3, 48), generator=generator)
    prompts = [ids[0, :5].tolist(), ids[1, :17].tolist(), ids[2, :1].tolist()]
    request = dict(dtype="float32", sequences=ids.tolist(), chunks=[11, 1, 1, 5], prompts=prompts,
                   new_tokens=NEW_TOKENS)
    if bench:
        request["bench_tokens"] = 256
    ours, measured = ask(folder, request)
    model, expected = reference(folder, torch.float32, ids)
    for way in ("logits", "streamed", "cached"):
        error = (ours[way] - expected).abs().max().item()
        check(name, error <= ABS_ERROR_FP32, f"float32 {way}: max abs error {error:.2e} (allowed {ABS_ERROR_FP32:.0e})")
    tokens = [greedy(model, prompt) for prompt in prompts]
    for way in ("together", "alone"):
        check(name, ours[way].tolist() == tokens, f"{NEW_TOKENS} greedy tokens from prompts {way}")
    if bench:
        print("  ", json.dumps(measured))
    for dtype in (torch.bfloat16, torch.float16):
        compare16(name, folder, ids, expected, dtype)


def compare16(name, folder, ids, expected, dtype):
    text = str(dtype).removeprefix("torch.")
    ours, _ = ask(folder, dict(dtype=text, sequences=ids.tolist(), chunks=[11, 1, 1, 5]))
    _, theirs = reference(folder, dtype, ids)
    their_max, their_rms = (theirs - expected).abs().max().item(), (theirs - expected).square().mean().sqrt().item()
    for way in ("logits", "cached"):
        error = ours[way] - expected
        error_max, error_rms = error.abs().max().item(), error.square().mean().sqrt().item()
        good = error_max <= FACTOR_MAX_16 * their_max and error_rms <= FACTOR_RMS_16 * their_rms
        check(name, good, f"{text} {way}: error max {error_max:.3g}, rms {error_rms:.3g}"
                          f" (transformers {their_max:.3g}, {their_rms:.3g})")


def randomize_norms_and_biases(model):
    """Fresh models have norms of one and biases of zero, which would hide a forgotten one."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.3)


def main():
    torch.manual_seed(SEED)
    named = sys.argv[2:] + [f for f in os.environ.get("QUANTD_REF_MODELS", "").split(":") if f]
    for folder in [SOURCE / "models/tiny-6m"] + named:
        compare(Path(folder).name, folder, bench=True)
    with tempfile.TemporaryDirectory() as work:
        for name, (config, extra) in RANDOM.items():
            model = AutoModelForCausalLM.from_config(config)
            randomize_norms_and_biases(model)
            model.save_pretrained(Path(work, name), **extra)
            compare(name, Path(work, name))
        shards = list(Path(work, "llama-sharded").glob("*.safetensors"))
        check("llama-sharded", len(shards) > 1, f"{len(shards)} shards")
    print(f"{len(failures)} failures", *failures, sep="\n")
    sys.exit(1 if failures else 0)


main()
