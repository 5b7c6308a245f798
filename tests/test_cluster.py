"""cluster.yaml without a cloud: Ray's launcher runs whole against a pretended EC2, with SSH recorded instead of run."""

import copy
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private import command_runner, commands, providers
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.ray_installer import RayInstaller
from ray.core.generated.instance_manager_pb2 import Instance

from search.cluster_check import findings, main, pin

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ROOT / "search" / "clusters"
REGION = "us-west-2"
WORLD = "0.0.0.0/0"
# What the launcher asks of a machine, and what a new one answers.
ANSWERS = {
    "Config.Env": b'["HOME=/home/ray"]',
    "printenv HOME": b"/home/ray",
    "/proc/meminfo": b"MemAvailable: 8000000 kB",
    ".Runtimes": b"map[nvidia:{nvidia-container-runtime []}]",
    "command -v": b"docker",
}
# Ray's launcher leaves files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def edited():
    """The shipped file as a user hands it to `ray up`."""
    return (ROOT / "cluster.yaml").read_text().replace("your-bucket", "results-of-mine")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a token, and nothing of this machine's own."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("a token")
    keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": REGION}
    with mock.patch.dict("os.environ", {"HOME": str(folder), **keys}):
        yield folder


@pytest.fixture(scope="module")
def account():
    """An AWS account in memory, in which nothing leaves this process."""
    with mock_aws(config={"iam": {"load_aws_managed_policies": False}}):
        yield SimpleNamespace(ec2=boto3.client("ec2", REGION), iam=boto3.client("iam", REGION))


@pytest.fixture(scope="module")
def cluster(home, account, tmp_path_factory):
    """What `ray up` did, and then its autoscaler on the head for one worker of each type."""
    make_roles(account.iam)
    project = home / "seismogen"
    project.mkdir()
    file = tmp_path_factory.mktemp("up") / "cluster.yaml"
    file.write_text(edited())
    log = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setattr("time.sleep", lambda _: None)
        patch.setattr("ray.autoscaler._private.updater.AUTOSCALER_NODE_START_WAIT_S", 5)
        patch.setattr("ray.autoscaler._private.aws.node_provider.list_ec2_instances", described(account.ec2))
        patch.setattr(command_runner.SSHCommandRunner, "_run_helper", recorder(log))
        commands.create_or_update_cluster(str(file), None, None, False, False, True, no_config_cache=True)
        config = json.loads(next(entry.bootstrap for entry in log if entry.bootstrap))
        head = list(log)
        workers = {name: start_worker(config, name, log) for name in ("g5", "g6")}
    return SimpleNamespace(config=config, head=head, workers=workers, instances=instances(account.ec2), **vars(account))


def described(ec2):
    """Stands for Ray's list of all 900 types of machine, which takes the pretended EC2 seconds: those here alone."""
    nodes = yaml.safe_load(edited())["available_node_types"].values()
    types = ec2.describe_instance_types(InstanceTypes=[node["node_config"]["InstanceType"] for node in nodes])
    return lambda *_: types["InstanceTypes"]


def recorder(log):
    """Stands for SSH: notes each command and answers it as a new machine would."""

    def run(runner, command, with_output=False, *_, **__):
        text = " ".join(command)
        source = command[-2] if command[0] == "rsync" and "ray_bootstrap_config" in command[-1] else None
        bootstrap = Path(source).read_text() if source and Path(source).is_file() else None
        log.append(SimpleNamespace(command=text, bootstrap=bootstrap))
        answer = next((reply for asked, reply in ANSWERS.items() if asked in text), b"")
        return answer if with_output else 0

    return run


def start_worker(config, name, log):
    """A worker as the autoscaler starts it; the commands it is sent."""
    before = len(log)
    config = AutoscalingConfig(copy.deepcopy(config))
    provider = providers._get_node_provider(config.get_config("provider"), config.get_config("cluster_name"))
    tags = {"ray-node-type": "worker", "ray-user-node-type": name, "ray-node-status": "uninitialized"}
    (made,) = provider.create_node(config.get_cloud_node_config(name), tags, 1)
    provider.non_terminated_nodes({})  # the provider learns of its new machine, as it does every few seconds
    instance = Instance(instance_type=name, cloud_instance_id=made)
    RayInstaller(provider, config).install_ray(instance, "10.0.0.1")
    return log[before:]


def instances(ec2):
    """All machines, by node type."""
    found = [machine for group in ec2.describe_instances()["Reservations"] for machine in group["Instances"]]
    return {tag["Value"]: machine for machine in found for tag in machine["Tags"] if tag["Key"] == "ray-user-node-type"}


