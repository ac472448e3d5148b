"""An evaluate job killed with SIGKILL at random moments ends with the JSON and the samples of one that ran through.

usage: evaluate_kill.py QUANT_ENGINE MODEL KILLS [SEED]
"""
import pathlib
import random
import sys
import tempfile
import time

from engine_jobs import run_job
from quantize_kill import run_and_kill

DATA = pathlib.Path(__file__).resolve().parents[2] / "examples/data"
TASKS = [{"name": "arc", "data": str(DATA / "arc.jsonl")},
         {"name": "squadv2", "data": str(DATA / "squad_v2.json"), "limit": 96, "options": {"max_tokens": 16}},
         {"name": "perplexity", "data": str(DATA / "wikitext-excerpt.txt"), "options": {"window": 256}}]


def outcome(result, folder):
    """What must be equal: every number but the seconds, and the samples' bytes."""
    metrics = {name: {k: v for k, v in metric.items() if k != "seconds"} for name, metric in result["metrics"].items()}
    samples = {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder, "out").glob("samples_*"))}
    assert len(samples) == len(TASKS)
    return metrics, samples


def main(engine, model, kills, seed=None):
    seed = int(seed or time.time())
    print(f"seed {seed}")
    rng = random.Random(seed)
    spec = {"evaluate": {"model": model, "tasks": TASKS}, "runtime": {"device": "cpu", "threads": 1}}
    with tempfile.TemporaryDirectory() as whole:
        start = time.time()
        result, _ = run_job(engine, spec, whole)
        seconds = time.time() - start
        expected = outcome(result, whole)
    left, jobs = int(kills), 0
    while left > 0:
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(min(left, 4)):
                run_and_kill(engine, spec, folder, rng.uniform(0.05, 0.8 * seconds))
                left -= 1
            result, _ = run_job(engine, spec, folder)
            assert outcome(result, folder) == expected, "the resumed job gives other numbers"
            jobs += 1
    print(f"{kills} kills in {jobs} jobs: equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
