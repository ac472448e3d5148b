"""Runs quant-engine as the agent does and decodes what it writes, for the oracles beside this file.

The decoder is written from the format's description alone and shares nothing with the engine.
"""
import json
import os
import subprocess

import numpy as np
import torch
from safetensors.torch import load_file


def run_job(engine, spec, folder, expect_rc=0, env=None, inputs=None):
    """Runs one job; returns its Result values (or the Failure message) and the fallbacks."""
    folder = str(folder)
    for name in ("out", "work", "cache"):
        os.makedirs(f"{folder}/{name}", exist_ok=True)
    for name, value in (("spec", spec), ("inputs", inputs or {})):
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump(value, file)
    with open(f"{folder}/events.jsonl", "wb") as events, open(f"{folder}/log.txt", "wb") as log:
        done = subprocess.run(
            [engine, "run", "--spec", f"{folder}/spec.json", "--inputs", f"{folder}/inputs.json", "--output",
             f"{folder}/out", "--work", f"{folder}/work", "--cache", f"{folder}/cache", "--events-fd",
             str(events.fileno())],
            pass_fds=[events.fileno()], stdout=log, stderr=log, env=env)
    with open(f"{folder}/events.jsonl") as file:
        lines = [json.loads(line) for line in file if line.strip()]
    if done.returncode != expect_rc:
        with open(f"{folder}/log.txt") as file:
            raise AssertionError(f"exit {done.returncode}, last event {lines[-1:]}, log:\n{file.read()[-3000:]}")
    last = lines[-1]
    answer = last["result"]["values"] if "result" in last else last["failure"]
    return answer, [line["fallback"] for line in lines if "fallback" in line]


def read_tensors(folder):
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, name)))
    return tensors


def unpack(words, bits, axis):
    """Dense little-endian bit stream along `axis` of an int32 matrix -> codes."""
    words = np.moveaxis(words.view(np.uint32), axis, 0)
    stream = np.unpackbits(np.ascontiguousarray(words.T).view(np.uint8), axis=1, bitorder="little")
    codes = stream.reshape(stream.shape[0], -1, bits)
    codes = (codes * (1 << np.arange(bits))).sum(axis=2)
    return codes


def decode_gptq(tensors, module, bits):
    """codes [N, K], zeros [N, G], scales float16 [N, G], g_idx [K]."""
    codes = unpack(tensors[module + ".qweight"].numpy(), bits, 0)  # A stream an output row.
    zeros = unpack(tensors[module + ".qzeros"].numpy(), bits, 1).T + 1  # A stream a group.
    return codes, zeros, tensors[module + ".scales"].numpy().T, tensors[module + ".g_idx"].numpy()


def dense_gptq(tensors, module, bits):
    codes, zeros, scales, g_idx = decode_gptq(tensors, module, bits)
    return scales.astype(np.float32)[:, g_idx] * (codes - zeros[:, g_idx]).astype(np.float32)


def modules_of(tensors):
    return sorted(name[: -len(".qweight")] for name in tensors if name.endswith(".qweight"))


def dequantized_model(original, quantized, bits_of=lambda module: 4):
    """The original in float32 through transformers, with every tensor that the quantized copy holds, linears decoded."""
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    tensors = read_tensors(quantized)
    modules = modules_of(tensors)
    if "lm_head.weight" in tensors:  # A rotated model's head is its own.
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    for name, tensor in tensors.items():
        if name.rpartition(".")[0] not in modules or name.endswith(".bias"):
            model.get_parameter(name).data.copy_(tensor)
    for module in modules:
        weight = torch.from_numpy(dense_gptq(tensors, module, bits_of(module)))
        model.get_submodule(module).weight.data.copy_(weight)
    return model.eval()
