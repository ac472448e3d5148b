"""Models and data files that carry code, lead out of their folder, or would fill the machine: each is refused with words
that name it, or is harmless; none is executed, and none costs more memory than a good model and 256 MiB.

    untrusted_models.py FOLDER_OF_PROGRAMS [COUNT [SEED]]     COUNT cases at random; without it all of them

Whoever executes one of the payloads makes a file; that they do is tried first, with Python's own pickle.
"""
import gzip
import io
import json
import lzma
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = REPOSITORY + "/models/tiny-6m"
MEMORY_MORE_MAX = 256 << 20
SECONDS_MAX = 300  # A hang, however slow the machine.
DEEP = 100_000
TERABYTE = 1 << 40


class Evil:
    """Touches the canary when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


class Case:
    """A copy of the bundled model to be spoilt, and how it is then used."""

    def __init__(self, folder, canary):
        self.folder, self.canary = folder, canary
        self.arguments = ["--method", "rtn"]
        shutil.copytree(MODEL, folder, copy_function=shutil.copyfile)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())

    def weights(self, content, name="model.safetensors"):
        os.remove(self.path("model.safetensors"))
        self.write(name, content)

    def config(self, **fields):
        with open(self.path("config.json")) as file:
            self.write("config.json", json.dumps({**json.load(file), **fields}))

    def index(self, where):
        os.rename(self.path("model.safetensors"), self.path("a.safetensors"))
        self.write("model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": where}}))

    def link(self, name, target):
        if os.path.lexists(self.path(name)):
            os.remove(self.path(name))
        os.symlink(target, self.path(name))

    def sparse(self, name, begin=b"", size=TERABYTE):
        self.write(name, begin)
        os.truncate(self.path(name), size)

    def calibration(self, name, content=None):
        if content is not None:
            self.write(name, content)
        self.arguments = ["--method", "gptq", "--calibration", self.path(name), "--sequences", "2", "--sequence-length", "32"]

    def pickled(self, protocol=4):
        evil = Evil()
        evil.canary = self.canary
        return pickle.dumps({"model.norm.weight": evil}, protocol=protocol)

    def torch_file(self, content):
        """What torch.save writes: a ZIP archive with a pickle."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as out:
            out.writestr("archive/data.pkl", content)
            out.writestr("archive/version", "3\n")
        return archive.getvalue()

    def python(self):
        return f"#!/usr/bin/env python3\nimport os\nos.system('touch {self.canary}')\n"