def position(log, *texts):
    """Where the first command that holds all texts stands: Ray sends workers the set-up commands twice."""
    return next(number for number, entry in enumerate(log) if all(text in entry.command for text in texts))


def make_roles(iam):
    """The roles and profiles of aws-account.yaml, whose policies the pretended IAM checks."""
    resources = yaml.safe_load((VARIANTS / "aws-account.yaml").read_text())["Resources"]
    text = json.dumps(resources).replace("${Bucket}", "results-of-mine").replace("${AWS::AccountId}", "123456789012")
    text = re.sub(r'\{"Fn::Sub": ("[^"]*")\}', r"\1", text)
    arns = {}
    for name, resource in json.loads(text).items():
        properties = resource["Properties"]
        if resource["Type"] == "AWS::IAM::ManagedPolicy":
            properties["PolicyDocument"] = json.dumps(properties["PolicyDocument"])
            made = iam.create_policy(PolicyName=properties.pop("ManagedPolicyName"), **properties)
            arns[name] = made["Policy"]["Arn"]
        if resource["Type"] == "AWS::IAM::Role":
            document = json.dumps(properties["AssumeRolePolicyDocument"])
            iam.create_role(RoleName=properties["RoleName"], AssumeRolePolicyDocument=document)
            for policy in properties["ManagedPolicyArns"]:
                iam.attach_role_policy(RoleName=properties["RoleName"], PolicyArn=arns[policy["Ref"]])
        if resource["Type"] == "AWS::IAM::InstanceProfile":
            profile, (role,) = properties["InstanceProfileName"], properties["Roles"]
            iam.create_instance_profile(InstanceProfileName=profile)
            role_name = resources[role["Ref"]]["Properties"]["RoleName"]
            iam.add_role_to_instance_profile(InstanceProfileName=profile, RoleName=role_name)


def test_ray_accepts_the_file_and_no_check_finds_anything(home):
    validate_config(prepare_config(yaml.safe_load(edited())))
    assert findings(edited()) == []


def test_a_user_edits_three_places_and_the_check_names_the_bucket_until_then(home):
    shipped = (ROOT / "cluster.yaml").read_text()
    assert re.findall(r"# EDIT (\d of \d):", shipped) == ["1 of 3", "2 of 3", "3 of 3"]
    assert findings(shipped) == [
        "SEARCH_DATA is s3://your-bucket/windows; put in the name of your bucket",
        "SEARCH_RESULTS is s3://your-bucket/results; put in the name of your bucket",
    ]


def test_the_image_s_cuda_is_that_of_the_pinned_torch():
    # Another torch may bring another CUDA: see `cuda-toolkit` among its requirements, then PYTHON_AND_CUDA.
    assert pin("torch") == "2.13.0"
    assert "-cu130" in yaml.safe_load(edited())["docker"]["image"]


def test_the_head_is_on_demand_without_gpu_or_work(cluster):
    head = cluster.instances["head"]
    assert "InstanceLifecycle" not in head
    assert head["InstanceType"] == "m6i.xlarge"
    resources = cluster.config["available_node_types"]["head"]["resources"]
    assert (resources["CPU"], resources.get("GPU")) == (0, None)


@pytest.mark.parametrize("name", ["g5", "g6"])
def test_workers_are_spot_machines_with_one_gpu_each(cluster, name):
    assert cluster.instances[name]["InstanceLifecycle"] == "spot"
    assert cluster.instances[name]["InstanceType"] == f"{name}.2xlarge"
    node = cluster.config["available_node_types"][name]
    assert (node["resources"]["GPU"], node["min_workers"], node["max_workers"]) == (1, 0, 4)


def test_every_type_of_machine_is_offered_in_every_zone_named(account):
    config = yaml.safe_load(edited())
    zones = set(config["provider"]["availability_zone"].split(","))
    for node in config["available_node_types"].values():
        only = [{"Name": "instance-type", "Values": [node["node_config"]["InstanceType"]]}]
        offers = account.ec2.describe_instance_type_offerings(LocationType="availability-zone", Filters=only)
        assert zones <= {offer["Location"] for offer in offers["InstanceTypeOfferings"]}


