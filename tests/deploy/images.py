"""Builds the images of the Dockerfile without a registry or a daemon, runs them, and measures them.

    images.py SOURCE WORK_FOLDER

A Debian made by debootstrap stands in for the official image; buildah builds and runs with chroot isolation. The
images' own entry points, commands and health checks are what runs, in a network namespace of their own, so that the
ports are those of production. Needs root, buildah and debootstrap: without them it says so and exits with 77.
libtorch and the compiler's cache are those of ./dev build; WORK_FOLDER is kept between runs.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

source, work = (pathlib.Path(p).resolve() for p in sys.argv[1:3])
cache = pathlib.Path(os.environ.get("QUANTD_CACHE") or
                     pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "quantd")
SCHEDULER_MIB_MAX = 150
BASE = "localhost/quantd-test/debian:bookworm-slim"
# How this machine reaches its package registry, for the time of building only.
HOST_SETTINGS = ["/etc/apt/apt.conf.d", "/etc/apt/sources.list.d"]


def say(text):
    print(text, flush=True)


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, text=True, **options)


def output(*command):
    return run(*command, stdout=subprocess.PIPE).stdout.strip()


def need(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    if os.geteuid() != 0 or missing:
        say(f"skipped: needs root{' and ' + ', '.join(missing) if missing else ''}")
        sys.exit(77)


def use_storage():
    """buildah keeps everything below the work folder."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "storage.conf").write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{work}/graph"\nrunroot = "{work}/run"\n')
    (work / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
    (work / "tmp").mkdir(exist_ok=True)
    os.environ.update(CONTAINERS_STORAGE_CONF=f"{work}/storage.conf", BUILDAH_ISOLATION="chroot", TMPDIR=f"{work}/tmp")


def make_base():
    """The official slim image is a minimal debootstrap without documentation and lists: so is this one."""
    if subprocess.run(["buildah", "inspect", "--type", "image", BASE], capture_output=True).returncode == 0:
        return
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    run("debootstrap", "--variant=minbase", "bookworm", root, "http://deb.debian.org/debian",
        stdout=subprocess.DEVNULL)
    for folder in ("var/lib/apt/lists", "var/cache/apt", "var/log", "usr/share/man", "usr/share/locale",
                   "usr/share/info", "usr/share/lintian", "debootstrap"):
        shutil.rmtree(root / folder, ignore_errors=True)
    for folder in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/log"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path in (root / "usr/share/doc").rglob("*"):
        if path.is_file() and path.name != "copyright":
            path.unlink()
    container = output("buildah", "from", "scratch")
    run("buildah", "add", "--quiet", container, root, "/")
    run("buildah", "config", "--cmd", "bash", container)
    run("buildah", "commit", "--quiet", "--signature-policy", work / "policy.json", "--rm", container, BASE)
    shutil.rmtree(root)


def build(target):
    arguments = ["--isolation", "chroot", "--signature-policy", f"{work}/policy.json", "--layers=false",
                 "--build-arg", f"DEBIAN_IMAGE={BASE}", "--build-arg", f"QUANTD_CACHE={cache}",
                 "--volume", f"{cache}:{cache}"]
    for path in filter(os.path.exists, HOST_SETTINGS):
        arguments += ["--volume", f"{path}:{path}:ro"]
    started = time.monotonic()
    with open(work / f"build-{target}.log", "w") as log:
        run(source / "deploy/image/build.sh", target, cwd=source, stdout=log, stderr=log,
            env={**os.environ, "PATH": without_docker(), "QUANTD_IMAGE_ARGS": " ".join(arguments)})
    say(f"{target}: built in {time.monotonic() - started:.0f} s")


def without_docker():
    """A PATH where the build script finds no docker: this test is buildah's."""
    folder = work / "bin"
    folder.mkdir(exist_ok=True)
    if shutil.which("docker"):
        for program in ("bash", "sed", "git", "buildah", "env"):
            link = folder / program
            if not link.exists():
                link.symlink_to(shutil.which(program))
        return str(folder)
    return os.environ["PATH"]


class Container:
    """One container: its entry point as a process of this machine, in this script's network namespace."""

    def __init__(self, image, name):
        self.name = output("buildah", "from", "--pull-never", "--name", name, f"localhost/{image}:latest")
        self.root = output("buildah", "mount", self.name)
        config = json.loads(output("buildah", "inspect", self.name))["Docker"]["config"]
        self.config = config
        self.process = None
        with open(f"{self.root}/etc/hosts", "w") as hosts:
            hosts.write("127.0.0.1 localhost scheduler\n")

    def mib(self):
        return int(output("du", "-smx", self.root).split()[0])

    def command(self, words, *options):
        return ["buildah", "run", *options, self.name, "--", *words]

    def start(self, words, log, *options):
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.command([*self.config["Entrypoint"], *words], *options),
                                        stdout=log, stderr=log, start_new_session=True)

    def healthy(self):
        test = self.config["Healthcheck"]["Test"]
        assert test[0] == "CMD", test
        return subprocess.run(self.command(test[1:]), capture_output=True).returncode == 0

    def wait_until_healthy(self, log):
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() - self.started > 60:
                raise SystemExit(f"{self.name} is not healthy:\n{pathlib.Path(log).read_text()}")
            time.sleep(0.2)
        return time.monotonic() - self.started

    def program_pid(self):
        """The entry point's own process: buildah stands around it."""
        name = self.config["Entrypoint"][0]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                inside = os.readlink(f"/proc/{pid}/root").startswith(self.root)
                if inside and os.path.basename(os.readlink(f"/proc/{pid}/exe")) == name:
                    return int(pid)
            except OSError:
                continue
        raise SystemExit(f"{self.name}: {name} does not run")

    def owner(self):
        for line in pathlib.Path(f"/proc/{self.program_pid()}/status").read_text().splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[1])

    def stop(self):
        os.kill(self.program_pid(), signal.SIGTERM)
        return self.process.wait(60)

    def remove(self):
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        subprocess.run(["buildah", "rm", self.name], stdout=subprocess.DEVNULL)


