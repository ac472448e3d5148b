"""The blocks that the engine writes against those of other tools.

    gguf_blocks_oracle.py QUANT_ENGINE MODEL

Types with a formula (f16, q8_0, q4_0, q4_1, q5_0, q5_1): byte for byte what the gguf package makes of the same weights.
k types: the gguf package decodes them, and the squared error is at most that of ggml's own quantizer, which xllamacpp
carries. With importance the engine's own weights are searched; there only decoding is compared.
"""
import ctypes
import json
import sys
import tempfile

import gguf
import numpy as np
import torch
from engine_jobs import run_job
from safetensors.torch import load_file

EXACT = ["f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]
SEARCHED = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]
LINEARS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
           "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
           "ffn_down": "mlp.down_proj"}


def ggml_quantize(weight, kind):
    import xllamacpp.xllamacpp
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    rows, columns = weight.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros((rows, columns // block * size), np.uint8)
    pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
    library.ggml_quantize_chunk(int(kind), pointer(weight), pointer(out), ctypes.c_int64(0), ctypes.c_int64(rows),
                                ctypes.c_int64(columns), None)
    return gguf.quants.dequantize(out, kind)


def paired(weight, heads):
    """The order of rows that llama.cpp's rotary embedding wants."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def originals(model):
    with open(model + "/config.json") as file:
        config = json.load(file)
    tensors = load_file(model + "/model.safetensors")
    for layer in range(config["num_hidden_layers"]):
        for name, module in LINEARS.items():
            weight = tensors[f"model.layers.{layer}.{module}.weight"].to(torch.float32).numpy()
            if name == "attn_q":
                weight = paired(weight, config["num_attention_heads"])
            if name == "attn_k":
                weight = paired(weight, config["num_key_value_heads"])
            yield f"blk.{layer}.{name}.weight", np.ascontiguousarray(weight)


def main(engine, model):
    for kind in EXACT + SEARCHED:
        with tempfile.TemporaryDirectory() as folder:
            run_job(engine, {"quantize": {"model": model, "method": "gguf", "options": {"type": kind}},
                             "runtime": {"device": "cpu"}}, folder)
            reader = gguf.GGUFReader(folder + "/out/model.gguf")
            written = {tensor.name: tensor for tensor in reader.tensors}
            ours = theirs = different = 0
            for name, weight in originals(model):
                tensor = written[name]
                assert tensor.tensor_type == gguf.GGMLQuantizationType[kind.upper()], (name, tensor.tensor_type)
                if kind in EXACT:
                    wanted = gguf.quants.quantize(weight, tensor.tensor_type).view(np.uint8)
                    different += int((tensor.data.view(np.uint8).ravel() != wanted.ravel()).sum())
                    continue
                decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(weight.shape)
                ours += float(((decoded - weight).astype(np.float64) ** 2).sum())
                other = ggml_quantize(weight, tensor.tensor_type).reshape(weight.shape)
                theirs += float(((other - weight).astype(np.float64) ** 2).sum())
        if kind in EXACT:
            print(f"{kind}: {different} bytes differ from the gguf package's", flush=True)
            assert different == 0, kind
        else:
            print(f"{kind}: squared error {ours / theirs:.3f} of ggml's", flush=True)
            assert ours <= theirs, kind


main(*sys.argv[1:])
