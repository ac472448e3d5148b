"""The configurations of examples/ run as they stand, through a scheduler with one worker, and write what they promise.

    config_examples.py FOLDER_OF_PROGRAMS [NAME ...]

Each file of examples/configs by `quantctl quantize --config`, and examples/batch.yaml by `quantctl sweep`. Then what such a
file must not say: an unknown key, a format that cannot hold the method's result, another tokenizer.
"""
import glob
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WRITES = {"high_quality": "model.gguf", "balanced": "model.gguf", "edge": "model.gguf", "gpu": "model.safetensors"}
REFUSED = [
    ("method: q4_0\nmodle: x\n", 2, ":2:1: modle: unknown field"),
    ("method: q4_0\nmodel: {model_name: MODEL}\noutput_format: pytorch\n", 2, "method q4_0 goes to gguf"),
    ("method: best\nmodel: {model_name: MODEL}\n", 2, "awq_q4_0, awq_q4_1"),
    ("method: q8_0\nmodel: {model_name: MODEL, tokenizer_name: other/one}\n", 2, "its own tokenizer"),
    ("method: q8_0\n", 2, "model.model_name"),
]


def start(programs, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder + "/quantd.log", "w") as log:
        scheduler = subprocess.Popen(
            [programs + "/quantd", "--standalone", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--data",
             folder + "/data", "--ready-file", folder + "/ready.json"], stderr=log, env=environment)
    for _ in range(600):
        if os.path.exists(folder + "/ready.json") and os.path.getsize(folder + "/ready.json") > 0:
            with open(folder + "/ready.json") as file:
                return scheduler, json.load(file)["listen"]
        if scheduler.poll() is not None:
            break
        time.sleep(0.1)
    scheduler.kill()
    with open(folder + "/quantd.log") as log:
        raise AssertionError("the scheduler did not start:\n" + log.read()[-3000:])


def main(programs, *wanted):
    programs = os.path.abspath(programs)
    with tempfile.TemporaryDirectory() as folder:
        scheduler, address = start(programs, folder)

        def run(*arguments):
            return subprocess.run([programs + "/quantctl", "--scheduler", address, *arguments], cwd=folder, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

        try:
            for path in sorted(glob.glob(REPOSITORY + "/examples/configs/*.yaml")):
                name = os.path.basename(path)[: -len(".yaml")]
                if wanted and name not in wanted:
                    continue
                done = run("quantize", "--config", path)
                assert done.returncode == 0, (name, done.stdout[-3000:])
                written = os.listdir(f"{folder}/quantized/{name}")
                assert any(entry.endswith(os.path.splitext(WRITES[name])[1]) for entry in written), (name, written)
                print(name, "wrote", sorted(written), flush=True)
            if not wanted or "batch" in wanted:
                done = run("sweep", REPOSITORY + "/examples/batch.yaml", "--output", "quantized/batch")
                assert done.returncode == 0, done.stdout[-3000:]
                print("batch wrote", sorted(os.listdir(folder + "/quantized/batch")), flush=True)
            for text, code, words in REFUSED:
                with open(folder + "/config.yaml", "w") as file:
                    file.write(text.replace("MODEL", REPOSITORY + "/models/tiny-6m"))
                done = run("quantize", "--config", "config.yaml")
                assert done.returncode == code and words in done.stdout, (text, done.returncode, done.stdout)
            print("what is wrong is refused")
        finally:
            scheduler.send_signal(signal.SIGTERM)
            scheduler.wait(timeout=60)


main(*sys.argv[1:])