def check_tools_left_out(container):
    for program in ("gcc", "cmake", "git", "python3"):
        for folder in ("usr/bin", "usr/local/bin"):
            assert not os.path.lexists(f"{container.root}/{folder}/{program}"), f"{container.name} holds {program}"


def try_images():
    containers = []
    try:
        scheduler = Container("quantd-scheduler", "quantd-test-scheduler")
        containers.append(scheduler)
        worker = Container("quantd-worker", "quantd-test-worker")
        containers.append(worker)
        say(f"sizes on disk: scheduler {scheduler.mib()} MiB, worker {worker.mib()} MiB")
        assert scheduler.mib() < SCHEDULER_MIB_MAX, f"the scheduler's image has {scheduler.mib()} MiB"
        for container in containers:
            check_tools_left_out(container)
            assert container.config["User"] == "quantd", container.config["User"]
        # The image's own command has no protection, and says so instead of serving.
        refused = subprocess.run(scheduler.command([*scheduler.config["Entrypoint"], *scheduler.config["Cmd"]]),
                                 capture_output=True, text=True, timeout=60)
        assert refused.returncode != 0 and "--insecure" in refused.stdout + refused.stderr, refused

        log = work / "scheduler.log"
        with open(log, "w") as stream:
            scheduler.start([*scheduler.config["Cmd"], "--insecure"], stream)
        say(f"scheduler healthy {scheduler.wait_until_healthy(log):.1f} s after its start")
        log = work / "worker.log"
        assert not worker.healthy(), "a worker that does not run is healthy"
        with open(log, "w") as stream:
            worker.start(worker.config["Cmd"], stream, "--volume", f"{source}/models:/models:ro")
        say(f"worker healthy {worker.wait_until_healthy(log):.1f} s after its start")
        for container in containers:
            assert container.owner() == 7717, f"{container.name} runs as user {container.owner()}"
        run(*scheduler.command(["quantctl", "quantize", "/models/tiny-6m", "--remote-paths", "--method", "rtn", "--bits",
                                "4"]), timeout=300)
        run(*scheduler.command(["quantctl", "doctor", "--only", "scheduler"]))
        for container in reversed(containers):
            code = container.stop()
            assert code == 0, f"{container.name} ended with {code}"
        say("both stopped in good order")
    finally:
        for container in containers:
            container.remove()


def main():
    need("buildah", "debootstrap", "git")
    use_storage()
    if os.environ.get("QUANTD_IMAGES_NETWORK") == "own":
        run("ip", "link", "set", "lo", "up")
        try_images()
        return
    make_base()
    for target in ("scheduler", "worker"):
        build(target)
    # Ports of production without disturbing this machine's.
    os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], {**os.environ, "QUANTD_IMAGES_NETWORK": "own"})


main()
