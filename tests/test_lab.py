"""The shipped cluster.yaml from `ray up` to `ray down`, on a pretended cloud that loses machines on the way.

python -m pytest tests/test_lab.py -m all -s            as root; prints when each step was done
"""

import io
import json
import re
import subprocess
import time
from collections import Counter
from contextlib import ExitStack

import pandas as pd
import pytest

from tests.lab import machines
from tests.lab.cloud import REGION, Cloud
from tests.lab.machines import Machine, Network
from tests.lab.user import User

BUCKET, RESULT = "results-of-mine", "x"
WORKERS, TRIALS, EPOCHS = 1, 3, 8
SMALL = (
    "model.base_channels=2 model.kernel=8 training.batch_size=[4,8] model.latent_dim=[100,120] evaluation.fakes=16 "
    "evaluation.splits=10 scheduler.name=none finalists.count=0 wandb.mode=disabled resources.gpus_per_trial=1"
)
SEARCH = (
    f"python search/run.py --preset demo --data s3://{BUCKET}/windows --name {RESULT} --num-samples {TRIALS} "
    f"--max-epochs {EPOCHS} {' '.join(f'--set {setting}' for setting in SMALL.split())}"
)
DASHBOARD = 8265
CHECKPOINT = re.compile(rf"results/{RESULT}/tune/([^/]+)/checkpoint_0*(\d+)/")
pytestmark = [pytest.mark.slow, pytest.mark.all]


class Lab:
    """A cloud with an account as the README has it made, and a user with data for its bucket."""

    def __init__(self, stack, data):
        self._begun_s = time.monotonic()
        self.network = Network()
        stack.callback(self.network.close)
        self.cloud = Cloud(self.network)
        stack.callback(self.cloud.close)
        self.user, self.outsider = User(self.network), Machine(self.network, "outsider", ["192.0.2.66"])
        self.user.run(
            "aws cloudformation deploy --stack-name seismogen --template-file search/clusters/aws-account.yaml "
            f"--parameter-overrides Bucket={BUCKET} --capabilities CAPABILITY_NAMED_IAM --region {REGION}"
        )
        for file in data.iterdir():
            self.user.write(f"data/windows/{file.name}", file.read_bytes())
        edited = self.user.read("cluster.yaml").decode().replace("your-bucket", BUCKET)
        self.user.write("cluster.yaml", edited.replace("max_workers: 4", f"max_workers: {WORKERS}").encode())
        self.done("a cloud and a user")

    def done(self, what):
        """Say that a step is done, and when."""
        print(f"{time.monotonic() - self._begun_s:5.0f} s  {what}", flush=True)

    def until(self, true, limit_s):
        """Wait until something is true."""
        end_s = time.monotonic() + limit_s
        while not (found := true()):
            assert time.monotonic() < end_s, true
            time.sleep(0.5)
        return found

    def kinds(self):
        """How many machines there are of each node type."""
        return Counter(_kind(instance) for instance in self.cloud.instances().values())

    def one(self, kind):
        """A machine of a node type: its id."""
        return next(name for name, instance in self.cloud.instances().items() if _kind(instance) == kind)

    def epochs(self):
        """The last checkpoint of each trial in the bucket."""
        pages = self.cloud.call(self.cloud.s3.list_objects_v2, Bucket=BUCKET, Prefix=f"results/{RESULT}/tune/")
        found = [CHECKPOINT.match(kept["Key"]) for kept in pages.get("Contents", [])]
        return {trial: int(number) for trial, number in sorted(match.groups() for match in found if match)}


def _kind(instance):
    return next(tag["Value"] for tag in instance["Tags"] if tag["Key"] == "ray-user-node-type")


@pytest.fixture
def lab(write_prepared, tmp_path):
    """The lab, which ends with all its machines, however the test does."""
    if why_not := machines.missing():
        pytest.skip(f"NOT TESTED, the cluster on a pretended cloud: {why_not}")
    with ExitStack() as stack:
        yield Lab(stack, write_prepared(tmp_path / "windows", windows=280))


