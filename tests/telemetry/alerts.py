"""Every alert of deploy/prometheus/rules.yml provoked in running programs, with a real Prometheus server: it has to
fire, and to end when its cause has ended.

    alerts.py BIN_FOLDER LIB_FOLDER SOURCE [ALERT...]

Times in the rules are taken sixty times shorter (minutes become seconds). Prometheus comes from $QUANTD_PROMETHEUS
(./dev setup --tests puts it there) or PATH; without it the exit code is 77.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

bin_folder, lib_folder, source = (pathlib.Path(p).resolve() for p in sys.argv[1:4])
only = sys.argv[4:]
rules_text = (source / "deploy/prometheus/rules.yml").read_text()
alerts = re.findall(r"alert: (\S+)", rules_text)
FIRE_SECONDS, END_SECONDS = 90, 150
GIB = 1 << 30


def prometheus_program():
    for path in (f"{os.environ.get('QUANTD_PROMETHEUS', '')}/usr/bin/prometheus", shutil.which("prometheus")):
        if path and os.access(path, os.X_OK):
            return path
    print("skipped: prometheus is not installed")
    sys.exit(77)


def shorter(rules):
    """Minutes become seconds, hours minutes; names of recorded series stay."""
    smaller = {"h": "m", "m": "s"}
    rules = re.sub(r"\[(\d+)([hm])\]", lambda m: f"[{m[1]}{smaller[m[2]]}]", rules)
    return re.sub(r"for: (\d+)([hm])", lambda m: f"for: {m[1]}{smaller[m[2]]}", rules)


class Stand:
    """A scheduler, workers, and a Prometheus that watches them."""

    def __init__(self, name, prometheus):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"quantd-alert-{name}-"))
        self.prometheus = prometheus
        self.processes = []
        self.targets = []
        self.metrics = "127.0.0.1:0"
        self.mounted = None

    def spawn(self, command, log, **options):
        process = subprocess.Popen([str(word) for word in command], stdout=open(self.folder / log, "a"),
                                   stderr=subprocess.STDOUT, **options)
        self.processes.append(process)
        return process

    def wait_for(self, what, seconds=30):
        end = time.monotonic() + seconds
        while not (found := what()):
            if time.monotonic() > end:
                raise AssertionError(f"waited {seconds} s for {what.__name__}; logs in {self.folder}:\n" + self.logs())
            time.sleep(0.1)
        return found

    def logs(self):
        return "\n".join(f"--- {p.name}\n" + "\n".join(p.read_text(errors="replace").splitlines()[-8:])
                         for p in sorted(self.folder.glob("*.log")))

    def scheduler(self, data=None, preload="", lease_seconds=30, **variables):
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        environment = dict(os.environ, LD_PRELOAD=str(lib_folder / preload) if preload else "", **variables)
        self.quantd = self.spawn([bin_folder / "quantd", "--listen", "127.0.0.1:0", "--metrics-listen", self.metrics,
                                  "--data", data or self.folder / "data", "--ready-file", ready, "--lease-seconds",
                                  lease_seconds, "--free-mib-min", "1"], "quantd.log", env=environment)

        def ready_file():
            return ready.exists() and ready.read_text().strip()
        addresses = json.loads(self.wait_for(ready_file))
        self.address, self.metrics = addresses["listen"], addresses["metrics"]

    def worker(self, name="w", engine="quantd-fake-engine", canary="off"):
        log = f"{name}-{len(self.processes)}.log"  # Of this start alone.
        process = self.spawn([bin_folder / "quant-worker", "--scheduler", self.address, "--name", name, "--data",
                              self.folder / name, "--engine", bin_folder / engine, "--canary", canary,
                              "--metrics-listen", "127.0.0.1:0"], log)

        def metrics_line():
            return re.findall(r"url=http://(\S+?)/metrics", (self.folder / log).read_text())
        address = self.wait_for(metrics_line)[-1]
        self.targets = [t for t in self.targets if t[0] != name] + [(name, address)]
        self.write_targets()
        return process

    def write_targets(self):
        fresh = self.folder / "targets.fresh"
        fresh.write_text(json.dumps([{"targets": [address for _, address in self.targets]}]))
        fresh.rename(self.folder / "targets.json")

    def watch(self):
        (self.folder / "rules.yml").write_text(shorter(rules_text))
        self.write_targets()
        (self.folder / "prometheus.yml").write_text(f"""
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [rules.yml]
scrape_configs:
  - {{job_name: quantd, static_configs: [{{targets: ["{self.metrics}"]}}]}}
  - {{job_name: quant-worker, file_sd_configs: [{{files: [targets.json], refresh_interval: 1s}}]}}
