"""What tests of tracking need of W&B: a service on this machine, and a reader of offline files."""

import gzip
import json
import struct
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from wandb.proto import wandb_internal_pb2

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(file):
    """The records of an offline file: LevelDB's log format behind seven bytes of W&B's own."""
    content = file.read_bytes()
    assert content[:4] == b":W&B"
    position, parts = 7, []
    while position + 7 <= len(content):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        parts.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(b"".join(parts))
            parts = []


class Offline:
    """A run as its offline file tells it."""

    def __init__(self, file):
        self.history, self.config, self.summary, self.files, self.exit_code = [], {}, {}, [], None
        for record in records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id, self.group = record.run.run_id, record.run.run_group
                self._lay(self.config, record.run.config.update)
            elif kind == "history":
                row = {}
                self._lay(row, record.history.item)
                self.history.append(row)
            elif kind == "summary":
                self._lay(self.summary, record.summary.update)
            elif kind == "files":
                self.files += [file.path for file in record.files.files]
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    @staticmethod
    def _lay(over, items):
        for item in items:
            over[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)

    @property
    def steps(self):
        return [row["_step"] for row in self.history]


class Service:
    """As much of W&B's service as a run needs; `silent` keeps every caller waiting."""

    def __init__(self, url):
        self.url, self.history, self.summary, self.files = url, {}, {}, []
        self.answering = threading.Event()
        self.answering.set()

    def steps(self, run):
        return [row["_step"] for row in self.history.get(run, [])]

    def graphql(self, operation, variables):
        """The data that answer a query."""
        project = {"id": "P", "name": "p", "entity": {"id": "E", "name": "e"}}
        if operation == "RunResumeStatus":
            rows = self.history.get(variables["name"])
            return {"model": {**project, "bucket": None if rows is None else self._bucket(variables["name"], rows)}}
        if operation == "UpsertBucket":
            rows = self.history.setdefault(variables["name"], [])
            return {
                "upsertBucket": {
                    "bucket": {**self._bucket(variables["name"], rows), "project": project},
                    "inserted": True,
                }
            }
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        return {}

    def _bucket(self, run, rows):
        return {
            "id": run,
            "name": run,
            "displayName": run,
            "config": "{}",
            "summaryMetrics": json.dumps(self.summary.get(run, {})),
            "historyLineCount": len(rows),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
            "eventsTail": "[]",
            "tags": [],
            "wandbConfig": '{"t": 1}',
        }

    def stream(self, run, files):
        """Take what a run sends as it goes; lines are laid from their offset on."""
        for name, chunk in files.items():
            lines = [json.loads(line) for line in chunk["content"]]
            if name == "wandb-history.jsonl":
                self.history[run][chunk["offset"] :] = lines
            elif name == "wandb-summary.json":
                self.summary[run] = lines[-1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        service = self.server.service
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        service.answering.wait()
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        answer = {}
        if self.path == "/graphql":
            query = json.loads(body)
            answer = {"data": service.graphql(query["operationName"], query["variables"])}
        elif self.path.endswith("file_stream"):
            content = json.loads(body)
            service.stream(self.path.split("/")[-2], content.get("files") or {})
        elif self.path.startswith("/upload/"):
            service.files.append(self.path.removeprefix("/upload/"))
        self._answer(json.dumps(answer).encode())

    do_GET = do_PUT = do_POST  # noqa: N815

    def _answer(self, content):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A caller that was killed, or lost patience, is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def running_service():
    """A service on a free port of this machine."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.service = Service(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.service
    finally:
        server.service.answering.set()
        server.shutdown()
        thread.join()
        server.server_close()