def test_a_search_outlives_its_machines(lab):
    up(lab)
    attached(lab)
    only_ssh_is_open(lab)
    search = lab.user.start(f"ray exec cluster.yaml 'cd ~/seismogen && {SEARCH}'")
    lose_a_worker(lab, search)
    lose_the_head(lab, search)
    up(lab)
    resumed(lab)
    fetched(lab)
    idle(lab)
    lab.user.run("ray down -y cluster.yaml", 120)
    assert lab.cloud.instances() == {}
    lab.done("ray down")


def test_a_search_outlives_a_cut_cable_and_a_full_disk(lab):
    up(lab)
    lab.user.run(f"ray exec --tmux cluster.yaml '{SEARCH}'")
    search = lab.user.start("ray attach --tmux cluster.yaml")
    cut_the_cable(lab, search)
    fill_the_disk(lab, search)
    search.close()
    assert f"All of it is in s3://{BUCKET}/results/{RESULT}, too." in search.text
    assert "Traceback" not in search.text


def up(lab):
    """The user's way to a cluster."""
    lab.user.run("test -f ~/.ray/auth_token || ray get-auth-token --generate")
    lab.user.run(f"aws s3 sync --quiet data/windows s3://{BUCKET}/windows")
    assert "Nothing found." in lab.user.run("python search/cluster_check.py cluster.yaml")
    lab.user.run("ray up -y cluster.yaml", 400)
    lab.done("ray up")


def attached(lab):
    """`ray attach`, then literally `python search/run.py`; GPUs come from none; Ctrl-C leaves it to be resumed."""
    assert lab.kinds() == {"head": 1}
    terminal = lab.user.start("ray attach cluster.yaml")
    terminal.expect(r"seismogen\$ ", 60)
    terminal.send("python search/run.py\n")
    terminal.expect(rf"Searching on s3://{BUCKET}/windows with preset itaca", 120)
    terminal.expect(r"Waiting for a machine with 4 CPUs and 1 GPUs to come up", 240)
    terminal.expect(r"Each trial: up to .* GB, CPUs: \d", 500)
    assert lab.kinds() == {"head": 1, "g5": WORKERS}
    lab.done("ray attach, python search/run.py: GPUs came")
    terminal.expect(r"│ running", 240)
    terminal.send("\x03")
    terminal.expect(rf"--name itaca-1 --results s3://{BUCKET}/results --resume", 120)
    terminal.send("exit\n")
    terminal.wait(60)
    terminal.close()
    lab.done("Ctrl-C: told how to resume")


def only_ssh_is_open(lab):
    """What an outsider reaches of each machine, and what someone inside without the token is told."""
    outsider = lab.outsider
    for name, instance in lab.cloud.instances().items():
        listening = lab.cloud.machines[name].listening()
        assert {22, 8076} <= listening
        assert DASHBOARD not in listening
        door = f"/dev/tcp/{instance['PublicIpAddress']}/%d"
        knock = f"(timeout 5 bash -c 'exec 3<>{door}' 2>/dev/null && echo open: %d) & "
        reached = _shell(outsider, "".join(knock % (port, port) for port in sorted(listening)) + "wait")
        assert re.findall(r"open: (\d+)", reached) == ["22"]
    head = lab.cloud.instances()[lab.one("head")]["PrivateIpAddress"]
    inside, variables = lab.cloud.machines[lab.one("g5")], f"PATH={machines.PYTHON[0]}/bin:$PATH HOME=/tmp"
    refused = _shell(inside, f"{variables} RAY_AUTH_MODE=disabled timeout 60 ray status --address {head}:6379 2>&1")
    assert "InvalidAuthToken" in refused
    lab.done("an outsider reaches ssh alone; someone inside without the token is refused")


def _shell(machine, command):
    return subprocess.run(machine.command("ubuntu", command), capture_output=True, text=True, check=False).stdout


def lose_a_worker(lab, search):
    """Power off a worker when trials run on all of them; all go on."""
    lab.until(lambda: _at_work(search) and sum(epoch > 0 for epoch in lab.epochs().values()) == WORKERS, 400)
    before = lab.epochs()
    lab.cloud.power_off(lab.one("g5"))
    lab.done(f"a worker is off, at epochs {sorted(before.values())}")
    lab.until(lambda: _at_work(search) and all(lab.epochs()[trial] > last + 1 for trial, last in before.items()), 400)
    lab.done("its trial goes on elsewhere")


