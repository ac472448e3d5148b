"""What deploy/ ships, checked with the tools that would read it, as far as they are installed.

    deploy_test.py SOURCE BIN_FOLDER [unittest's own arguments]

Flags in units, manifests and images are looked up in the programs' own help; scripts that rent machines run against a
server and a client that only write down what was asked of them.
"""
import base64
import http.server
import importlib.util
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import unittest

# The readers' own environment, where ./dev setup --full has made it.
TOOLS = os.path.join(os.environ.get("QUANTD_DEPLOY_TOOLS", ""), "bin/python")
if os.access(TOOLS, os.X_OK) and os.path.abspath(TOOLS) != sys.executable:
    os.execv(TOOLS, [TOOLS, *sys.argv])

SOURCE, BIN = (pathlib.Path(p).resolve() for p in sys.argv[1:3])
DEPLOY = SOURCE / "deploy"
# The oldest release that is still looked after, and a new one.
KUBERNETES = ("1.31", "1.34")

try:
    import yaml
except ImportError:
    yaml = None


def run(*command, **options):
    options = {"capture_output": True, "text": True, "timeout": 120, **options}
    return subprocess.run([str(word) for word in command], **options)


def needs(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    return unittest.skipIf(missing, f"not installed: {', '.join(missing)}")


def flags_of(program, *words):
    return set(re.findall(r"--[a-z][a-z0-9-]*", run(BIN / program, *words, "--help").stdout))


class Fakes(unittest.TestCase):
    """Programs that write down their arguments, in front of PATH."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.environment = {"PATH": f"{self.folder}:{os.environ['PATH']}", "HOME": str(self.folder)}

    def fake(self, name, output=""):
        path = self.folder / name
        path.write_text(f'#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >>"{self.folder}/{name}.said"\n'
                        f'env >"{self.folder}/{name}.env"\ncat <<"END"\n{output}\nEND\n')
        path.chmod(0o755)

    def said(self, name):
        return (self.folder / f"{name}.said").read_text().splitlines()

    def environment_of(self, name):
        return dict(line.split("=", 1) for line in (self.folder / f"{name}.env").read_text().splitlines() if "=" in line)


class Flags(unittest.TestCase):
    """Every flag that a file of ours gives to a program of ours is one that the program has."""

    def check(self, program, text, where):
        used = set(re.findall(r"--[a-z][a-z0-9-]*", text))
        self.assertFalse(used - flags_of(program), where)
        self.assertTrue(used, where)

    def test_images(self):
        text = (SOURCE / "Dockerfile").read_text()
        for line in re.findall(r"^(?:ENTRYPOINT|CMD) \[(.*)\]", text, re.M):
            program = "quant-worker" if "quant-worker" in line or "scheduler:7717" in line else "quantd"
            self.check(program, line, line)
        for command in re.findall(r'HEALTHCHECK .* CMD \["quantctl", (.*)\]', text):
            self.assertIn("--only", flags_of("quantctl", "doctor"), command)

    def test_units(self):
        for unit in (DEPLOY / "systemd").glob("*.service"):
            for line in re.findall(r"^ExecStart=/usr/bin/(\S+)((?:.*\\\n)*.*)", unit.read_text(), re.M):
                self.check(*line, unit.name)
        keys = re.findall(r"^([a-z-]+):", (DEPLOY / "systemd/quantd.yaml").read_text(), re.M)
        self.assertFalse({f"--{key}" for key in keys} - flags_of("quantd"))

    def test_start_worker(self):
        self.check("quant-worker", " ".join(re.findall(r"set -- (.*)", (DEPLOY / "image/start-worker").read_text())), "")

    @unittest.skipUnless(yaml, "PyYAML is not installed")
    def test_compose(self):
        services = yaml.safe_load((SOURCE / "docker-compose.yml").read_text())["services"]
        for name in ("scheduler", "worker", "worker-gpu"):
            self.check("quantd" if name == "scheduler" else "quant-worker", " ".join(services[name]["command"]), name)

    @unittest.skipUnless(yaml, "PyYAML is not installed")
    def test_kubernetes(self):
        for path in DEPLOY.glob("kubernetes/**/*.yaml"):
            for document in yaml.safe_load_all(path.read_text()):
                spec = (document or {}).get("spec", {})
                template = spec.get("template") or spec.get("jobTargetRef", {}).get("template") or {}
                for container in template.get("spec", {}).get("containers", []):
                    program = "quantd" if container["name"] == "quantd" else "quant-worker"
                    self.check(program, " ".join(container["args"]), path.name)


class Compose(unittest.TestCase):
    @needs("docker-compose")
    def test_is_understood(self):
        for arguments in ([], ["--profile", "gpu"], *(["--env-file", p] for p in DEPLOY.glob("compose/*.env"))):
            done = run("docker-compose", "-f", SOURCE / "docker-compose.yml", *arguments, "config", "-q")
            self.assertEqual(done.returncode, 0, done.stderr)

    @unittest.skipUnless(yaml, "PyYAML is not installed")
    def test_mounts_what_is_there(self):
        compose = yaml.safe_load((SOURCE / "docker-compose.yml").read_text())
        for name, service in compose["services"].items():
            for mount in service.get("volumes", []):
                path = mount.split(":")[0]
                if path.startswith("./"):
                    self.assertTrue((SOURCE / path).exists(), f"{name}: {path}")
                elif not path.startswith("$"):
                    self.assertIn(path, compose["volumes"], name)
            if "build" in service:
                self.assertIn(f" AS {service['build']['target']}\n", (SOURCE / "Dockerfile").read_text())

    def test_publishes_loopback_only(self):
        for port in re.findall(r"ports: \[(.*)\]", (SOURCE / "docker-compose.yml").read_text()):
            for one in port.split(","):
                self.assertRegex(one.strip(), r'^"127\.0\.0\.1:')

    @needs("promtool")
    def test_prometheus(self):
        with tempfile.TemporaryDirectory() as folder:
            for path in (DEPLOY / "compose/prometheus.yml", DEPLOY / "prometheus/prometheus.yml"):
                shutil.copy(path, folder)
                shutil.copy(DEPLOY / "prometheus/rules.yml", folder)
                done = run("promtool", "check", "config", pathlib.Path(folder) / "prometheus.yml")
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Kubernetes(unittest.TestCase):
    def setUp(self):
        if not shutil.which("kubectl") and not shutil.which("kustomize"):
            self.skipTest("neither kubectl nor kustomize is installed")

    def render(self, overlay):
        command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
        done = run(*command, DEPLOY / "kubernetes/overlays" / overlay)
        self.assertEqual(done.returncode, 0, done.stderr)
        return list(yaml.safe_load_all(done.stdout))

    @unittest.skipUnless(yaml, "PyYAML is not installed")
    def test_overlays_fit_the_schemas(self):
        try:
            import kubernetes_validate
        except ImportError:
            self.skipTest("kubernetes-validate is not installed")
        for overlay in sorted(p.name for p in (DEPLOY / "kubernetes/overlays").iterdir()):
            for resource in self.render(overlay):
                if resource["kind"] == "ScaledJob":  # KEDA's; what it makes is a Job.
                    resource = {"apiVersion": "batch/v1", "kind": "Job", "metadata": resource["metadata"],
                                "spec": resource["spec"]["jobTargetRef"]}
                for version in KUBERNETES:
                    try:
                        kubernetes_validate.validate(resource, version, strict=True)
                    except kubernetes_validate.VersionNotSupportedError:
                        self.fail(f"kubernetes-validate does not know {version}")
                    except kubernetes_validate.ValidationError as error:
                        self.fail(f"{overlay}: {resource['kind']} {resource['metadata']['name']}: {error}")

    @unittest.skipUnless(yaml, "PyYAML is not installed")
    def test_pods_are_restricted_and_have_time_to_stop(self):
        for overlay in ("local", "production"):
            pods = 0
            for resource in self.render(overlay):
                spec = resource.get("spec", {})
                template = spec.get("template") or spec.get("jobTargetRef", {}).get("template")
                if not template:
                    continue
                pods += 1
                pod = template["spec"]
                self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                self.assertFalse(pod["automountServiceAccountToken"])
                for container in pod["containers"]:
                    context = container["securityContext"]
                    self.assertFalse(context["allowPrivilegeEscalation"])
                    self.assertTrue(context["readOnlyRootFilesystem"])
                    self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                    words = " ".join(container["args"])
                    grace = re.search(r"--drain-grace (\d+)", words)
                    if grace:
                        self.assertGreater(pod["terminationGracePeriodSeconds"], int(grace.group(1)) + 4)
            self.assertGreaterEqual(pods, 2)


class Units(unittest.TestCase):
    @needs("systemd-analyze")
    def test_are_understood(self):
        with tempfile.TemporaryDirectory() as folder:
            for unit in (DEPLOY / "systemd").glob("*.service"):
                target = pathlib.Path(folder) / unit.name.replace("@.", "@0.")
                # A copy of the programs' names: systemd looks whether they can be run.
                target.write_text(unit.read_text().replace("/usr/bin/", f"{BIN}/"))
            done = run("systemd-analyze", "verify", "--man=no", *pathlib.Path(folder).glob("*.service"))
            lines = [line for line in done.stderr.splitlines() if folder in line or "quant" in line]
            self.assertEqual(lines, [])

    @needs("shellcheck")
    def test_scripts(self):
        scripts = [*DEPLOY.glob("**/*.sh"), DEPLOY / "image/start-worker", *DEPLOY.glob("debian/*/p*"), SOURCE / "dev",
                   *SOURCE.glob("examples/*.sh")]
        done = run("shellcheck", *scripts)
        self.assertEqual(done.returncode, 0, done.stdout)


class StartWorker(Fakes):
    def start(self, **variables):
        self.fake("quant-worker")
        return run(DEPLOY / "image/start-worker", env={**self.environment, **variables})

    def test_settings_become_flags(self):
        data = self.folder / "data"
        done = self.start(QUANTD_SCHEDULER="q.example.com:7717", QUANTD_WORKER_DATA=str(data), QUANTD_TOKEN="secret",
                          QUANTD_WORKER_LABELS="cloud=x,zone=y", QUANTD_EXIT_WHEN_IDLE="60", QUANTD_WORKER_GPU="all",
                          QUANTD_TLS_CA_BASE64=base64.b64encode(b"---- a certificate ----").decode())
        self.assertEqual(done.returncode, 0, done.stderr)
        words = " ".join(self.said("quant-worker"))
        for text in ("--scheduler q.example.com:7717", f"--data {data}", "--labels cloud=x,zone=y", "--exit-when-idle 60",
                     "--gpu all"):
            self.assertIn(text, words)
        self.assertNotIn("secret", words)
        inside = self.environment_of("quant-worker")
        self.assertEqual(inside["QUANTD_TOKEN"], "secret")
        self.assertEqual(inside["HF_HOME"], f"{data}/huggingface")
        ca = pathlib.Path(inside["QUANTD_TLS_CA"])
        self.assertEqual(ca.read_text(), "---- a certificate ----\n")
        self.assertEqual(ca.stat().st_mode & 0o777, 0o600)

    def test_says_what_is_missing(self):
        self.assertIn("QUANTD_SCHEDULER is not set", self.start().stderr)
        self.assertIn("not writable", self.start(QUANTD_SCHEDULER="x:1", QUANTD_WORKER_DATA="/proc/x").stderr)


class Clouds(Fakes):
    def test_runpod_asks_for_pods(self):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked.append((self.path, self.headers["Authorization"], json.loads(body)))
                self.send_response(201)
                self.end_headers()
                self.wfile.write(b'{"id": "pod"}')

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        ca = self.folder / "ca.pem"
        ca.write_text("line\nline\n")
        done = run(DEPLOY / "runpod/start.sh", "--image", "r/x:1", "--scheduler", "q.example.com:7717", "--gpu", "A",
                   "--gpu", "B", "--count", "2", "--spot", "--ca", ca, "--idle", "60",
                   env={**self.environment, "RUNPOD_API_KEY": "key", "RUNPOD_API": f"http://127.0.0.1:{server.server_port}"})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(asked), 2)
        path, authorization, pod = asked[0]
        self.assertEqual((path, authorization), ("/pods", "Bearer key"))
        self.assertEqual(pod["imageName"], "r/x:1")
        self.assertEqual(pod["gpuTypeIds"], ["A", "B"])
        self.assertTrue(pod["interruptible"])
        self.assertEqual(pod["dockerEntrypoint"], ["start-worker"])
        self.assertEqual(pod["env"]["QUANTD_TLS_CA_PEM"], "line\nline\n")
        self.assertEqual(pod["env"]["QUANTD_EXIT_WHEN_IDLE"], "60")
        known = set(re.findall(r"QUANTD_\w+|HF_\w+", (DEPLOY / "image/start-worker").read_text()))
        self.assertFalse(set(pod["env"]) - known, "start-worker does not know all of the template's settings")

    def test_runpod_refuses_loopback(self):
        done = run(DEPLOY / "runpod/start.sh", "--image", "x", "--scheduler", "127.0.0.1:7717", "--dry-run",
                   env=self.environment)
        self.assertEqual(done.returncode, 2)
        self.assertIn("loopback", done.stderr)

    def test_vast_takes_the_cheapest_offers(self):
        self.fake("vastai", json.dumps([{"id": 11}, {"id": 22}, {"id": 33}]))
        token = self.folder / "token"
        token.write_text("secret\n")
        done = run(DEPLOY / "vast/start.sh", "--image", "r/x:1", "--scheduler", "q.example.com:7717", "--token-file", token,
                   "--count", "2", "--bid", "0.4", env=self.environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        said = self.said("vastai")
        self.assertEqual(said[:2], ["search", "offers"])
        self.assertIn("11", said)
        self.assertIn("22", said)
        self.assertNotIn("33", said)
        environment = next(word for word in said if word.startswith("-e "))
        self.assertIn("-e QUANTD_TOKEN=secret ", environment)
        self.assertIn("start-worker", said)

    def test_ssh_wants_to_know_the_way(self):
        for arguments, text in ((["host"], "--scheduler HOST:PORT or --tunnel"), ([], "which machine"),
                                (["h", "--scheduler", "a:1", "--tunnel"], "choose one"),
                                (["h", "--tunnel", "--ca", "/nowhere"], "no such file")):
            done = run(DEPLOY / "ssh/add_worker.sh", *arguments, env=self.environment)
            self.assertEqual(done.returncode, 2)
            self.assertIn(text, done.stderr)


class Modal(unittest.TestCase):
    def setUp(self):
        if importlib.util.find_spec("modal") is None:
            self.skipTest("modal is not installed")
        spec = importlib.util.spec_from_file_location("app", DEPLOY / "modal/app.py")
        self.app = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.app)
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def test_chooses(self):
        app = self.app
        self.assertEqual(app.choose(True, "", False, ""), app.QUICK)
        self.assertEqual(app.choose(False, "bnb_4bit_nf4", False, ""), ["bnb_4bit_nf4"])
        self.assertEqual(app.choose(False, "", True, "bnb"), ["bnb_4bit_nf4", "bnb_4bit_fp4", "bnb_8bit"])
        for bad in ((False, "no_such", False, ""), (False, "", False, ""), (False, "", True, "no_such")):
            with self.assertRaises(SystemExit):
                app.choose(*bad)

    def test_a_sweep_is_resumed_from_the_copy_of_its_state(self):
        """Scheduler, worker and sweep really run; the second run has the finished sweep from the copy alone."""
        os.environ["PATH"] = f"{BIN}:{os.environ['PATH']}"
        app = self.app
        spec = app.plan(["rtn_4bit"], limit=2, source=str(SOURCE))
        spec["tasks"] = spec["tasks"][1:2]
        del spec["benchmark"]
        commits = []
        for turn in ("first", "second"):
            code = app.run_sweep_here(spec, "modal-test", self.folder / "kept", lambda: commits.append(turn),
                                      data=self.folder / turn)
            self.assertEqual(code, 0, (self.folder / turn / "quantd.log").read_text())
        self.assertIn("second", commits)
        with sqlite3.connect(self.folder / "kept/state/quantd.db") as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchone(), ("ok",))
            self.assertEqual(database.execute("SELECT count(*) FROM sweeps").fetchone(), (1,))
        self.assertTrue(list((self.folder / "kept/result").rglob("*.json")))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
