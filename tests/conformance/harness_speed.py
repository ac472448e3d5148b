"""How fast ARC is answered, against lm-evaluation-harness with transformers on the same cores, in turns in one run.

usage: harness_speed.py QUANT_ENGINE [SAMPLES]
Needs QUANTD_REF_MODELS (ref-17m) and QUANTD_DATA (arc/). Prints the ratio; a busy machine slows both. No time is
asserted, only that both did the same work.
"""
import os
import pathlib
import statistics
import sys
import tempfile
import time

from harness_oracle import arc_rows, install_metrics, run_engine, run_harness

ROUNDS = 3


def main(program, samples="200"):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    models, data = os.environ.get("QUANTD_REF_MODELS"), os.environ.get("QUANTD_DATA")
    if not models or not data:
        print("QUANTD_REF_MODELS or QUANTD_DATA is not set")
        sys.exit(77)
    path = pathlib.Path(models) / "ref-17m"
    arc = pathlib.Path(data) / "arc/ARC-Challenge-Test.jsonl"
    install_metrics()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    tasks = {"arc_challenge": ({"test": arc_rows(arc)}, arc, None, {})}
    ratios = []
    for _ in range(ROUNDS):
        start = time.monotonic()
        theirs = run_harness(model, tokenizer, tasks, {"arc_challenge": int(samples)})["arc_challenge"][0]
        harness = time.monotonic() - start
        with tempfile.TemporaryDirectory() as folder:
            ours, _ = run_engine(program, path, "arc_challenge", arc, None, int(samples), f"{folder}/o")
        engine = ours["arc_challenge/acc"]["seconds"]
        assert ours["arc_challenge/acc"]["value"] == theirs["acc,none"]
        ratios.append(harness / engine)
        print(f"harness {harness:.2f} s, engine {engine:.2f} s", flush=True)
    print(f"{samples} samples: {statistics.median(ratios):.2f} times as fast as the harness "
          f"({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