def cut_the_cable(lab, search):
    """Cut the worker off that trains: its trial goes on on another."""
    lab.until(lambda: _at_work(search) and any(lab.epochs().values()), 400)
    before, unreachable = lab.epochs(), lab.one("g5")
    lab.cloud.machines[unreachable].unplug()
    lab.done(f"a worker is cut off, at epochs {sorted(before.values())}")
    lab.until(lambda: _at_work(search) and unreachable not in lab.cloud.instances(), 600)
    lab.done("it is given back")
    lab.until(lambda: _at_work(search) and all(lab.epochs()[trial] > last + 1 for trial, last in before.items()), 400)
    lab.done("its trial goes on elsewhere")


def fill_the_disk(lab, search):
    """Fill the disk of the only worker: trials fail there, each said in a line, and the search ends."""
    worker = lab.cloud.machines[lab.one("g5")]
    _shell(worker, "dd if=/dev/zero of=/tmp/full bs=1M")
    lab.done(f"a worker's disk is full, at epochs {sorted(lab.epochs().values())}")
    search.expect(r"Trial \w+: (OSError: .*No space left on device|its process has died)", 200)
    search.expect(r"Trial \w+ has failed: ", 200)
    lab.done("a trial has failed")
    search.expect(r"All of it is in ", 200)
    lab.done("the search has ended")


def lose_the_head(lab, search):
    """Power off the head in the midst of the search."""
    assert _at_work(search)
    lab.cloud.power_off(lab.one("head"))
    search.close()
    lab.done(f"the head is off, at epochs {sorted(lab.epochs().values())}")


def _at_work(search):
    assert search.status is None, search.text
    return True


def resumed(lab):
    """`ray job submit` through the tunnel of `ray dashboard`; nobody comes through it without the token."""
    tunnel = lab.user.start("ray dashboard cluster.yaml")
    url = f"http://localhost:{DASHBOARD}"
    lab.until(lambda: "401" in lab.user.run(f"curl -s -o /dev/null -w '%{{http_code}}' {url}/api/jobs/ || true"), 60)
    lab.done("401 without the token")
    command = f"python /home/ray/seismogen/search/run.py --name {RESULT} --resume"
    printed = lab.user.run(f"RAY_AUTH_MODE=token ray job submit --address {url} -- {command}", 600)
    tunnel.close()
    assert f"Resuming search {RESULT}" in printed
    assert f"All of it is in s3://{BUCKET}/results/{RESULT}, too." in printed
    lab.done("ray job submit, --resume: the search has ended")


def fetched(lab):
    """The result on the user's machine: every trial once, and the best in working order."""
    lab.user.run(f"aws s3 sync --quiet s3://{BUCKET}/results/{RESULT} results/{RESULT} --exclude 'tune/*'")
    lab.user.run(f"cd results/{RESULT}/best && sha256sum --check --quiet SHA256SUMS")
    table = pd.read_csv(io.BytesIO(lab.user.read(f"results/{RESULT}/trials.csv")))
    assert list(table["state"]) == ["complete"] * TRIALS
    assert list(table["epochs"]) == [EPOCHS] * TRIALS
    assert table["trial_id"].is_unique
    reported = {trial: [] for trial in table["trial_id"]}
    for line in map(json.loads, lab.user.read(f"results/{RESULT}/trials.jsonl").splitlines()):
        if "report" in line:
            reported[line["trial"]].append(line["report"]["epoch"])
    assert all(sorted(set(epochs)) == list(range(1, EPOCHS + 1)) for epochs in reported.values())
    assert all(epochs.count(1) == 1 for epochs in reported.values())  # none began anew
    lab.done(f"epochs reported: {list(reported.values())}")
    lab.done("fetched: every trial once, the best whole")


def idle(lab):
    """Workers without work go."""
    lab.until(lambda: lab.kinds() == {"head": 1}, 400)
    lab.done("idle workers are gone")