""")
        for attempt in range(5):
            self.api = f"127.0.0.1:{20000 + (os.getpid() * 7 + id(self) // 64 + attempt * 131) % 20000}"
            process = self.spawn([self.prometheus, "--config.file", self.folder / "prometheus.yml", "--storage.tsdb.path",
                                  self.folder / "tsdb", "--web.listen-address", self.api], "prometheus.log")
            for _ in range(100):
                try:
                    self.query("alerts")
                    return
                except OSError:
                    if process.poll() is not None:
                        break
                    time.sleep(0.1)
        raise AssertionError("Prometheus does not start:\n" + self.logs())

    def query(self, what):
        with urllib.request.urlopen(f"http://{self.api}/api/v1/{what}", timeout=10) as answer:
            return json.load(answer)["data"]

    def firing(self):
        return {a["labels"]["alertname"] for a in self.query("alerts")["alerts"] if a["state"] == "firing"}

    def ctl(self, *words, check=True):
        return subprocess.run([str(w) for w in (bin_folder / "quantctl", "--scheduler", self.address, *words)],
                              check=check, capture_output=True, text=True, timeout=60)

    def submit(self, behaviour, *more):
        """A job for quantd-fake-engine; its name is what the engine does."""
        return self.ctl("quantize", source / "models/tiny-6m", "--method", "rtn", "--detach", "--name", behaviour,
                        *more).stdout.split()[-1]

    def jobs(self, state):
        return [json.loads(line)["job"] for line in self.ctl("jobs", "list", "--state", state, "--json").stdout.splitlines()]

    def close(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        if self.mounted:
            subprocess.run(["umount", self.mounted], check=True)
        shutil.rmtree(self.folder)


# Each scenario starts what it needs, yields when everything is well and watched, then provokes, and after the second
# yield ends the cause.

def scheduler_down(s):
    s.scheduler()
    yield
    s.quantd.kill()
    s.quantd.wait()
    yield
    s.scheduler()


def queue_stalled(s):
    s.scheduler()
    s.worker()
    yield
    job = s.submit("success", "--device", "cuda")
    yield
    s.ctl("jobs", "cancel", job)


def no_workers(s):
    s.scheduler()
    worker = s.worker()

    def registered():
        return "idle" in s.ctl("workers").stdout
    s.wait_for(registered)
    worker.terminate()
    worker.wait()
    yield
    s.submit("success")
    yield
    s.worker()


def lease_expiry_spike(s):
    s.scheduler(lease_seconds=1)
    workers = [s.worker(f"w{i}") for i in range(3)]
    yield

    def all_running():
        return len(s.jobs("running")) == len(workers)

    def all_lost():
        return not s.jobs("running")
    for _ in range(2):
        for _ in workers:
            s.submit("hang")
        s.wait_for(all_running)
        for worker in workers:
            worker.send_signal(signal.SIGSTOP)
        s.wait_for(all_lost)
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
    yield
    for job in s.jobs("running") + s.jobs("queued"):
        s.ctl("jobs", "cancel", job["name"])


def misbehaving(s):
    s.scheduler()
    process = s.spawn([bin_folder / "misbehaving_worker", s.address, "120"], "misbehaving.log")

    def registered():
        return "registered" in (s.folder / "misbehaving.log").read_text()
    s.wait_for(registered)
    yield
    s.submit("anything")
    yield
    process.kill()


def job_failure_ratio(s):
    s.scheduler()
    s.worker()
    yield
    for _ in range(5):
        s.submit("fail")
        time.sleep(1)
    yield


def disk_low(s):
    data = s.folder / "disk"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={20 * GIB}", "tmpfs", data], check=True)
    s.mounted = data
    s.scheduler(data=data)
    yield
    subprocess.run(["mount", "-o", f"remount,size={GIB}", data], check=True)
    yield
    subprocess.run(["mount", "-o", f"remount,size={20 * GIB}", data], check=True)


def database_slow(s):
    slow = s.folder / "slow"
    s.scheduler(preload="libquantd_slow_disk.so", QUANTD_SLOW_FILE=str(slow))
    s.worker()
    yield
    slow.touch()
    for _ in range(12):
        s.submit("success")
    yield
    slow.unlink()


def database_failing(s):
    data = s.folder / "data"
    s.scheduler(data=data, preload="libquantd_faults.so", QUANTD_FAULT_FOLDER=str(data))
    s.worker()
    yield
    (s.folder / "data.full").touch()
    for _ in range(3):
        s.ctl("--timeout", "5s", "quantize", source / "models/tiny-6m", "--method", "rtn", "--detach", check=False)
    yield
    (s.folder / "data.full").unlink()


def canary_failure(s):
    s.scheduler()
    worker = s.worker(canary="on")
    (s.folder / "w/canary_is_dead").touch()
    yield
    s.submit("crash")
    worker.wait(60)
    s.worker(canary="on")  # As its supervisor would.
    yield
    (s.folder / "w/canary_is_dead").unlink()


def engine_crashes(s):
    s.scheduler()
    s.worker()
    yield
    for _ in range(3):
        s.submit("crash")
    yield


SCENARIOS = {
    scheduler_down: ["SchedulerDown"],
    queue_stalled: ["QueueStalled"],
    no_workers: ["NoWorkers"],
    lease_expiry_spike: ["LeaseExpirySpike"],
    misbehaving: ["DuplicateCompletion", "FencedWrites"],
    job_failure_ratio: ["JobFailureRatio"],
    disk_low: ["DiskLow"],
    database_slow: ["DatabaseSlow"],
    database_failing: ["DatabaseFailing"],
    canary_failure: ["CanaryFailure"],
    engine_crashes: ["EngineCrashes"],
}


def provoke(scenario, names, prometheus):
    if scenario is disk_low and os.geteuid() != 0:
        return "DiskLow: not provoked, mounting a small disk needs root"
    stand = Stand(scenario.__name__, prometheus)
    try:
        steps = scenario(stand)
        next(steps)
        stand.watch()
        time.sleep(3)
        early = stand.firing() & set(names)
        assert not early, f"fires before its cause: {early}"
        next(steps)
        started = time.monotonic()
        missing = set(names)
        while missing:
            missing -= stand.firing()
            assert time.monotonic() < started + FIRE_SECONDS, f"does not fire: {sorted(missing)}\n" + stand.logs()
            time.sleep(0.2)
        fired = time.monotonic() - started
        next(steps, None)
        ended = time.monotonic()
        while left := stand.firing() & set(names):
            assert time.monotonic() < ended + END_SECONDS, f"does not end: {sorted(left)}\n" + stand.logs()
            time.sleep(0.2)
        return f"{', '.join(names)}: fired after {fired:.0f} s, ended after {time.monotonic() - ended:.0f} s"
    finally:
        stand.close()


def main():
    prometheus = prometheus_program()
    provoked = [name for names in SCENARIOS.values() for name in names]
    assert sorted(provoked) == sorted(alerts), f"alerts without a scenario: {set(alerts) ^ set(provoked)}"
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = {pool.submit(provoke, scenario, names, prometheus): names for scenario, names in SCENARIOS.items()
                   if not only or set(only) & set(names)}
        for future in concurrent.futures.as_completed(running):
            try:
                print(future.result(), flush=True)
            except Exception as error:  # One alert's failure hides no other's result.
                failures += 1
                print(f"FAILED {', '.join(running[future])}: {error}", flush=True)
    return 1 if failures else 0


sys.exit(main())
