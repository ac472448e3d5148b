"""A quantize job killed with SIGKILL at random moments ends with the bytes of one that ran through.

    quantize_kill.py QUANT_ENGINE MODEL KILLS [SEED]
"""
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

from engine_jobs import run_job

COMPARED = ["model.safetensors", "config.json", "quantize_config.json", "verification_probe.json"]


def digests(folder):
    result = {}
    for name in COMPARED:
        with open(f"{folder}/out/{name}", "rb") as file:
            result[name] = hashlib.sha256(file.read()).hexdigest()
    return result


def run_and_kill(engine, spec, folder, delay):
    """True when the job was killed before its end."""
    for name in ("out", "work", "cache"):
        os.makedirs(f"{folder}/{name}", exist_ok=True)
    for name, value in (("spec", spec), ("inputs", {})):
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump(value, file)
    with open(os.devnull, "wb") as null:
        job = subprocess.Popen(
            [engine, "run", "--spec", f"{folder}/spec.json", "--inputs", f"{folder}/inputs.json", "--output",
             f"{folder}/out", "--work", f"{folder}/work", "--cache", f"{folder}/cache", "--events-fd",
             str(null.fileno())], pass_fds=[null.fileno()], stdout=null, stderr=null)
    time.sleep(delay)
    killed = job.poll() is None
    job.send_signal(signal.SIGKILL)
    job.wait()
    return killed


def main(engine, model, kills, seed=None):
    seed = int(seed or time.time())
    print(f"seed {seed}")
    rng = random.Random(seed)
    spec = {"quantize": {"model": model, "method": "gptq", "options": {"bits": 3, "group_size": 64},
                         "calibration": {"sequences": 16, "sequenceLength": 256}},
            "runtime": {"device": "cpu", "threads": 1}}
    with tempfile.TemporaryDirectory() as whole:
        start = time.time()
        run_job(engine, spec, whole)
        seconds = time.time() - start
        expected = digests(whole)
    left, jobs, resumed = int(kills), 0, 0
    while left > 0:
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(min(left, 3)):
                run_and_kill(engine, spec, folder, rng.uniform(0.05, 0.8 * seconds))
                left -= 1
            result, _ = run_job(engine, spec, folder)
            assert digests(folder) == expected, "the resumed job wrote other bytes"
            jobs += 1
            resumed += result["attempts"] > 1
    print(f"{kills} kills in {jobs} jobs, {resumed} of them resumed: bytes equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
