"""Check a cluster.yaml before `ray up`, which has no dry run and whose schema sees neither provider nor machines.

python search/cluster_check.py cluster.yaml             one line a finding, and exit status 1; nothing where all is well
"""

import functools
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from data_prep.command import Parser, run_command

PROJECT = Path(__file__).resolve().parents[1]
# The CUDA of an image follows from PyPI's torch: 2.13.0 requires cuda-toolkit 13.0.
PYTHON_AND_CUDA = "py311-cu130"
KINDS = ("head", "worker")
TOKEN_FILE = ".ray/auth_token"
# Read by Ray's launcher, beside what its schema names.
MORE_PROVIDER_FIELDS = {"aws_credentials", "key_pair", "use_external_head_ip"}
GPU_TYPE = re.compile(r"(g|p)\d")
SECRET = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|-----BEGIN|(?<!sha256:)\b[0-9a-f]{40,}\b|aws_credentials|"
    r"_(KEY|TOKEN|PASSWORD|SECRET)['\"]?\s*[=:]\s*['\"]?\w|://[^/\s:@]+:[^@\s]+@"
)
Config = Mapping[str, Any]


def findings(text: str) -> list[str]:
    """What is wrong with the text of a cluster.yaml, one line each.

    Raises:
        ValueError: if it is no YAML, or boto3 is missing.
    """
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"expected YAML: {error}") from error
    broken = list(_schema(config)) or list(_fields(config))
    if broken:  # the other checks rely on the right names and types
        return broken
    checks = [_token(config), _dashboard(config), _pins(config), _storage(config), _code(config)]
    if config["provider"]["type"] == "aws":
        checks += [_zones(config), _ports(config), _head(config), _workers(config), _numbers(config)]
    return [*_secrets(text), *(line for check in checks for line in check)]


def _ray_schema() -> Any:
    return json.loads(resources.files("ray.autoscaler").joinpath("ray-schema.json").read_text(encoding="utf-8"))


def _schema(config: Any) -> Iterator[str]:
    """What Ray itself would refuse."""
    errors = list(jsonschema.Draft7Validator(_ray_schema()).iter_errors(config))
    for error in errors:
        yield f"{error.json_path.lstrip('$.') or 'the file'}: {error.message}"
    if errors or config["provider"]["type"] == "local":
        return
    if config.get("head_node_type") not in config.get("available_node_types", {}):
        yield f"head_node_type is {config.get('head_node_type')}; expected one of available_node_types"


def _fields(config: Config) -> Iterator[str]:
    """What Ray does not look at: names it would ignore, and machines that AWS would refuse."""
    if config["provider"]["type"] != "aws":
        return
    known = set(_ray_schema()["properties"]["provider"]["properties"]) | MORE_PROVIDER_FIELDS
    for name in sorted(set(config["provider"]) - known):
        yield f"provider.{name} is unknown to Ray, which would ignore it"
    shape, validator = _run_instances()
    for name, node in config["available_node_types"].items():
        asked = {key: value for key, value in node["node_config"].items() if key != "SubnetIds"}  # Ray's own
        report = validator.validate({**asked, "MinCount": 1, "MaxCount": 1}, shape)
        if report.has_errors():
            yield f"{name}.node_config: {' '.join(report.generate_report().split())}"


@functools.cache
def _run_instances() -> tuple[Any, Any]:
    """The shape of EC2's RunInstances, and what validates against it."""
    try:
        import botocore.session
        from botocore.validate import ParamValidator
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; Ray needs it for AWS: pip install -c constraints.txt -e '.[aws]'") from error
    service = botocore.session.get_session().get_service_model("ec2")
    return service.operation_model("RunInstances").input_shape, ParamValidator()


