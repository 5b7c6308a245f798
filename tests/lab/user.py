"""A user outside of the cloud: a machine with a fresh clone of the project, the keys of an account, and a shell."""

import os
import pty
import re
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.lab.cloud import ENDPOINT
from tests.lab.machines import PROJECT, PYTHON, Machine

ADDRESS, NAME = "198.51.100.10", "ubuntu"
VARIABLES = {
    "AWS_ENDPOINT_URL": ENDPOINT,
    "AWS_ACCESS_KEY_ID": "user",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": "$HOME/project",
    "PATH": f"{PYTHON[0]}/bin:{Path(shutil.which('aws') or '/').parent}:$PATH",
}
ERROR = re.compile(r"^error: ", re.MULTILINE)
DRAIN_S = 5.0
COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class User:
    """Types commands into a shell in the project's folder."""

    def __init__(self, network):
        self.machine, self._logs = Machine(network, "laptop", [ADDRESS]), network.folder
        self._before = " ".join(f"export {name}={value};" for name, value in VARIABLES.items()) + " cd ~/project; "
        files = subprocess.run(
            ["git", "-C", PROJECT, "ls-files", "--cached", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
        )
        tar = ["tar", "--create", f"--directory={PROJECT}", "--files-from=-"]
        packed = subprocess.run(tar, input=files.stdout, check=True, capture_output=True)
        self._in("mkdir ~/project && tar --extract --directory=$HOME/project", input=packed.stdout)

    def _in(self, command, **options):
        return subprocess.run(self.machine.command(NAME, command), check=True, capture_output=True, **options)

    def write(self, name, content):
        """A file in the project's folder."""
        self._in(f"mkdir -p ~/project/$(dirname {name}) && cat > ~/project/{name}", input=content)

    def read(self, name):
        return self._in(f"cat ~/project/{name}").stdout

    def run(self, command, limit_s=60, status=0):
        """What a command prints that ends with a status."""
        session = self.start(command)
        assert session.wait(limit_s) == status, f"{command}: status {session.status}\n{session.text}"
        return session.text

    def start(self, command):
        """A command at work."""
        return Session(self.machine.command(NAME, self._before + command))


class Session:
    """A command at work on a terminal of its own, and what it has printed."""

    def __init__(self, command):
        self._terminal, other = pty.openpty()
        self._process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, start_new_session=True)
        os.close(other)
        self._printed = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        with suppress(OSError):  # the other side is closed
            while more := os.read(self._terminal, 65536):
                self._printed += more

    @property
    def text(self):
        """All that it has printed."""
        return COLOURS.sub("", self._printed.decode(errors="replace"))

    @property
    def status(self):
        """With which it ended; None until then."""
        return self._process.poll()

    def send(self, text):
        """Type a line or a control character."""
        os.write(self._terminal, text.encode())

    def expect(self, pattern, limit_s):
        """Wait until something is printed, and no error of ours before."""
        end_s = time.monotonic() + limit_s
        while not (found := re.search(pattern, self.text)):
            if time.monotonic() > end_s or not self._thread.is_alive() or ERROR.search(self.text):
                raise AssertionError(f"no {pattern!r}:\n{self.text}")
            time.sleep(0.2)
        return found

    def wait(self, limit_s):
        """Until it has ended; its status."""
        try:
            self._process.wait(limit_s)
        finally:
            self.close()
        return self.status

    def close(self):
        """End it; what it has started on the machine may go on, and print, until the machine ends."""
        self._process.kill()
        self._process.wait()
        self._thread.join(DRAIN_S)