def safetensors(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def one_tensor(end):
    return {"a": {"dtype": "U8", "shape": [end], "data_offsets": [0, end]}}


def tar_of(content):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


ZEROS = b"\0" * (64 << 20)
# Name: what is done to the model, and words of the error; None: the job succeeds all the same.
CODE = {
    "a pickle alone, .pkl": (lambda c: c.weights(c.pickled(0), "weights.pkl"), "weights.pkl"),
    "a pickle alone, .pt": (lambda c: c.weights(c.pickled(2), "model.pt"), "model.pt"),
    "a pickle alone, .pth": (lambda c: c.weights(c.torch_file(c.pickled(2)), "consolidated.00.pth"), "consolidated.00.pth"),
    "a pickle alone, .ckpt": (lambda c: c.weights(c.pickled(4), "model.ckpt"), "model.ckpt"),
    "a state dictionary that calls, protocol 2":
        (lambda c: c.weights(c.torch_file(c.pickled(2)), "pytorch_model.bin"), "pytorch_model.bin"),
    "a state dictionary that calls, protocol 4":
        (lambda c: c.weights(c.torch_file(c.pickled(4)), "pytorch_model.bin"), "pytorch_model.bin"),
    "a state dictionary of the old form": (lambda c: c.weights(c.pickled(2), "pytorch_model.bin"), "pytorch_model.bin"),
    "a state dictionary of text opcodes":
        (lambda c: c.weights(c.torch_file(c.pickled(0)), "pytorch_model.bin"), "pytorch_model.bin"),
    "safetensors that is a pickle, protocol 0": (lambda c: c.weights(c.pickled(0)), "model.safetensors"),
    "safetensors that is a pickle, protocol 2": (lambda c: c.weights(c.pickled(2)), "pickle"),
    "safetensors that is a pickle, protocol 5": (lambda c: c.weights(c.pickled(5)), "pickle"),
    "safetensors that is a torch file": (lambda c: c.weights(c.torch_file(c.pickled())), "ZIP archive"),
    "safetensors that is a tar": (lambda c: c.weights(tar_of(c.pickled())), "model.safetensors"),
    "safetensors that is a script": (lambda c: c.weights(c.python()), "model.safetensors"),
    "safetensors whose header is a pickle": (lambda c: c.weights(safetensors(c.pickled(0))), "does not begin with '{'"),
    "safetensors with a pickle behind it":
        (lambda c: c.weights(safetensors(one_tensor(1), b"x" + c.pickled())), "after the last tensor"),
    "safetensors with a pickle in a hole":
        (lambda c: c.weights(safetensors({"a": {"dtype": "U8", "shape": [1], "data_offsets": [400, 401]}},
                                         c.pickled().ljust(400) + b"x")), "hole"),
    "pickles beside the weights":
        (lambda c: (c.write("pytorch_model.bin", c.torch_file(c.pickled())), c.write("optimizer.pt", c.pickled())), None),
    "programs beside the weights":
        (lambda c: [c.write(n, c.python()) for n in ("__init__.py", "setup.py", "sitecustomize.py", "modeling.py")], None),
    "an index that names a pickle": (lambda c: (c.index("x.bin"), c.write("x.bin", c.pickled())), "x.bin"),
    "a tokenizer that is a pickle": (lambda c: (c.calibration("c.txt", "text " * 900), c.write("tokenizer.json", c.pickled())),
                                     "tokenizer.json"),
    "a configuration that is a pickle": (lambda c: c.write("config.json", c.pickled(0)), "config.json"),
    "a configuration with code of its own":
        (lambda c: (c.config(auto_map={"AutoModel": "evil.Evil"}), c.write("evil.py", c.python())), "auto_map"),
    "a configuration that asks for trust":
        (lambda c: (c.config(trust_remote_code=True, auto_map={"AutoConfig": "evil--org/name.Evil"}, architectures=["Evil"]),
                    c.write("evil.py", c.python())), "config.json"),
    "an architecture that is a function": (lambda c: c.config(architectures=["os.system"]), "os.system"),
    "a model type that is a path": (lambda c: c.config(model_type="../../evil", architectures=["../../evil"]), "../../evil"),
    "code for generation": (lambda c: (c.write("generate.py", c.python()),
                                       c.write("generation_config.json", '{"custom_generate": "./generate.py"}')), None),
    "a tokenizer configuration with code":
        (lambda c: (c.calibration("c.txt", "words and words " * 200), c.write("evil.py", c.python()),
                    c.write("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}')), None),
    "calibration text that is a pickle": (lambda c: c.calibration("c.txt", c.pickled()), "c.txt"),
    "calibration lines that are a pickle": (lambda c: c.calibration("c.jsonl", c.pickled()), "c.jsonl"),
    "a calibration table that is a pickle": (lambda c: c.calibration("c.parquet", c.pickled()), "c.parquet"),
    "calibration that is a program": (lambda c: c.calibration("c.py", c.python()), "c.py"),
    "calibration that is a torch file": (lambda c: c.calibration("c.pt", c.torch_file(c.pickled())), "c.pt"),
}
PATHS = {
    "a shard above the folder": (lambda c: c.index("../../etc/passwd"), "../../etc/passwd"),
    "a shard at an absolute path": (lambda c: c.index("/etc/passwd"), "/etc/passwd"),
    "a shard at a URL": (lambda c: c.index("https://example.com/a.safetensors"), "https://example.com"),
    "a shard at a file URL": (lambda c: c.index("file:///etc/passwd"), "file:///etc/passwd"),
    "a shard behind a backslash": (lambda c: c.index("..\\a.safetensors"), "a.safetensors"),
    "a shard that is its index": (lambda c: c.index("model.safetensors.index.json"), "model.safetensors.index.json"),
    "a link to what is no model": (lambda c: c.link("model.safetensors", "/etc/passwd"), "model.safetensors"),
    "a link to a device without end": (lambda c: c.link("model.safetensors", "/dev/zero"), "regular file"),
    "a link to this process's memory": (lambda c: c.link("model.safetensors", "/proc/self/mem"), "model.safetensors"),
    "a link to itself": (lambda c: c.link("model.safetensors", "model.safetensors"), "model.safetensors"),
    "a link to a folder": (lambda c: c.link("model.safetensors", "/"), "regular file"),
    "a configuration that is a device": (lambda c: c.link("config.json", "/dev/zero"), "config.json"),
    "a pipe nobody writes to": (lambda c: (os.remove(c.path("model.safetensors")), os.mkfifo(c.path("model.safetensors"))),
                                "regular file"),
}
BOMBS = {
    "a terabyte behind the header": (lambda c: c.sparse("model.safetensors", safetensors({})), "after the last tensor"),
    "a header of a terabyte": (lambda c: c.sparse("model.safetensors", struct.pack("<Q", TERABYTE - 8) + b"{"), "at most"),
    "a tensor of a terabyte":
        (lambda c: c.sparse("model.safetensors", safetensors(one_tensor(TERABYTE)),
                            len(safetensors(one_tensor(TERABYTE))) + TERABYTE), "model.embed_tokens"),
    "a configuration of a terabyte": (lambda c: c.sparse("config.json", b"{}"), "config.json"),
    "an index of a terabyte": (lambda c: (c.index("a.safetensors"), c.sparse("model.safetensors.index.json", b"{}")), "index.json"),
    "a tokenizer of a terabyte": (lambda c: (c.calibration("c.txt", "text"), c.sparse("tokenizer.json", b"{}")), "tokenizer.json"),
    "calibration text of a terabyte": (lambda c: (c.sparse("c.txt", b"text"), c.calibration("c.txt")), "c.txt"),
    "calibration lines of a terabyte": (lambda c: (c.sparse("c.jsonl", b'{"text": "a"}\n'), c.calibration("c.jsonl")), "c.jsonl"),
    "a calibration table of a terabyte": (lambda c: (c.sparse("c.parquet", b"PAR1"), c.calibration("c.parquet")), "c.parquet"),
    "weights in gzip": (lambda c: c.weights(gzip.compress(ZEROS, 9)), "model.safetensors"),
    "weights in xz": (lambda c: c.weights(lzma.compress(ZEROS)), "model.safetensors"),
    "weights in zstd": (lambda c: c.weights(b"\x28\xb5\x2f\xfd" + ZEROS[:4096]), "model.safetensors"),
    "a configuration in gzip": (lambda c: c.write("config.json", gzip.compress(ZEROS)), "config.json"),
    "calibration lines in gzip": (lambda c: c.calibration("c.jsonl.gz", gzip.compress(ZEROS)), "c.jsonl.gz"),
    "a deep configuration": (lambda c: c.write("config.json", '{"a":' * DEEP + "1" + "}" * DEEP), "config.json"),
    "a deep array in the configuration": (lambda c: c.write("config.json", '{"a":' + "[" * DEEP), "config.json"),
    "a deep index": (lambda c: (c.index("a.safetensors"), c.write("model.safetensors.index.json", '{"weight_map":' * DEEP)),
                     "index.json"),
    "a deep tokenizer": (lambda c: (c.calibration("c.txt", "text"), c.write("tokenizer.json", '{"a":' * DEEP)), "tokenizer.json"),
    "a deep calibration line": (lambda c: c.calibration("c.jsonl", '{"text":' + "[" * DEEP + "\n"), "c.jsonl"),
    "an index of a million tensors":
        (lambda c: (c.index("a.safetensors"),
                    c.write("model.safetensors.index.json",
                            json.dumps({"weight_map": {f"t{i}": "a.safetensors" for i in range(1_000_000)}}))), "keys"),
    "an index of a million shards":
        (lambda c: (c.index("a.safetensors"),
                    c.write("model.safetensors.index.json",
                            json.dumps({"weight_map": {f"t{i}": f"{i}.safetensors" for i in range(1_000_000)}}))), "keys"),
    "two thousand million layers": (lambda c: c.config(num_hidden_layers=2_000_000_000), "num_hidden_layers"),
    "a vocabulary beyond 64 bits": (lambda c: c.config(vocab_size=1 << 70), "vocab_size"),
    "heads that overflow": (lambda c: c.config(num_attention_heads=1 << 31, head_dim=1 << 31), "config.json"),
}
CASES = {**CODE, **PATHS, **BOMBS}


def use(engine, case, output):
    """Exit status, what was said, and the most memory that the engine held."""
    with open(output + ".log", "w+", errors="backslashreplace") as log:
        child = subprocess.Popen([engine, "quantize", case.folder, *case.arguments, "--threads", "1", "--device", "cpu", "-o",
                                  output], cwd=case.folder, stdout=log, stderr=log)
        end = time.time() + SECONDS_MAX
        status = 0
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid != 0:
                break
            if time.time() > end:
                child.kill()
                raise AssertionError(f"no end after {SECONDS_MAX} s")
            time.sleep(0.005)
        child.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        return child.returncode, log.read(), usage.ru_maxrss << 10


def check(engine, name, memory_max):
    spoil, words = CASES[name] if name else (lambda c: None, None)
    with tempfile.TemporaryDirectory(prefix="quantd_untrusted_") as folder:
        canary = folder + "/canary"
        case = Case(folder + "/model", canary)
        spoil(case)
        status, said, memory = use(engine, case, folder + "/output")
        assert not os.path.exists(canary), "was executed"
        if words is None:
            assert status == 0, f"exit {status}: {said}"
        else:
            assert status == 1, f"exit {status}, not 1: {said[-2000:]}"
            assert words in said, f"{words!r} is not in: {said[-2000:]}"
            assert len(said) < 4096, f"says {len(said)} bytes: {said[:2000]}"
        assert memory <= memory_max, f"{memory >> 20} MiB; at most {memory_max >> 20} are right"
        return memory


def try_the_payload():
    with tempfile.TemporaryDirectory(prefix="quantd_untrusted_") as folder:
        for protocol in (0, 2, 4, 5):
            canary = f"{folder}/canary{protocol}"
            case = Case(f"{folder}/{protocol}", canary)
            pickle.loads(case.pickled(protocol))
            assert os.path.exists(canary), f"the payload of protocol {protocol} does nothing: the test would prove nothing"


def main(programs, count=None, seed=None):
    engine = os.path.abspath(programs) + "/quant-engine"
    seed = int(seed or time.time())
    names = sorted(CASES)
    if count is not None:
        names = random.Random(seed).sample(names, int(count))
    print(f"{len(names)} of {len(CASES)} cases, seed {seed}", flush=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try_the_payload()
    good = check(engine, None, 1 << 40)
    most, failed = 0, []
    for name in names:
        try:
            most = max(most, check(engine, name, good + MEMORY_MORE_MAX))
        except AssertionError as error:
            failed.append(f"{name}: {error}")
            print(failed[-1], flush=True)
    print(f"{len(names) - len(failed)} of {len(names)} as they should be, nothing executed; "
          f"at most {most >> 20} MiB, {good >> 20} MiB for a good model")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
