"""The Debian packages: made by CPack, unpacked, and their programs run from where they were unpacked.

    package.py BUILD_FOLDER
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

build = pathlib.Path(sys.argv[1]).resolve()
NEEDED = {"quantctl": ["usr/bin/quantctl", "usr/share/bash-completion/completions/quantctl"],
          "quantd": ["usr/bin/quantd", "usr/lib/systemd/system/quantd.service", "etc/quantd/quantd.yaml"],
          "quantd-worker": ["usr/bin/quant-worker", "usr/bin/quant-engine", "etc/default/quant-worker",
                            "usr/lib/systemd/system/quant-worker@.service", "usr/share/doc/quantd-worker/copyright"]}


def output(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, **options).stdout


def main():
    if not shutil.which("dpkg-shlibdeps"):
        print("skipped: dpkg-dev is not installed")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        output("cpack", "--config", build / "CPackConfig.cmake", "-B", folder / "packages", cwd=build)
        root = folder / "root"
        for name, files in NEEDED.items():
            package, = (folder / "packages").glob(f"{name}_*.deb")
            depends = output("dpkg-deb", "-f", package, "Depends")
            assert "libgrpc" in depends or name == "quantd-worker", f"{name} depends on {depends}"
            output("dpkg-deb", "-x", package, root)
            for file in files:
                assert (root / file).is_file(), f"{name} has no {file}"
            control = output("dpkg-deb", "-I", package)
            for file in [f for f in files if f.startswith("etc/")]:
                assert "conffiles" in control, f"an upgrade would overwrite /{file}"
            print(f"{package.name}: {package.stat().st_size / 1e6:.0f} MB")
        assert output(root / "usr/bin/quantd", "--version").startswith("quantd ")
        # libtorch is found beside the program, not in the folder it was built against.
        maps = output("ldd", root / "usr/bin/quant-engine")
        libraries = [line for line in maps.splitlines() if "libtorch" in line or "libcudart" in line]
        assert libraries and all(str(root) in line for line in libraries), maps
        assert json.loads(output(root / "usr/bin/quant-engine", "capabilities"))["methods"]
    return 0


sys.exit(main())
