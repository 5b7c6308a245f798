"""A pretended cloud: moto answers for EC2, IAM, CloudFormation and S3, and each of its instances is a machine.

Instances have what real ones have: a public and a private address, the key that may log in, the credentials of their
instance profile and no others, and of their ports those open that their security groups open.
"""

import json
import threading
from urllib.request import Request, urlopen

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.lab.machines import AWS, PROFILES, Machine

REGION = "us-west-2"
ENDPOINT = f"http://{AWS}:5000"
# The endpoint where a real cloud needs none; all that is pinned is installed already, so that pip has to install the
# project alone; and no processes that Ray keeps ready, eight on a machine of the lab's two cores.
IMAGE = (
    f"AWS_ENDPOINT_URL={ENDPOINT}",
    *("PIP_NO_INDEX=1", "PIP_NO_BUILD_ISOLATION=0", "PIP_NO_DEPS=1"),
    *("RAY_enable_worker_prestart=0", "RAY_prestart_worker_first_driver=0"),
)
KEYS = {"aws_access_key_id": "user", "aws_secret_access_key": "secret", "region_name": REGION}
LOOK_S = 0.5
GPU_TYPES = ("g", "p")


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_):
        pass


class Cloud:
    """The cloud, as long as it is not closed."""

    def __init__(self, network):
        self._network, self._ended = network, threading.Event()
        self.machines, self.events = {}, []
        applications = {(AWS, 5000): DomainDispatcherApplication(create_backend_app), (PROFILES, 80): self._profile}
        self._servers = [network.call(_served, *where, application) for where, application in applications.items()]
        # moto keeps, as long as the process, what there was in a cloud before.
        network.call(lambda: urlopen(Request(f"{ENDPOINT}/moto-api/reset", method="POST")).close())
        self.ec2, self.iam, self.s3 = (self._client(name) for name in ("ec2", "iam", "s3"))
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _client(self, name):
        return self._network.call(lambda: boto3.client(name, endpoint_url=ENDPOINT, **KEYS))

    def call(self, function, **arguments):
        """The answer of one of the clients."""
        return self._network.call(lambda: function(**arguments))

    def instances(self, *states):
        """All instances in one of some states, by their ids."""
        chosen = [{"Name": "instance-state-name", "Values": list(states or ("pending", "running"))}]
        found = self.call(self.ec2.describe_instances, Filters=chosen)["Reservations"]
        return {machine["InstanceId"]: machine for group in found for machine in group["Instances"]}

    def power_off(self, instance_id):
        """End an instance as when it is taken back: the machine is gone before anyone is told."""
        self.machines[instance_id].power_off()
        self.call(self.ec2.terminate_instances, InstanceIds=[instance_id])

    def close(self):
        self._ended.set()
        self._thread.join()
        for server in self._servers:
            server.shutdown()

    def _follow(self):
        while not self._ended.wait(LOOK_S):
            instances = self.instances()
            for instance_id in set(self.machines) - set(instances):
                self.machines.pop(instance_id).power_off()
            for instance_id in set(instances) - set(self.machines):
                self.machines[instance_id] = self._machine(instances[instance_id])
            self._guard(instances)

    def _machine(self, instance):
        asked = {"KeyNames": [instance["KeyName"]], "IncludePublicKey": True}
        (key,) = self.call(self.ec2.describe_key_pairs, **asked)["KeyPairs"]
        addresses = [instance["PrivateIpAddress"], instance["PublicIpAddress"]]
        gpu = instance["InstanceType"].startswith(GPU_TYPES)
        return Machine(self._network, instance["InstanceId"], addresses, key["PublicKey"], IMAGE, gpu)

    def _guard(self, instances):
        """Open those ports of each machine that its security groups open, to those that they open them to."""
        groups = {
            group["GroupId"]: group["IpPermissions"]
            for group in self.call(self.ec2.describe_security_groups)["SecurityGroups"]
        }
        members = {group: set() for group in groups}
        for instance in instances.values():
            for group in instance["SecurityGroups"]:
                members[group["GroupId"]].add(instance["PrivateIpAddress"])
        for instance_id, instance in instances.items():
            rules = [rule for group in instance["SecurityGroups"] for rule in groups[group["GroupId"]]]
            self.machines[instance_id].open(set().union(*(_opened(rule, members) for rule in rules)))

    def _profile(self, environment, start_response):
        """What a machine is told that asks for its credentials: those of its instance profile, if it has one."""
        path, asking = environment["PATH_INFO"], environment["REMOTE_ADDR"]
        (instance,) = [one for one in self.instances().values() if asking == one["PrivateIpAddress"]]
        answer = _answer(path, instance.get("IamInstanceProfile", {}).get("Arn", "").rpartition("/")[2])
        start_response("200 OK" if answer else "404 Not Found", [("Content-Length", str(len(answer)))])
        return [answer.encode()]


def _answer(path, profile):
    """The metadata service's answer; empty if there is none."""
    if path == "/latest/api/token":
        return "token"
    if path == "/latest/meta-data/placement/region":
        return REGION
    if path.rstrip("/") == "/latest/meta-data/iam/security-credentials":
        return profile
    if profile and path == f"/latest/meta-data/iam/security-credentials/{profile}":
        keys = {"AccessKeyId": profile, "SecretAccessKey": "secret", "Token": "token"}
        return json.dumps({"Code": "Success", "Type": "AWS-HMAC", "Expiration": "2100-01-01T00:00:00Z", **keys})
    return ""


def _opened(rule, members):
    """Who may come in by a rule of a security group, each as an address or network, and the ports, None for all."""
    ports = (rule["FromPort"], rule["ToPort"]) if rule.get("FromPort", -1) >= 0 else None
    sources = {source["CidrIp"] for source in rule.get("IpRanges", [])}
    for pair in rule.get("UserIdGroupPairs", []):
        sources |= members[pair["GroupId"]]
    return {(source, ports) for source in sources}


def _served(address, port, application):
    """A server of the lab's network, in threads of this process."""
    server = make_server(address, port, application, threaded=True, request_handler=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