@pytest.mark.parametrize(("name", "profile"), [("head", "head"), ("g5", "worker"), ("g6", "worker")])
def test_every_machine_has_the_profile_that_the_account_s_template_makes(cluster, name, profile):
    assert cluster.instances[name]["IamInstanceProfile"]["Arn"].endswith(f"instance-profile/seismogen-{profile}")
    (role,) = cluster.iam.get_instance_profile(InstanceProfileName=f"seismogen-{profile}")["InstanceProfile"]["Roles"]
    attached = cluster.iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
    names = {policy["PolicyName"] for policy in attached}
    assert names == {"seismogen-bucket"} | ({"seismogen-start-workers"} if profile == "head" else set())


def test_only_ssh_is_open_to_the_world(cluster):
    groups = {group["GroupId"] for machine in cluster.instances.values() for group in machine["SecurityGroups"]}
    rules = [
        rule
        for group in cluster.ec2.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
        for rule in group["IpPermissions"]
        if WORLD in {source["CidrIp"] for source in rule["IpRanges"]}
    ]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in rules] == [(22, 22)]


def test_the_head_is_set_up_in_order(cluster):
    head = cluster.head
    steps = [
        position(head, "docker pull rayproject/ray:2.60.0-py311-cu130"),
        position(head, "docker run", "-e RAY_AUTH_MODE=token", "-w /home/ray/seismogen"),
        position(head, "pip install", "-c constraints.txt"),
        position(head, "ray.__version__"),
        position(head, "ray start --head", "--dashboard-host=127.0.0.1", "ray_bootstrap_config.yaml"),
    ]
    assert steps == sorted(steps)
    assert WORLD.removesuffix("/0") not in head[steps[-1]].command


@pytest.mark.parametrize("name", ["g5", "g6"])
def test_workers_get_image_token_and_storage_as_the_head_does(cluster, name):
    log = cluster.workers[name]
    options = ["RAY_AUTH_MODE=token", "SEARCH_DATA=s3://", "SEARCH_RESULTS=s3://", "--runtime=nvidia", "auth_token"]
    steps = [
        position(log, "rsync --rsh", "/.ray/auth_token"),
        position(log, "docker run", "2.60.0-py311-cu130", *options),
        position(log, "pip install", "-c constraints.txt"),
        position(log, "ray.__version__"),
        position(log, "RAY_HEAD_IP=10.0.0.1", "ray start --address="),
    ]
    assert steps == sorted(steps)


def test_data_results_and_environments_stay_here(cluster):
    sent = cluster.head[position(cluster.head, "rsync --rsh", " ./ ")]
    for pattern in (".git", "/data", "/results"):
        assert f"--exclude {pattern} " in sent.command
    assert "--filter dir-merge,- .gitignore" in sent.command


def replaced(old, new, count=1):
    """A mutant of the file, in which `old` is `new`."""
    text = edited()
    assert text.count(old) >= count
    return text.replace(old, new)


def changed(change):
    """A mutant of the file, in which `change` was done to what it holds."""
    config = yaml.safe_load(edited())
    config["available_node_types"] = copy.deepcopy(config["available_node_types"])  # anchors are one object
    change(config)
    return yaml.safe_dump(config)


def node(name, **values):
    """Lays values over the machine of a node type; None leaves one out."""

    def change(config):
        machine = {**config["available_node_types"][name]["node_config"], **values}
        kept = {key: value for key, value in machine.items() if value is not None}
        config["available_node_types"][name]["node_config"] = kept

    return lambda: changed(change)


def top(key, value):
    """Sets a dotted key; None leaves it out."""

    def change(config):
        *path, last = key.split(".")
        for step in path:
            config = config[step]
        config.pop(last, None)
        if value is not None:
            config[last] = value

    return lambda: changed(change)


def text(old, new):
    return lambda: replaced(old, new)


