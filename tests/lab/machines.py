"""Machines made of Linux namespaces, and a network that only they are on.

Each has processes, disk, host name and network of its own, and is reached by ssh alone. Its first process killed, all
are gone at once, as when the power fails. Root is needed, and nothing leaves this machine.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
SSH = ("sshd", "ssh", "ssh-keygen", "rsync")
PROGRAMS = (*SSH, "ip", "unshare", "nsenter", "setpriv", "useradd", "aws", "curl", "git", "tmux")
# What all machines have of this one's Python: the packages, then the interpreter.
PYTHON = [sys.prefix, sys.base_prefix]
# Outside of the cloud's own network; AWS answers at the second, the profile of each machine at the third.
AWS, PROFILES = "203.0.113.1", "169.254.169.254"
# Of a machine without any open port: what comes from elsewhere by TCP finds no way to it.
CLOSED = (
    *(f"add pref 9 from {address} ipproto tcp lookup local" for address in (AWS, PROFILES)),
    "add pref 20 iif eth0 ipproto tcp unreachable",
    "add pref 30 lookup local",
    "del pref 0",
)
NETWORK_ONLY, LIMIT_S = 0x40000000, 20.0


def missing():
    """Why there can be no machines here; empty if there can."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.geteuid() != 0:
        return "only root can make machines of namespaces"
    if lacking := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"no program {', '.join(lacking)} here: apt-get install openssh-server rsync iproute2 awscli curl tmux"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


class Network:
    """What all machines are connected to, and a thread of this process that is on it, too.

    It ends, and all machines with it, when the thread that made it does.
    """

    def __init__(self):
        self.folder, self.machines = Path(tempfile.mkdtemp(prefix="lab-")), []
        die_with_me = ["setpriv", "--pdeathsig", "KILL"]
        isolated = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        self._process = subprocess.Popen([*die_with_me, *isolated, "sleep", "infinity"])
        self.pid = _innermost(self._process.pid, 1)
        self.shell(
            "ip link set lo up && ip link add bridge type bridge && ip link set bridge up && "
            f"ip addr add {AWS} dev bridge && ip addr add {PROFILES} dev bridge && ip route add default dev bridge"
        )
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)

    def _enter(self):
        with open(f"/proc/{self.pid}/ns/net") as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), NETWORK_ONLY):
                raise OSError(ctypes.get_errno(), "cannot enter the network of the lab")

    def call(self, function, *arguments):
        """Call a function where the machines can be reached."""
        return self._thread.submit(function, *arguments).result()

    def shell(self, command):
        """Run a command of the shell where the machines are connected."""
        subprocess.run(["nsenter", "--target", str(self.pid), "--net", "sh", "-c", command], check=True)

    def close(self):
        """The end of all machines."""
        for machine in self.machines:
            machine.power_off()
        self._thread.shutdown()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.folder)


def _innermost(pid, depth):
    """The process that a chain of `depth` parents has started; waits for it."""
    end_s = time.monotonic() + LIMIT_S
    for _ in range(depth):
        children = Path(f"/proc/{pid}/task/{pid}/children")
        while not (found := children.read_text().split()):
            if time.monotonic() > end_s:
                raise TimeoutError(f"process {pid} started no other within {LIMIT_S:g} s")
            time.sleep(0.02)
        pid = int(found[0])
    return pid


class Machine:
    """A machine that is up: its first address is the one that it calls itself by."""

    def __init__(self, network, name, addresses, keys="", image=(), gpu=False):
        self.name, self.addresses, self._network = name, addresses, network
        self._open = None
        self._disk = network.folder / name
        self._disk.mkdir()
        known = network.folder / f"{name}.keys"
        known.write_text(keys)
        about = {"NAME": name, "ADDRESS": addresses[0], "DISK": self._disk, "KEYS": known, "CHECKOUT": PROJECT}
        about |= {"IMAGE": " ".join(image), "GPU": "yes" if gpu else "", "PATH": os.environ["PATH"]}
        of_the_network = ["nsenter", "--target", str(network.pid), "--pid", "--mount"]
        of_its_own = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        with (network.folder / f"{name}.log").open("w") as log:
            self._process = subprocess.Popen(
                [*of_the_network, *of_its_own, HERE / "boot.sh", *PYTHON],
                env={key: str(value) for key, value in about.items()},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid
        network.machines.append(self)
        self.pid = _innermost(self.pid, 2)
        self._connect()
        self._wait_for_ssh()

    def _connect(self):
        """A cable from the machine to the network; everything there is one hop away."""
        self._cable = f"to-{self.pid}"
        self._network.shell(
            f"ip link add {self._cable} type veth peer name eth0 netns {self.pid} && "
            f"ip link set {self._cable} master bridge up"
        )
        given = " && ".join(f"ip addr add {address} dev eth0" for address in self.addresses)
        self._in(f"ip link set lo up && {given} && ip link set eth0 up && ip route add default dev eth0")

    def _in(self, command):
        """Run a command of the shell on the machine's network, unless the machine has ended."""
        done = subprocess.run(["nsenter", "--target", str(self.pid), "--net", "sh", "-c", command], check=False)
        if done.returncode and self._process.poll() is None:
            raise OSError(f"{self.name}: {command} ended with status {done.returncode}")

    def _wait_for_ssh(self):
        end_s = time.monotonic() + LIMIT_S
        while self._process.poll() is None and 22 not in self.listening():
            if time.monotonic() > end_s:
                self._process.kill()
            time.sleep(0.1)
        if self._process.poll() is not None:
            raise OSError((self._network.folder / f"{self.name}.log").read_text())

    def listening(self):
        """Ports that something listens on, beyond the machine itself."""
        found = set()
        for version in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.pid}/net/{version}").read_text().splitlines()[1:]:
                address, port = line.split()[1].split(":")
                if line.split()[3] == "0A" and not _of_itself(address):
                    found.add(int(port, 16))
        return found

    def open(self, sources):
        """Let in those alone that come from a source, an address or network, to a range of ports, None for all.

        And the cloud's answers, which nobody else can send from its addresses.
        """
        if self._open is None:
            self._open = set()
            self._in(" && ".join(f"ip rule {rule}" for rule in CLOSED))
        changes = [("add", new) for new in sources - self._open] + [("del", old) for old in self._open - sources]
        for change, (source, ports) in changes:
            only = f"dport {ports[0]}-{ports[1]}" if ports else ""
            self._in(f"ip rule {change} pref 10 iif eth0 from {source} ipproto tcp {only} lookup local")
        self._open = sources

    def command(self, user, text):
        """What to run here for a command of a user's shell on the machine."""
        inside = ["nsenter", "--target", str(self.pid), "--all", "--root", "--wd=/"]
        return [*inside, "runuser", "--login", user, "--command", text]

    def unplug(self, plugged=False):
        """Cut the machine off from the network, or connect it again."""
        self._network.shell(f"ip link set {self._cable} {'up' if plugged else 'down'}")

    def power_off(self):
        """End it at once, and all that runs on it, if it has not ended yet."""
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._process.wait()
            self._disk.rmdir()


def _of_itself(address):
    """Whether an address, as /proc/net has it, is one of the machine's own loopback."""
    return address.endswith("00007F") or address == "0" * 24 + "01000000"
