"""A checkpoint of Llama-3.2-1B's shape (random weights, 2.5 GB) is quantized within 3 GiB of resident memory.

    memory_bound.py QUANT_ENGINE TOKENIZER_FOLDER

The engine's own high-water mark (VmHWM, polled) is the measure; file pages that it maps count.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import save_file

LIMIT_BYTES = 3 << 30
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "tie_word_embeddings": True, "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 0,
    "eos_token_id": 1,
}
LINEARS = {"self_attn.q_proj": (2048, 2048), "self_attn.k_proj": (512, 2048), "self_attn.v_proj": (512, 2048),
           "self_attn.o_proj": (2048, 2048), "mlp.gate_proj": (8192, 2048), "mlp.up_proj": (8192, 2048),
           "mlp.down_proj": (2048, 8192)}


def write_model(folder, tokenizer):
    torch.manual_seed(1)
    random = lambda *shape: (torch.randn(*shape) * 0.02).to(torch.bfloat16)
    weight_map = {}

    def save(name, tensors):
        save_file(tensors, f"{folder}/{name}", metadata={"format": "pt"})
        weight_map.update({tensor: name for tensor in tensors})

    save("model-00001-of-00017.safetensors",
         {"model.embed_tokens.weight": random(128256, 2048), "model.norm.weight": torch.ones(2048).bfloat16()})
    for layer in range(16):
        prefix = f"model.layers.{layer}."
        tensors = {f"{prefix}{name}.weight": random(*shape) for name, shape in LINEARS.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{norm}.weight"] = torch.ones(2048).bfloat16()
        save(f"model-{layer + 2:05d}-of-00017.safetensors", tensors)
    with open(f"{folder}/model.safetensors.index.json", "w") as file:
        json.dump({"metadata": {}, "weight_map": weight_map}, file)
    with open(f"{folder}/config.json", "w") as file:
        json.dump(CONFIG, file)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{tokenizer}/{name}", folder)


def high_water(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def quantize(engine, model, method, folder):
    for name in ("out", "work", "cache"):
        os.makedirs(f"{folder}/{name}")
    spec = {"quantize": {"model": model, "method": method,
                         "calibration": {"sequences": 2, "sequenceLength": 128}},
            "runtime": {"device": "cpu", "hostMemoryBytes": str(LIMIT_BYTES)}}
    for name, value in (("spec", spec), ("inputs", {})):
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump(value, file)
    start = time.time()
    with open(f"{folder}/events", "wb") as events, open(f"{folder}/log", "wb") as log:
        engine_run = subprocess.Popen(
            [engine, "run", "--spec", f"{folder}/spec.json", "--inputs", f"{folder}/inputs.json", "--output",
             f"{folder}/out", "--work", f"{folder}/work", "--cache", f"{folder}/cache", "--events-fd",
             str(events.fileno())], pass_fds=[events.fileno()], stdout=log, stderr=log)
        peak = 0
        while engine_run.poll() is None:
            peak = max(peak, high_water(engine_run.pid))
            if peak > LIMIT_BYTES:
                engine_run.kill()
                engine_run.wait()
                raise AssertionError(f"{method}: {peak / 2**20:.0f} MiB resident")
            time.sleep(0.02)
    with open(f"{folder}/events") as file:
        last = json.loads(file.readlines()[-1])
    assert engine_run.returncode == 0, (method, last)
    values = last["result"]["values"]
    print(f"{method}: peak {max(peak, values['peakHostBytes']) / 2**20:.0f} MiB, {time.time() - start:.0f} s, "
          f"{values['sizeBeforeBytes'] / 1e6:.0f} -> {values['sizeAfterBytes'] / 1e6:.0f} MB", flush=True)


def main(engine, tokenizer):
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(folder + "/model")
        write_model(folder + "/model", tokenizer)
        for method in ("rtn", "gptq"):
            os.makedirs(f"{folder}/{method}")
            quantize(engine, folder + "/model", method, f"{folder}/{method}")
            shutil.rmtree(f"{folder}/{method}")


main(*sys.argv[1:])