OPEN = {"IpPermissions": [{"FromPort": 8265, "ToPort": 8265, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": WORLD}]}]}
ONLY_HEAD = text(" -e RAY_AUTH_MODE=token", " -e LANG=C\n  head_run_options:\n    - -e RAY_AUTH_MODE=token")
MUTANTS = [
    ("dashboard on all interfaces", text("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"), "dashboard's host"),
    ("dashboard left to Ray", top("head_start_ray_commands", None), "dashboard's host is left to Ray"),
    ("no profile on a worker", node("g6", IamInstanceProfile=None), "g6 has no IamInstanceProfile"),
    ("no profile on the head", node("head", IamInstanceProfile=None), "head has no IamInstanceProfile"),
    ("not spot", node("g5", InstanceMarketOptions=None), "g5 is not on spot"),
    ("head on spot", node("head", InstanceMarketOptions={"MarketType": "spot"}), "the head is on spot"),
    ("GPU on the head", node("head", InstanceType="g5.2xlarge"), "the head has a GPU"),
    ("work on the head", top("available_node_types.head.resources", {}), "the head has all its CPUs"),
    ("no ImageId", node("g5", ImageId=None), "g5 has no ImageId"),
    (
        "unpinned Ray",
        text("ray:2.60.0-py311-cu130\n  run", "ray:latest-gpu\n  run"),
        "expected a tag 2.60.0-py311-cu130",
    ),
    ("another Python", text("2.60.0-py311-cu130\n  run", "2.60.0-py312-cu130\n  run"), "docker.image is"),
    ("unpinned packages", text(" -c constraints.txt", ""), "install no pins"),
    ("Ray's version not asserted", text("ray.__version__", "ray.__file__"), "do not assert ray.__version__"),
    ("misspelt field of the file", text("idle_timeout_minutes", "idle_timeout_minute"), "idle_timeout_minute"),
    (
        "misspelt field of the provider",
        text("availability_zone:", "availability_zones:"),
        "provider.availability_zones",
    ),
    ("misspelt field of a machine", text("InstanceMarketOptions", "InstanceMarketOption"), "InstanceMarketOption"),
    ("misspelt field of a disk", text("VolumeSize", "VolumeSizeGb"), "VolumeSizeGb"),
    ("open ports", top("provider.security_group", OPEN), "opens ports 8265 to 8265 to the world"),
    ("a zone of another region", text("us-west-2c", "us-east-1c"), "availability_zone has us-east-1c"),
    ("one zone", text(",us-west-2b,us-west-2c", ""), "availability_zone has one zone"),
    *(
        ("a key in the file", text("-e RAY_AUTH", f"-e {secret}\n    - -e RAY_AUTH"), "looks like a secret")
        for secret in (
            "WANDB_API_KEY=1234",
            "WANDB_API_KEY='1234'",
            'AWS_SECRET_ACCESS_KEY="ab/cd"',
            "OPTUNA_STORAGE=postgresql://me:hunter2@db/optuna",
        )
    ),
    ("a token in a comment", text("# nobody", "# " + "0a" * 32), "looks like a secret"),
    (
        "results local",
        text("SEARCH_RESULTS=s3://results-of-mine", "SEARCH_RESULTS=/home/ray"),
        "SEARCH_RESULTS is /home",
    ),
    ("data nowhere", text("SEARCH_DATA=", "SEARCH_DATUM="), "SEARCH_DATA is nothing on the worker"),
    ("token mode missing on workers", ONLY_HEAD, "RAY_AUTH_MODE is None on the worker"),
    ("token not mounted", top("file_mounts", {"~/seismogen": "."}), "file_mounts lacks ~/.ray/auth_token"),
    ("max_workers below the sum", top("available_node_types.g5.max_workers", 5), "max_workers is 4, below the 5"),
    ("workers that never end", top("available_node_types.g6.min_workers", 1), "g6 has min_workers 1"),
    ("stopped machines kept", text("cache_stopped_nodes: false", "cache_stopped_nodes: true"), "cache_stopped_nodes"),
    ("data sent with the code", text(", /data, /results]", "]"), "rsync_exclude lacks /data, /results"),
    ("environment sent with the code", text("rsync_filter: [.gitignore]", ""), "rsync_filter lacks .gitignore"),
    ("head type unknown", text("head_node_type: head", "head_node_type: heat"), "head_node_type is heat"),
]


@pytest.mark.parametrize(("mutant", "expected"), [case[1:] for case in MUTANTS], ids=[case[0] for case in MUTANTS])
def test_a_mistake_in_the_file_is_found(home, mutant, expected):
    assert any(expected in line for line in findings(mutant()))


def test_the_command_prints_a_line_a_finding(home, tmp_path, capsys, monkeypatch):
    file = tmp_path / "cluster.yaml"
    file.write_text(replaced("max_workers: 4", "max_workers: 0"))
    monkeypatch.setattr("sys.argv", ["cluster_check.py", str(file)])
    assert main() == 1
    assert capsys.readouterr().out.startswith("max_workers is 0, below the 1")
    file.write_text(edited())
    assert main() == 0


def test_a_missing_token_is_told_with_the_command_that_makes_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (line,) = findings(edited())
    assert line.endswith("make it with: ray get-auth-token --generate")


@pytest.mark.parametrize("content", ["just words", "provider: {type: aws}", "{cluster_name: x, provider: {type: aws}}"])
def test_what_is_no_cluster_is_one_of_the_findings(content):
    assert findings(content)


def test_what_is_no_yaml_is_refused():
    with pytest.raises(ValueError, match="expected YAML"):
        findings("a: [")


def variant(name):
    return yaml.safe_load((VARIANTS / name).read_text())


def test_the_variant_for_own_machines_passes_ray_and_the_check(home):
    text = (VARIANTS / "local.yaml").read_text()
    assert findings(text) == []
    validate_config(prepare_config(yaml.safe_load(text)))
    assert findings(text.replace("export RAY_AUTH_MODE=token", "true"))


def test_all_images_have_the_base_of_cluster_yaml():
    image = yaml.safe_load(edited())["docker"]["image"]
    tag = image.partition(":")[2]
    assert f"FROM {image}\n" in (VARIANTS / "Dockerfile").read_text()
    spec = variant("kuberay-cluster.yaml")["spec"]
    pods = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    assert {pod["spec"]["containers"][0]["image"].partition(":")[2] for pod in pods} == {tag}
    assert spec["rayVersion"] == pin("ray")


def test_kubernetes_has_token_and_storage_on_every_pod_and_no_work_on_the_head():
    spec = variant("kuberay-cluster.yaml")["spec"]
    head, (group,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert spec["authOptions"] == {"mode": "token"}
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert group["minReplicas"] == 0
    for template in (head["template"], group["template"]):
        names = [variable["name"] for variable in template["spec"]["containers"][0]["env"]]
        assert names == ["SEARCH_DATA", "SEARCH_RESULTS"]
    assert variant("kuberay-job.yaml")["spec"]["clusterSelector"] == {"ray.io/cluster": "seismogen"}


@pytest.fixture
def slurm(tmp_path):
    """Run the batch script with stand-ins that note how they are called; the search ends with a given status."""

    def run(status, head="exec sleep 60", up=True):
        commands = tmp_path / "bin"
        commands.mkdir()
        log = tmp_path / "log"
        note = f'echo "$(basename "$0") $* mode=$RAY_AUTH_MODE token=${{#RAY_AUTH_TOKEN}}" >> {log}'
        # As a search would, its stand-in ends after head and workers have begun.
        begun = f"until [ $(grep -c ' --block' {log}) = 2 ]; do :; done"
        ending = (
            f'case "$*" in *--head*) {head};; *--block*) exec sleep 60;; *run.py*) {begun}; exit {status};; '
            f"status) {'true' if up else 'false'};; esac"
        )
        for name in ("srun", "ray"):
            (commands / name).write_text(f"#!/bin/bash\n{note}\n{ending}\n")
        (commands / "scontrol").write_text("#!/bin/bash\nprintf 'one\\ntwo\\nthree\\n'\n")
        for file in commands.iterdir():
            file.chmod(0o755)
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "activate").write_text("")
        variables = {"PATH": f"{commands}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "[one-three]", "SLURM_JOB_ID": "7"}
        storage = {"SEARCH_DATA": "/shared/windows", "SEARCH_RESULTS": "/shared/results"}
        script = ["bash", str(VARIANTS / "slurm.sh"), "--max-hours", "22"]
        environment = {**variables, **storage}
        done = subprocess.run(
            script, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, timeout=50, check=False
        )
        return SimpleNamespace(status=done.returncode, log=log.read_text().splitlines(), stderr=done.stderr)

    return run


def test_slurm_starts_head_workers_and_search_in_order_and_ends_with_its_status(slurm):
    done = slurm(3)
    assert done.status == 3
    calls = sorted(line for line in done.log if line.startswith("srun"))
    assert len(calls) == 3
    assert all(line.endswith("mode=token token=64") for line in done.log)
    (head,) = [line for line in calls if "--head" in line]
    (workers,) = [line for line in calls if "--address=one:6379" in line]
    (search,) = [line for line in calls if "run.py" in line]
    assert "-w one " in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--nodes=2 " in workers
    assert "-w two,three " in workers
    assert all("nvidia-cuda-mps-control -d" in line for line in (head, workers))
    assert "-w one python search/run.py --max-hours 22 " in search


def test_under_slurm_a_head_that_does_not_start_ends_the_job(slurm):
    done = slurm(0, head="exit 1", up=False)
    assert done.status == 1
    assert "Ray's head has ended before the search began" in done.stderr
    assert not [line for line in done.log if "run.py" in line]
