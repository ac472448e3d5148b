"""Dashboards and alert rules against a live scrape.

    check_telemetry.py QUANTD QUANT_WORKER QUANTCTL SOURCE

A scheduler and a worker run one small job; every metric that a dashboard, a rule or the documentation names must be in
what they serve (a GPU's gauges only where there is a GPU: those are looked up in the source). Dashboards must parse,
have an id of their own and describe their panels; every alert needs its section in docs/alerts.md and its case in
rules_test.yml, which promtool runs where it is installed.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

quantd, worker, quantctl, source = (pathlib.Path(p) for p in sys.argv[1:5])
problems = []


def wait_for(path):
    for _ in range(600):
        if path.exists() and path.stat().st_size:
            return json.loads(path.read_text())
        time.sleep(0.1)
    raise SystemExit(f"{path} did not appear within a minute")


def scrape(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        return answer.read().decode()


def live_names():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        programs = [subprocess.Popen([quantd, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--data",
                                      folder / "scheduler", "--ready-file", folder / "ready.json"],
                                     stderr=subprocess.DEVNULL)]
        try:
            ready = wait_for(folder / "ready.json")
            log = open(folder / "worker.log", "w")
            programs.append(subprocess.Popen([worker, "--scheduler", ready["listen"], "--name", "w", "--data",
                                              folder / "worker", "--metrics-listen", "127.0.0.1:0"], stderr=log))
            subprocess.run([quantctl, "--scheduler", ready["listen"], "quantize", source / "models/tiny-6m", "--method",
                            "rtn", "--option", "bits=4"], check=True, stdout=subprocess.DEVNULL, timeout=300)
            found = re.search(r"url=http://(\S+?)/metrics", (folder / "worker.log").read_text())
            if not found:
                raise SystemExit("the worker's log does not say where its metrics are:\n" +
                                 (folder / "worker.log").read_text())
            for _ in range(300):  # The client hears of the end before the worker has counted it.
                text = scrape(ready["metrics"]) + scrape(found.group(1))
                if "quantd_worker_attempts_total" in text:
                    break
                time.sleep(0.1)
        finally:
            for program in reversed(programs):
                program.terminate()
            for program in programs:
                program.wait(60)
    return set(re.findall(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)[ {]", text, re.M))


def metric_names(expression):
    return set(re.findall(r"\b(?:quantd|grpc)[_:][a-zA-Z0-9_:]*", expression)) - {"grpc_method", "grpc_code"}


rules = (source / "deploy/prometheus/rules.yml").read_text()
recorded = set(re.findall(r"record: (\S+)", rules))
alerts = re.findall(r"alert: (\S+)", rules)
uses = {"rules.yml": metric_names(re.sub(r'job="quantd"', "", rules)) - {"quantd-records", "quantd-alerts"}}
identifiers = set()
for path in sorted((source / "deploy/grafana/dashboards").glob("*.json")):
    dashboard = json.loads(path.read_text())
    if dashboard["uid"] in identifiers or dashboard["id"] is not None:
        problems.append(f"{path.name}: needs a uid of its own and no id")
    identifiers.add(dashboard["uid"])
    expressions = [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    for panel in dashboard["panels"]:
        expressions += [target["expr"] for target in panel["targets"]]
        if not panel["title"]:
            problems.append(f"{path.name}: panel {panel['id']} has no title")
    uses[path.name] = set().union(*(metric_names(e) for e in expressions))

names = live_names()
agent = (source / "workers/agent/metrics.cc").read_text()
# What appears with its first event, and needs a GPU or a failure for it.
late = {n for n in re.findall(r'"(quantd_worker_[a-z_]+)"', agent) if "gpu" in n or "samples" in n}
for where, used in uses.items():
    for name in sorted(used - names - recorded - late):
        problems.append(f"{where}: {name} is in no scrape")
sections = (source / "docs/alerts.md").read_text()
cases = (source / "deploy/prometheus/rules_test.yml").read_text()
for alert in alerts:
    if f"## {alert}\n" not in sections:
        problems.append(f"docs/alerts.md has no section {alert}")
    if alert not in cases:
        problems.append(f"rules_test.yml does not provoke {alert}")
unpacked = pathlib.Path(os.environ.get("QUANTD_PROMETHEUS", "")) / "usr/bin/promtool"
if promtool := (unpacked if unpacked.is_file() else shutil.which("promtool")):
    for arguments in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run([promtool, *arguments], cwd=source / "deploy/prometheus", capture_output=True, text=True)
        if done.returncode:
            problems.append(f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
else:
    print("promtool is not installed: the rules were not run")
print("\n".join(problems) or f"{len(names)} series names live; {sum(map(len, uses.values()))} uses checked")
sys.exit(bool(problems))
