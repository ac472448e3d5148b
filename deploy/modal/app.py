"""quantd on Modal's GPUs.

A whole sweep in one function, results brought home:

    modal run deploy/modal/app.py --quick --limit 50                     the bundled model, a few variants
    modal run deploy/modal/app.py --experiment bnb_4bit_nf4 --model org/name
    modal run deploy/modal/app.py --sweep --method bnb --limit 200       every experiment whose name holds "bnb"
    modal run deploy/modal/app.py --sweep --spec my_sweep.yaml           a sweep of your own (Hub models, no local files)

Workers for a scheduler that runs elsewhere, reachable over TLS:

    modal run deploy/modal/app.py::add_workers --count 4

    modal run deploy/modal/app.py::test_gpu                              GPU, driver and engine, checked

Secrets (modal secret create NAME KEY=VALUE ...): "huggingface" with HF_TOKEN; for add_workers "quantd" with
QUANTD_SCHEDULER, QUANTD_TOKEN and, unless its certificate is a public one, QUANTD_TLS_CA_PEM.
QUANTD_MODAL_GPU chooses the GPU (default L40S), QUANTD_MODAL_SECRETS the names of the secrets (default huggingface).

GPU functions are preempted and end after a day at the latest. Workers give their job back with its last checkpoint; a
sweep in one function keeps a copy of its scheduler's state on a volume and goes on from it: at most a block of work is
done twice.
"""
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import modal

HERE = pathlib.Path(__file__).resolve()
SOURCE = HERE.parents[2] if len(HERE.parents) > 2 and (HERE.parents[2] / "dev").exists() else pathlib.Path("/src")
GPU = os.environ.get("QUANTD_MODAL_GPU", "L40S")
DAY = 24 * 3600
# A preempted function gets 30 seconds; its state is copied before, every so often.
COPY_SECONDS = 60
KEPT = pathlib.Path("/kept")

app = modal.App("quantd")
volume = modal.Volume.from_name("quantd", create_if_missing=True)
image = (
    modal.Image.from_registry("nvidia/cuda:13.0.2-devel-ubuntu24.04", add_python="3.12")
    .env({"DEBIAN_FRONTEND": "noninteractive", "QUANTD_GPU": "on", "QUANTD_CACHE": "/cache"})
    .add_local_dir(SOURCE, "/src", copy=True, ignore=["build", ".git", ".cache", ".gl", "**/__pycache__"])
    .run_commands("cd /src && ./dev build && deploy/image/collect.sh /out && cp -a /out/worker/usr/local/. /usr/local/ "
                  "&& cp -a /out/scheduler/usr/local/. /usr/local/ && rm -rf build /out /cache/ccache")
)
secrets = [modal.Secret.from_name(name)
           for name in os.environ.get("QUANTD_MODAL_SECRETS", "huggingface").split(",") if name]

EXPERIMENTS = {
    "rtn_4bit": {"method": "rtn", "options": {"bits": 4, "group_size": 128}},
    "gptq_8bit": {"method": "gptq", "options": {"bits": 8, "group_size": 128}},
    "gptq_4bit": {"method": "gptq", "options": {"bits": 4, "group_size": 128}},
    "gptq_3bit": {"method": "gptq", "options": {"bits": 3, "group_size": 128}},
    "awq_4bit": {"method": "awq", "options": {"bits": 4, "group_size": 128}},
    "autoround_4bit": {"method": "adaround", "options": {"bits": 4, "variant": "signround"}},
    "quarot_4bit": {"method": "quarot", "options": {"bits": 4}},
    "smoothquant_w8a8": {"method": "smoothquant", "options": {}},
    "hqq_4bit": {"method": "hqq", "options": {"bits": 4, "group_size": 64}},
    "bnb_4bit_nf4": {"method": "bnb_4bit", "options": {"quant_type": "nf4"}},
    "bnb_4bit_fp4": {"method": "bnb_4bit", "options": {"quant_type": "fp4"}},
    "bnb_8bit": {"method": "bnb_8bit", "options": {}},
    "gguf_q4_k_m": {"method": "gguf", "options": {"type": "q4_k_m"}},
    "gguf_q8_0": {"method": "gguf", "options": {"type": "q8_0"}},
}
QUICK = ["rtn_4bit", "gptq_4bit", "bnb_4bit_nf4"]


