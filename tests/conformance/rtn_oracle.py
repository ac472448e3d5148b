"""RTN against ten lines of numpy: codes and scales of every linear, bit for bit.

    rtn_oracle.py QUANT_ENGINE MODEL
"""
import sys
import tempfile

import numpy as np
import torch
from engine_jobs import decode_gptq, modules_of, read_tensors, run_job


def rtn(weight, bits, group):
    n, k = weight.shape
    group = k if group == -1 else group
    w = weight.reshape(n, k // group, group)
    largest = np.abs(w).max(axis=2)
    largest[largest == 0] = 1
    scale = np.maximum((2 * largest / np.float32(2**bits - 1)).astype(np.float16), np.float16(2**-24))
    zero = 2 ** (bits - 1)
    codes = np.clip(np.rint(w / scale.astype(np.float32)[:, :, None]) + zero, 0, 2**bits - 1)
    return codes.reshape(n, k), scale, zero


def main(engine, model):
    original = read_tensors(model)
    checked = 0
    for bits, group in [(2, 64), (3, 32), (3, 128), (4, -1), (4, 128), (8, 128), (8, -1)]:
        with tempfile.TemporaryDirectory() as folder:
            spec = {"quantize": {"model": model, "method": "rtn", "options": {"bits": bits, "group_size": group}},
                    "runtime": {"device": "cpu"}}
            run_job(engine, spec, folder)
            tensors = read_tensors(folder + "/out")
        assert len(modules_of(tensors)) == 42, len(modules_of(tensors))
        for module in modules_of(tensors):
            weight = original[module + ".weight"].to(torch.float32).numpy()
            expected_codes, expected_scale, expected_zero = rtn(weight, bits, group)
            codes, zeros, scales, g_idx = decode_gptq(tensors, module, bits)
            assert np.array_equal(codes, expected_codes), (module, bits, group)
            assert np.array_equal(scales.view(np.uint16), expected_scale.view(np.uint16)), (module, bits, group)
            assert (zeros == expected_zero).all(), (module, bits, group)
            width = weight.shape[1] if group == -1 else group
            assert np.array_equal(g_idx, np.arange(weight.shape[1]) // width)
            checked += 1
    print(f"{checked} linears equal bit for bit")


main(*sys.argv[1:])
