"""Completion in the shells themselves: each runs interactively on a terminal of its own, a word is begun, TAB is
pressed, and what the shell then runs has to be the whole word.

    completion.py QUANTCTL SHELL        exit code 77 when the shell is not installed
"""
import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

quantctl, shell = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]

# What is typed, with TAB as \t, and the words that `quantctl` is then called with.
CASES = [
    ("wor\t", "workers"),
    ("jobs li\t", "jobs list"),
    ("jobs list --sta\t", "jobs list --state"),
    ("quantize --gro\t", "quantize --group-size"),
    ("quantize model --met\t", "quantize model --method"),
    ("--sche\t", "--scheduler"),
    ("jobs watch --time\t", "jobs watch --timeout"),
    ("sweeps re\t", "sweeps retry"),
    ("explai\t", "explain"),
    ("doctor --on\t", "doctor --only"),
    ("sweep some_long_na\t", "sweep some_long_name.yaml"),
]
# Marks the end of a shell's answer; the shell puts it together, so that the echo of the command does not hold it.
COMMANDS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"],
             "bind 'set enable-bracketed-paste off'; PS1='> '; source {script}; "
             'quantctl() {{ echo "CALLED""[$*]"; }}; echo RE""ADY'),
    "zsh": (["zsh", "-f", "-i"],
            "PS1='> '; unset zle_bracketed_paste; autoload -Uz compinit; compinit -u -d {folder}/dump; source {script}; "
            'quantctl() {{ print -r -- "CALLED""[$*]"; }}; print RE""ADY'),
    "fish": (["fish", "--no-config", "--interactive"],
             "function fish_prompt; echo '> '; end; source {script}; "
             'function quantctl; echo "CALLED""[$argv]"; end; echo RE""ADY'),
}


class Terminal:
    def __init__(self, command, folder):
        self.text = ""
        pid, self.fd = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.environ.update(TERM="xterm", HOME=folder, LANG="C.UTF-8", LINES="50", COLUMNS="200", XDG_CONFIG_HOME=folder,
                              XDG_DATA_HOME=folder)
            os.execvp(command[0], command)
        self.pid = pid

    def type(self, text):
        os.write(self.fd, text.encode())

    def read_until(self, pattern, seconds=30):
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            if time.monotonic() > end or not select.select([self.fd], [], [], 1)[0] and time.monotonic() > end:
                raise SystemExit(f"{shell}: waited for {pattern!r}; the terminal shows:\n{self.text!r}")
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
        self.text = self.text[found.end():]
        return found

    def settle(self):
        """Until nothing has come for a moment: the shell has finished what TAB began."""
        while select.select([self.fd], [], [], 0.3)[0]:
            self.text += os.read(self.fd, 65536).decode(errors="replace")

    def close(self):
        os.close(self.fd)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def main():
    if not shutil.which(shell):
        print(f"skipped: {shell} is not installed")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder) / "quantctl.completion"
        script.write_text(subprocess.run([quantctl, "completion", shell], check=True, capture_output=True, text=True).stdout)
        (pathlib.Path(folder) / "some_long_name.yaml").touch()
        command, setup = COMMANDS[shell]
        terminal = Terminal(command, folder)
        failures = 0
        try:
            terminal.settle()
            terminal.type(setup.format(script=script, folder=folder) + "\r")
            terminal.read_until("READY")
            terminal.settle()
            for typed, wanted in CASES:
                terminal.type("quantctl " + typed)
                terminal.settle()
                terminal.type("\r")
                got = terminal.read_until(r"CALLED\[(.*?)\]").group(1).strip()
                terminal.settle()
                if got != wanted:
                    failures += 1
                    print(f"{shell}: {typed!r} became {got!r}, not {wanted!r}")
        finally:
            terminal.close()
    print(f"{shell}: {len(CASES) - failures} of {len(CASES)} completed")
    return 1 if failures else 0


sys.exit(main())
