"""A pretended S3 in a process of its own that counts what it is asked for, by kind of file."""

import multiprocessing
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

# What a request is about, by the first of these that is in its path.
KINDS = {
    "marks of folders": r"/$",
    "checkpoints": r"checkpoint_\d",
    "kept lines": "kept_trials",
    "report lines": r"trials\.jsonl",
    "trials.csv": r"trials\.csv",
    "optuna.journal": "optuna",
    "Tune's state": "experiment_state|search_gen|searcher|callback",
    "Tune's files of a trial": r"result\.json|params\.|progress\.csv|error",
}
# Length of what is sent in signed pieces.
DECODED = "HTTP_X_AMZ_DECODED_CONTENT_LENGTH"


class Counting:
    """A web application that counts requests and the bytes sent with them."""

    def __init__(self, application: Callable[..., Iterable[bytes]]):
        self._application, self._lock = application, threading.Lock()
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __call__(self, environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        asked = environment["PATH_INFO"] + environment.get("QUERY_STRING", "")
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, asked)), "other")
        with self._lock:
            self.requests[f"{kind} {environment['REQUEST_METHOD']}"] += 1
            self.bytes[kind] += int(environment.get(DECODED) or environment.get("CONTENT_LENGTH") or 0)
        return self._application(environment, start_response)


class Quiet(WSGIRequestHandler):
    """Keeps the connection open, as S3 does, and writes no log."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write nothing."""


def serve(link: Connection) -> None:
    """Answer on some port, told over the link, which is then asked for what was counted."""
    application = Counting(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    link.send(server.port)
    while link.recv():
        link.send((dict(application.requests), dict(application.bytes)))


@contextmanager
def counting_s3(bucket: str) -> Iterator[Callable[[], tuple[dict[str, int], dict[str, int]]]]:
    """A bucket that this process and its children find by the environment; gives what asks for the counts so far."""
    import boto3

    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true"}
    where = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(keys | where)
    boto3.client("s3").create_bucket(Bucket=bucket)

    def counts() -> tuple[dict[str, int], dict[str, int]]:
        ours.send(True)
        requests, sent = ours.recv()
        return requests, sent

    try:
        yield counts
    finally:
        process.kill()
        process.join()