def plan(experiments, model="", limit=0, source="/src"):
    """A SweepSpec, as `quantctl sweep` reads it, for experiments by name."""
    data = f"{source}/examples/data"
    tasks = [{"name": "perplexity", "data": f"{data}/wikitext-excerpt.txt", "options": {"window": 512}},
             {"name": "arc", "data": f"{data}/arc.jsonl"},
             {"name": "sanity"}]
    if limit:
        tasks[1]["limit"] = limit
    return {"display_name": ", ".join(experiments)[:200],
            "models": [model or f"{source}/models/tiny-6m"],
            "variants": [dict(EXPERIMENTS[name], name=name.replace("_", "-")) for name in experiments],
            "calibration": {"source": f"{data}/calibration.jsonl", "sequences": 128, "sequence_length": 512},
            "tasks": tasks,
            "benchmark": {}}


def choose(quick, experiment, sweep, method):
    """Names of experiments for the flags; SystemExit says what to write instead."""
    if experiment:
        if experiment not in EXPERIMENTS:
            raise SystemExit(f"--experiment {experiment}: there are {', '.join(EXPERIMENTS)}")
        return [experiment]
    if quick:
        return QUICK
    if not sweep:
        raise SystemExit("what to run? --quick, --experiment NAME, --sweep [--method TEXT] or --sweep --spec FILE")
    chosen = [name for name in EXPERIMENTS if method in name]
    if not chosen:
        raise SystemExit(f"--method {method}: no experiment's name holds it; there are {', '.join(EXPERIMENTS)}")
    return chosen


def copy_state(data, kept):
    """The scheduler's state as of some moment: the database first, then the files that it can name."""
    kept.mkdir(parents=True, exist_ok=True)
    fresh = kept / "quantd.db.fresh"
    fresh.unlink(missing_ok=True)
    with sqlite3.connect(data / "quantd.db") as live, sqlite3.connect(fresh) as copy:
        live.backup(copy)
    for path in (data / "artifacts").rglob("*"):
        target = kept / path.relative_to(data)
        # Whole blobs never change, and their sizes tell whether a copy is whole.
        if path.is_file() and not (target.exists() and target.stat().st_size == path.stat().st_size):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    if (data / "secret").exists():
        shutil.copyfile(data / "secret", kept / "secret")
    fresh.rename(kept / "quantd.db")


def run_sweep_here(spec, name, kept, commit=lambda: None, limit=0, data=pathlib.Path("/tmp/quantd")):
    """Scheduler, worker and sweep in this process's machine; the results' folder on the volume. What an earlier,
    preempted run of the same name left in `kept` is taken up."""
    state, output = kept / "state", kept / "result"
    if (state / "quantd.db").exists() and not data.exists():
        print(f"going on with {name}", flush=True)
        shutil.copytree(state, data)
    data.mkdir(parents=True, exist_ok=True)
    ready = data / "ready.json"
    ready.unlink(missing_ok=True)
    scheduler = subprocess.Popen(["quantd", "--standalone", "--listen", "127.0.0.1:0", "--metrics-listen",
                                  "127.0.0.1:0", "--data", data, "--ready-file", ready],
                                 stderr=open(data / "quantd.log", "a"))
    stop = threading.Event()

    def keep_copying():
        while not stop.wait(COPY_SECONDS):
            copy_state(data, state)
            commit()

    def give_up(*_):
        scheduler.terminate()  # The engine stops at a block's end and hands its checkpoint in.
        scheduler.wait(28)
        copy_state(data, state)
        commit()
        os._exit(1)

    copier = threading.Thread(target=keep_copying, daemon=True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, give_up)
        signal.signal(signal.SIGINT, give_up)
    try:
        while not ready.exists():
            if scheduler.poll() is not None:
                raise RuntimeError("quantd does not start:\n" + (data / "quantd.log").read_text()[-4000:])
            time.sleep(0.2)
        copier.start()
        (data / "sweep.yaml").write_text(json.dumps(spec))
        # The same request again is the same sweep: it is watched to its end, whoever submitted it.
        command = ["quantctl", "--scheduler", json.loads(ready.read_text())["listen"], "sweep", data / "sweep.yaml",
                   "--request-id", name, "--output", output]
        done = subprocess.run(command + (["--limit", str(limit)] if limit else []))
    finally:
        stop.set()
        if copier.is_alive():
            copier.join()
        scheduler.terminate()
        scheduler.wait(60)
        copy_state(data, state)
        commit()
    return done.returncode