def _secrets(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if SECRET.search(line):
            yield f"line {number} looks like a secret; roles and mounted files carry those, this file is shared"


def _token(config: Config) -> Iterator[str]:
    mounts = config.get("file_mounts", {})
    token = [local for remote, local in mounts.items() if remote.endswith(TOKEN_FILE)]
    if not token:
        yield f"file_mounts lacks ~/{TOKEN_FILE}; without a token whoever reaches a machine can run code on it"
    for local in token:
        if not Path(local).expanduser().is_file():
            yield f"{local} does not exist; make it with: ray get-auth-token --generate"
    for kind, variables in _variables(config).items():
        if variables.get("RAY_AUTH_MODE") != "token":
            yield f"RAY_AUTH_MODE is {variables.get('RAY_AUTH_MODE')} on the {kind}; expected token on every machine"


def _dashboard(config: Config) -> Iterator[str]:
    hosts = re.findall(r"--dashboard-host[= ](\S+)", " ".join(config.get("head_start_ray_commands", [])))
    if hosts != ["127.0.0.1"]:
        yield (
            f"the dashboard's host is {', '.join(hosts) or 'left to Ray (0.0.0.0)'}; expected "
            "--dashboard-host=127.0.0.1 in head_start_ray_commands, and `ray dashboard` to see it"
        )


def _pins(config: Config) -> Iterator[str]:
    """Machines with another Ray, or another version of anything, than the one tested."""
    ray, docker = pin("ray"), config.get("docker", {})
    for key in sorted({"image", "head_image", "worker_image"} & set(docker)):
        if not docker[key].endswith(f":{ray}-{PYTHON_AND_CUDA}"):
            yield f"docker.{key} is {docker[key]}; expected a tag {ray}-{PYTHON_AND_CUDA}, as in constraints.txt"
    for kind in KINDS:
        commands = [*config.get("setup_commands", []), *config.get(f"{kind}_setup_commands", [])]
        if not any(re.search(r"pip install .*-c \S*constraints\.txt|\bmake\b", command) for command in commands):
            yield f"commands that set up the {kind} install no pins; expected pip install -c constraints.txt"
        if not any("ray.__version__" in command for command in commands):
            yield f"commands that set up the {kind} do not assert ray.__version__; others cannot talk to this one"


def pin(package: str) -> str:
    """The version that constraints.txt pins a package to."""
    text = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    return re.findall(rf"^{package}==(\S+)$", text, re.MULTILINE)[0]


def _storage(config: Config) -> Iterator[str]:
    """Results on the disk of one machine would be lost with it, and refused by Ray."""
    shared = r"s3://[^/]+/.+" if config["provider"]["type"] == "aws" else r"(/|\w+://).+"
    for kind, variables in _variables(config).items():
        for name in ("SEARCH_DATA", "SEARCH_RESULTS"):
            place = variables.get(name, "nothing")
            if not re.fullmatch(shared, place):
                yield f"{name} is {place} on the {kind}; expected storage that every machine reaches, as s3://..."
            elif kind == "head" and "your-bucket" in place:
                yield f"{name} is {place}; put in the name of your bucket"


def _code(config: Config) -> Iterator[str]:
    """Data and results are too large to send with the code, and go by the bucket."""
    if "." in config.get("file_mounts", {}).values():
        missing = {"/data", "/results"} - set(config.get("rsync_exclude", []))
        if missing:
            yield f"rsync_exclude lacks {', '.join(sorted(missing))}; every machine would be sent them"
        if ".gitignore" not in config.get("rsync_filter", []):
            yield "rsync_filter lacks .gitignore; every machine would be sent the virtual environment"


def _zones(config: Config) -> Iterator[str]:
    region = config["provider"].get("region", "")
    zones = [zone.strip() for zone in config["provider"].get("availability_zone", "").split(",")]
    for zone in zones:
        if not re.fullmatch(re.escape(region) + "[a-z]", zone):
            yield f"availability_zone has {zone or 'nothing'}; expected zones of region {region or '(not set)'}"
    if len(set(zones)) < 2:
        yield "availability_zone has one zone; expected several, as one of them often has no spot machine left"


def _ports(config: Config) -> Iterator[str]:
    for rule in config["provider"].get("security_group", {}).get("IpPermissions", []):
        sources = [source.get("CidrIp") for source in rule.get("IpRanges", [])]
        sources += [source.get("CidrIpv6") for source in rule.get("Ipv6Ranges", [])]
        ports = (rule.get("FromPort"), rule.get("ToPort"))
        if ports != (22, 22) and {"0.0.0.0/0", "::/0"} & set(sources):
            yield f"security_group opens ports {ports[0]} to {ports[1]} to the world; ssh alone is needed"


def _head(config: Config) -> Iterator[str]:
    head = config["available_node_types"][config["head_node_type"]]
    if head["resources"].get("CPU") != 0:
        yield f"the head has {head['resources'].get('CPU', 'all its')} CPUs for trials; expected resources: {{CPU: 0}}"
    if GPU_TYPE.match(head["node_config"].get("InstanceType", "")) or head["resources"].get("GPU"):
        yield "the head has a GPU, paid for as long as the cluster is up and never used; choose another InstanceType"
    if "InstanceMarketOptions" in head["node_config"]:
        yield "the head is on spot; the whole search stops when it is taken back"
    yield from _needs("head", head["node_config"])


def _workers(config: Config) -> Iterator[str]:
    for name, node in _workers_of(config).items():
        if node["node_config"].get("InstanceMarketOptions", {}).get("MarketType") != "spot":
            yield f"{name} is not on spot, and costs up to three times as much; trials survive the loss of a machine"
        if node.get("min_workers"):
            yield f"{name} has min_workers {node['min_workers']}; they are paid for while idle, expected 0"
        yield from _needs(name, node["node_config"])
    if config["provider"].get("cache_stopped_nodes", True):
        yield "provider.cache_stopped_nodes is not false; stopped machines still pay for their disks"


def _needs(name: str, machine: Config) -> Iterator[str]:
    if "IamInstanceProfile" not in machine:
        yield f"{name} has no IamInstanceProfile, and could not write to the bucket"
    if "ImageId" not in machine:
        yield f"{name} has no ImageId; Ray's own is Ubuntu 18.04"


def _numbers(config: Config) -> Iterator[str]:
    most, workers = config.get("max_workers", 0), _workers_of(config)
    wanted = sum(max(node.get("max_workers", 0), node.get("min_workers", 0)) for node in workers.values())
    if most < max(wanted, 1):
        yield f"max_workers is {most}, below the {max(wanted, 1)} that the node types ask for; some would never start"


def _workers_of(config: Config) -> Mapping[str, Any]:
    return {name: node for name, node in config["available_node_types"].items() if name != config["head_node_type"]}


def _variables(config: Config) -> dict[str, dict[str, str]]:
    """What each kind of machine has in its environment: from docker's options, or exported in commands."""
    docker = config.get("docker", {})
    common = [*docker.get("run_options", []), *config.get("setup_commands", [])]
    kinds = {}
    for kind in KINDS:
        own = [docker.get(f"{kind}_run_options", []), config.get(f"{kind}_setup_commands", [])]
        kinds[kind] = _exported([*common, *itertools.chain(*own)])
    return kinds


def _exported(lines: Iterable[str]) -> dict[str, str]:
    return dict(re.findall(r"(?:-e |--env |--env=|export )(\w+)=([^\s'\";]+)", "\n".join(lines)))


def main() -> int:
    """The command line; the exit status."""
    parser = Parser(description="Check a cluster.yaml before `ray up`: one line a finding.")
    parser.add_argument("file", type=Path, help="the file that `ray up` would be given")
    found = findings(parser.parse_args().file.read_text(encoding="utf-8"))
    print("\n".join(found) or "Nothing found.")
    return 1 if found else 0


if __name__ == "__main__":
    run_command(lambda: sys.exit(main()))
