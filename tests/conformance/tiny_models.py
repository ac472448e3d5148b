"""Small random checkpoints of every architecture, made with transformers' own save_pretrained.

Usage: tiny_models.py FOLDER [NAME ...]   (writes FOLDER/NAME for each; without names: all)

A few thousand weights each, large enough initial values that attention is far from uniform, and norms and biases that
are not ones and zeros, which would hide a forgotten one. The same bytes every time.
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig,
                          MixtralConfig, Phi3Config, PhiConfig, Qwen2Config, Qwen3Config, Qwen3MoeConfig)

SEED = 20260101


def small(cls, **changes):
    fields = dict(vocab_size=199, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, rms_norm_eps=1e-5,
                  bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=False)
    fields.update(changes)
    return cls(**{name: value for name, value in fields.items() if value is not REMOVED})


REMOVED = object()


def gpt2(**changes):
    fields = dict(vocab_size=199, n_embd=64, n_layer=3, n_head=4, n_positions=256, initializer_range=0.2,
                  bos_token_id=None, eos_token_id=None)
    fields.update(changes)
    return GPT2Config(**fields)


def phi(**changes):
    return small(PhiConfig, rms_norm_eps=REMOVED, **changes)


def gemma(cls, **changes):
    fields = dict(head_dim=24, query_pre_attn_scalar=20, sliding_window=9, tie_word_embeddings=True,
                  initializer_range=0.1)
    fields.update(changes)
    return small(cls, **fields)


def rope(kind, **fields):
    return dict(rope_type=kind, rope_theta=10000.0, **fields)


def longrope(pairs, **fields):
    return rope("longrope", short_factor=[1.0 + 0.05 * i for i in range(pairs)],
                long_factor=[2.0 + 0.5 * i for i in range(pairs)], **fields)


LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=32)
LOCAL = dict(full_attention=rope("linear", factor=8.0) | dict(rope_theta=1e6),
             sliding_attention=dict(rope_type="default", rope_theta=5000.0))

# name: (config, extra arguments of save_pretrained). Sequences of the oracle have 48 tokens and more.
MODELS = {
    "llama": (small(LlamaConfig), {}),
    "llama-tied": (small(LlamaConfig, tie_word_embeddings=True), {}),
    "llama-mha": (small(LlamaConfig, num_key_value_heads=4), {}),
    "llama-mqa-gelu": (small(LlamaConfig, num_key_value_heads=1, hidden_act="gelu"), {}),
    "llama-biases": (small(LlamaConfig, attention_bias=True, mlp_bias=True, hidden_act="gelu_pytorch_tanh"), {}),
    "llama-head-dim": (small(LlamaConfig, head_dim=24), {}),
    "llama-llama3": (small(LlamaConfig, rope_parameters=LLAMA3), {}),
    "llama-linear": (small(LlamaConfig, rope_parameters=rope("linear", factor=4.0)), {}),
    "llama-dynamic": (small(LlamaConfig, max_position_embeddings=40, rope_parameters=rope("dynamic", factor=2.0)), {}),
    "llama-yarn": (small(LlamaConfig, rope_parameters=YARN), {}),
    "llama-yarn-mscale": (small(LlamaConfig, head_dim=32, rope_parameters=dict(
        YARN, mscale=0.7, mscale_all_dim=0.4, beta_fast=16.0, beta_slow=2.0, truncate=False)), {}),
    "llama-longrope": (small(LlamaConfig, rope_parameters=longrope(8, factor=4.0,
                                                                   original_max_position_embeddings=32)), {}),
    "llama-sharded": (small(LlamaConfig), dict(max_shard_size="60KB")),
    "mistral": (small(MistralConfig, sliding_window=None), {}),
    "mistral-window": (small(MistralConfig, sliding_window=9, head_dim=32), {}),
    "mixtral": (small(MixtralConfig, num_local_experts=4, num_experts_per_tok=2), {}),
    "mixtral-window-tied": (small(MixtralConfig, num_local_experts=5, num_experts_per_tok=1, sliding_window=9,
                                  head_dim=24, tie_word_embeddings=True), {}),
    "qwen2": (small(Qwen2Config), {}),
    "qwen2-window": (small(Qwen2Config, use_sliding_window=True, sliding_window=7, max_window_layers=1), {}),
    "qwen2-yarn": (small(Qwen2Config, rope_parameters=YARN), {}),
    "qwen3": (small(Qwen3Config, head_dim=32), {}),
    "qwen3-biases-tied": (small(Qwen3Config, head_dim=16, attention_bias=True, tie_word_embeddings=True), {}),
    "qwen3-layer-types": (small(Qwen3Config, head_dim=16, use_sliding_window=True, sliding_window=5,
                                layer_types=["sliding_attention", "full_attention", "sliding_attention"]), {}),
    "qwen3moe": (small(Qwen3MoeConfig, head_dim=16, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=40,
                       norm_topk_prob=True), {}),
    "qwen3moe-dense-layers": (small(Qwen3MoeConfig, head_dim=24, num_experts=4, num_experts_per_tok=3,
                                    moe_intermediate_size=32, decoder_sparse_step=2, num_hidden_layers=4,
                                    mlp_only_layers=[3], attention_bias=True, use_sliding_window=True,
                                    sliding_window=9), {}),
    "gpt2": (gpt2(), {}),
    "gpt2-inner-untied": (gpt2(n_inner=96, tie_word_embeddings=False, activation_function="gelu"), {}),
    "gpt2-scales": (gpt2(scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False, initializer_range=0.1), {}),
    "gpt2-old": (gpt2(), {}),
    "phi": (phi(num_key_value_heads=4), {}),
    "phi-gqa-norms": (phi(qk_layernorm=True, hidden_act="gelu"), {}),
    "phi-part": (phi(hidden_size=80, num_attention_heads=2, rope_parameters=dict(
        rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.4)), {}),
    "phi3": (small(Phi3Config), {}),
    "phi3-window-tied": (small(Phi3Config, sliding_window=9, tie_word_embeddings=True, num_key_value_heads=4), {}),
    "phi3-longrope": (small(Phi3Config, original_max_position_embeddings=32, rope_parameters=longrope(8)), {}),
    "phi3-longrope-part": (small(Phi3Config, original_max_position_embeddings=60, rope_parameters=longrope(
        6, partial_rotary_factor=0.75)), {}),
    "gemma2": (gemma(Gemma2Config, attn_logit_softcapping=2.0, final_logit_softcapping=3.0), {}),
    "gemma2-uncapped-untied": (gemma(Gemma2Config, attn_logit_softcapping=None, final_logit_softcapping=None,
                                     tie_word_embeddings=False, attention_bias=True, num_key_value_heads=4), {}),
    "gemma3": (gemma(Gemma3TextConfig, num_hidden_layers=7), {}),
    "gemma3-ropes": (gemma(Gemma3TextConfig, rope_parameters=LOCAL, num_hidden_layers=4,
                           layer_types=["full_attention", "sliding_attention"] * 2), {}),
}


def make(name, folder):
    config, extra = MODELS[name]
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(folder, **extra)
    if name == "gpt2-old":
        as_saved_long_ago(folder)


def as_saved_long_ago(folder):
    """The first GPT-2 files: saved from the bare decoder, causal masks among the weights."""
    tensors = load_file(folder / "model.safetensors")
    old = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    layers, positions = MODELS["gpt2-old"][0].n_layer, MODELS["gpt2-old"][0].n_positions
    for layer in range(layers):
        old[f"h.{layer}.attn.bias"] = torch.ones(positions, positions).tril().view(1, 1, positions, positions)
        old[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(config, n_ctx=positions)))


if __name__ == "__main__":
    for wanted in sys.argv[2:] or MODELS:
        make(wanted, Path(sys.argv[1], wanted))