@app.function(image=image, gpu=GPU, volumes={str(KEPT): volume}, secrets=secrets, timeout=DAY,
              retries=modal.Retries(max_retries=5, initial_delay=1.0))
def run_sweep(spec, name, limit=0):
    os.environ["HF_HOME"] = str(KEPT / "huggingface")
    return run_sweep_here(spec, name, KEPT / "sweeps" / name, volume.commit, limit)


@app.function(image=image, gpu=GPU, secrets=secrets + [modal.Secret.from_name("quantd")], timeout=DAY)
def work(idle_seconds):
    """One worker, until it has had nothing to do for so long."""
    environment = dict(os.environ, QUANTD_TLS="1", QUANTD_EXIT_WHEN_IDLE=str(idle_seconds),
                       QUANTD_WORKER_DATA="/tmp/quantd-worker", QUANTD_WORKER_LABELS="cloud=modal")
    worker = subprocess.Popen(["start-worker"], env=environment)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.terminate())
    return worker.wait()


@app.function(image=image, gpu=GPU, timeout=600)
def check_gpu():
    for command in (["nvidia-smi"], ["quantctl", "doctor", "--only", "machine"], ["quant-engine", "canary"]):
        print("$", *command, flush=True)
        subprocess.run(command, check=True)


@app.local_entrypoint()
def test_gpu():
    check_gpu.remote()
    print("the GPU works")


@app.local_entrypoint()
def add_workers(count: int = 1, idle_seconds: int = 600):
    codes = [call.get() for call in [work.spawn(idle_seconds) for _ in range(count)]]
    print(f"{count} workers have left: {codes}")


def bring_home(name, output, models):
    """The sweep's results from the volume; checkpoints (gigabytes) only when asked for."""
    output.mkdir(parents=True, exist_ok=True)
    root = f"sweeps/{name}/result"
    for entry in volume.listdir(root, recursive=True):
        path = pathlib.PurePosixPath(entry.path).relative_to(root)
        if entry.type != modal.volume.FileEntryType.FILE or (path.suffix in (".safetensors", ".gguf") and not models):
            continue
        target = output / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file:
            volume.read_file_into_fileobj(entry.path, file)
    print(f"results: {output}" + ("" if models else "; the models stay on the volume (--models brings them)"))


@app.local_entrypoint()
def main(quick: bool = False, experiment: str = "", sweep: bool = False, method: str = "", spec: str = "",
         model: str = "", limit: int = 0, name: str = "", output: str = "modal-result", models: bool = False):
    if spec:
        import yaml  # Only where a file is to be read.
        asked = yaml.safe_load(pathlib.Path(spec).read_text())
    else:
        asked = plan(choose(quick, experiment, sweep, method), model, limit)
    name = name or time.strftime("sweep-%Y%m%d-%H%M%S")
    print(f"{name}: to go on with it after an interruption, say --name {name}", flush=True)
    code = run_sweep.remote(asked, name, limit if spec else 0)
    bring_home(name, pathlib.Path(output), models)
    raise SystemExit(code)
