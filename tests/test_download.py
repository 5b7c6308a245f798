"""Downloads over real HTTP from a small service on this machine that fails in every way a real one does."""

import errno
import hashlib
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import h5py
import numpy as np
import pytest
import requests

from data_prep import web
from data_prep.archive import find_archives
from data_prep.download import download, main
from data_prep.ledger import own_folder
from data_prep.query import DownloadSettings

EVENTS = [f"EMSC-2016{month:02d}30_{month:07d}" for month in range(1, 9)]
PLACE = {
    "longitude": 13.1, "latitude": 42.8, "depth": 8.0, "magnitude": 5.0, "ml": "", "nation": "IT",
    "network": "IT", "station": "AAA", "distance": 9, "channel": "HNE",
}  # fmt: skip
COLUMNS = {  # ours -> ITACA's, ESM's
    "event": ("EVENT_ID", "event_id"),
    "longitude": ("EVENT_LONGITUDE_DEGREE", "ev_longitude"),
    "latitude": ("EVENT_LATITUDE_DEGREE", "ev_latitude"),
    "depth": ("EVENT_DEPTH_KM", "ev_depth_km"),
    "magnitude": ("Mw", "Mw"),
    "ml": ("Ml", "ML"),
    "network": ("NETWORK", "network_code"),
    "station": ("STATION_CODE", "station_code"),
    "distance": ("epi_dist_km", "epi_dist"),
    "channel": ("component", "instrument_code"),
    "nation": ("nation", "ev_nation_code"),
}
TOKEN = b"-----BEGIN PGP SIGNED MESSAGE-----\nsecretsecretsecret\n"


@cache
def archive(seed, group="Waveforms"):
    """A small event file as the service writes it."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for axis in "ENZ":
            samples = np.random.default_rng([seed, ord(axis)]).standard_normal(500)
            data = file.create_dataset(
                f"{group}/IT.AAA/IT.AAA..HN{axis}__a__b__hn{axis.lower()}_x_acc_mp", data=samples
            )
            data.attrs["sampling_rate"] = 200.0
        file["QuakeML"] = np.frombuffer(b"<quakeml/>" + b" " * 50, np.uint8)
    return buffer.getvalue()


def chosen(row, query):
    """Does the service's own selection (country, time, box) take this row?"""
    day = re.search(r"-(\d{4})(\d\d)(\d\d)_", row["event"])
    time = "{}-{}-{}T06:40:18".format(*day.groups()) if day else "2016-01-01T06:40:18"
    return (
        query.get("event-country", row["nation"]) == row["nation"]
        and query.get("starttime", time) <= time <= query.get("endtime", time)
        and float(query.get("min-event-longitude", -180)) <= row["longitude"]
        and row["longitude"] <= float(query.get("max-event-longitude", 180))
        and float(query.get("min-event-latitude", -90)) <= row["latitude"]
        and row["latitude"] <= float(query.get("max-event-latitude", 90))
    )


class Service(ThreadingHTTPServer):
    """Holds a flatfile and events; `faults` decides by number and query of a request whether it goes wrong."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows = [{"event": event} for event in EVENTS]
        self.files = {event: archive(seed) for seed, event in enumerate(EVENTS)}
        self.spelling = 0
        self.faults = lambda number, query: None
        self.asked = []  # (method, folder, query, body)
        self.lock, self.release = threading.Lock(), threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def events_asked(self):
        return sorted(query["eventid"] for _, what, query, _ in self.asked if "eventdata" in what)

    def table(self, query):
        head = ";".join(names[self.spelling] for names in COLUMNS.values())
        full = [PLACE | row for row in self.rows if chosen(PLACE | row, query)]
        return "\n".join([head, *(";".join(str(row[name]) for name in COLUMNS) for row in full), ""]).encode()

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def log_message(self, *arguments):
        pass

    def answer(self):
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.asked.append((self.command, address.path, query, body))
            fault = self.server.faults(len(self.server.asked), query)
        whole = self.server.table(query) if "flatfile" in address.path else self.server.files.get(query["eventid"])
        if fault is not None:
            fault(self, whole)
        elif whole is None:
            send(404, b"Error 404: no data")(self, whole)
        else:
            send(200, whole)(self, whole)


def send(status, body, **headers):
    def answer(handler, whole):
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def cut(handler, whole):
    """Promise all, send half, hang up."""
    send(200, whole[: len(whole) // 2], Content_Length=str(len(whole)))(handler, whole)
    handler.close_connection = True


def truncate(handler, whole):
    """Half a file that HTTP cannot tell from a whole one."""
    send(200, whole[: len(whole) // 2])(handler, whole)


def unmeasured(handler, whole):
    """Half a file of unsaid length, ended by hanging up."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + whole[: len(whole) // 2])
    handler.close_connection = True


def hang_up(handler, whole):
    handler.close_connection = True


def silent(handler, whole):
    handler.server.release.wait(20)
    handler.close_connection = True


def stall(handler, whole):
    """Send half, then nothing until released."""
    send(200, whole[: len(whole) // 2], Content_Length=str(len(whole)))(handler, whole)
    handler.wfile.flush()
    silent(handler, whole)


PAGE = send(200, b"<html><head><title>Database\nmaintenance</title></head><body>Sorry</body></html>")


def each(faults, times=1):
    """The first `times` requests for an event go wrong its own way; `faults` are pairs of both."""
    kinds = dict(faults)
    left = dict.fromkeys(kinds, times)

    def fault(number, query):
        event = query.get("eventid")
        if not left.get(event):
            return None
        left[event] -= 1
        return kinds[event]

    return fault


def only(event, fault, times=1):
    return each([(event, fault)], times)


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Service()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Nothing waits in these tests: the seconds are noted, and the client's clock goes on by them."""
    noted = []
    monkeypatch.setattr(web.Client, "wait", lambda client, seconds: noted.append(seconds))
    monkeypatch.setattr(web.Client, "now", lambda client: sum(noted))
    return noted


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def fetch(service, out):
    def call(token=None, **settings):
        return download(DownloadSettings(url=service.url, **settings), out, token, progress=False)

    return call


@pytest.fixture
def run_main(run_here, service, out):
    return partial(run_here, main, "--url", service.url, "--out", out)


def assert_whole(out, service, events=EVENTS):
    """The folder holds what the service holds, to the byte, what the ledger says, and nothing else."""
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["download.json", "flatfile.csv", *(f"{event}.h5" for event in events)]
    )
    ledger = ledger_of(out)
    for event in events:
        content = (out / f"{event}.h5").read_bytes()
        assert content == service.files[event]
        entry = ledger["events"][event]
        assert (entry["file"], entry["bytes"]) == (f"{event}.h5", len(content))
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()


def ledger_of(out):
    return json.loads((out / "download.json").read_text())


def until(condition):
    """Watch another process; it is killed soon after, so there is nothing to wait for but the clock."""
    for _ in range(12000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("nothing came of it in two minutes")


def start(service, out):
    """The command as a process of its own that hardly waits between attempts."""
    code = (
        "import sys; from data_prep import download, web; from data_prep.command import run_command; "
        "web.BACKOFF_S = 0.001; run_command(download.main)"
    )
    arguments = ["--url", service.url, "--out", str(out)]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_flatfile_and_events_come_whole_by_the_documented_queries(service, out, fetch):
    summary = fetch()
    assert_whole(out, service)
    assert (out / "flatfile.csv").read_bytes() == service.table({})
    assert [path.name for path in find_archives([out])] == sorted(f"{event}.h5" for event in EVENTS)
    assert summary.outcome == {"downloaded": 8}
    method, path, query, _ = service.asked[0]
    assert (method, path, query) == (
        "GET",
        "/itaca40ws/flatfile/1/query",
        {"output-format": "csv", "event-country": "IT"},
    )
    assert service.events_asked() == EVENTS
    method, path, query, _ = next(asked for asked in service.asked if asked[2].get("eventid") == EVENTS[0])
    assert (method, path) == ("GET", "/itaca40ws/eventdata/1/query")
    assert query == {
        "eventid": EVENTS[0],
        "format": "hdf5",
        "data-type": "ACC",
        "processing-type": "MP,AP,CV",
        "add-xml": "True",
        "add-auxiliary-data": "True",
    }


def test_esm_speaks_the_same_under_other_names(service, out, fetch):
    service.spelling = 1
    fetch(service="esm", processing="MP")
    assert_whole(out, service)
    assert {path for _, path, _, _ in service.asked} == {"/esmws/flatfile/1/query", "/esmws/eventdata/1/query"}
    assert service.asked[1][2]["processing-type"] == "MP"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 5]),
        ({"magnitude": "Mw"}, [0]),
        ({"min_magnitude": 0.0}, [0, 1, 2, 5, 7]),
        ({"min_magnitude": 3.9}, [0, 1, 5]),
        ({"max_depth_km": 50.1}, [0, 3, 5]),
        ({"max_depth_km": 800.0}, [0, 3, 4, 5]),
        ({"country": "any"}, [0, 5, 6]),
        ({"country": "GR"}, [6]),
        ({"start": "2016-06-30"}, [5]),
        ({"end": "2016-06-30T06:00:00"}, [0]),
        ({"start": "2016-01-30T06:40:18", "end": "2016-01-30"}, [0]),
        ({"box": (12.0, 42.0, 13.1, 43.0)}, [0]),
    ],
)
def test_what_is_selected(service, out, fetch, settings, expected):
    changes = [
        {},
        {"magnitude": 4.0},
        {"magnitude": 2.0},
        {"depth": 50.0},
        {"depth": ""},
        {"magnitude": "", "ml": 4.5, "longitude": 16.0},
        {"nation": "GR", "longitude": 22.0},
    ]
    service.rows = [{"event": event} | change for event, change in zip(EVENTS, changes, strict=False)]
    service.rows.append({"event": EVENTS[7], "magnitude": "", "ml": ""})
    fetch(**settings)
    assert_whole(out, service, [EVENTS[number] for number in expected])


def test_a_failing_service_and_a_kill_half_way_still_give_the_whole_set(service, out):
    kinds = [
        send(500, b"oops"),
        cut,
        truncate,
        unmeasured,
        hang_up,
        PAGE,
        send(429, b"", Retry_After="0"),
        send(503, b""),
    ]
    half_way = threading.Event()

    def faults(number, query):
        if number == 8:
            half_way.set()
        if number >= 8 and not service.release.is_set():
            return stall
        return kinds[number // 3 % len(kinds)] if number % 3 == 0 else None

    service.faults = faults
    process = start(service, out)
    assert half_way.wait(120), process.communicate(timeout=5)
    until(lambda: ledger_of(out)["events"] and list(out.glob(".*.partial.h5")))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = ledger_of(out)["events"]
    assert 0 < len(kept) < len(EVENTS)
    assert list(out.glob(".*.partial.h5"))
    service.release.set()
    service.asked.clear()
    process = start(service, out)
    printed, complained = process.communicate(timeout=120)
    assert process.returncode == 0, complained
    assert f"{len(EVENTS) - len(kept)} downloaded, {len(kept)} there already".encode() in printed
    assert not set(service.events_asked()) & set(kept)
    assert_whole(out, service)


def test_what_may_pass_is_tried_again_ever_more_patiently(service, out, fetch, waits):
    kinds = [send(500, b""), send(503, b""), send(408, b""), cut, truncate, unmeasured, hang_up, PAGE]
    service.faults = each(zip(EVENTS, kinds, strict=False), times=5)
    assert fetch().failed == {}
    assert_whole(out, service)
    for n in range(5):
        assert sum(2**n / 2 < wait < 2**n for wait in waits) == len(kinds)


def test_a_silent_service_is_asked_again(service, out, fetch, monkeypatch):
    monkeypatch.setattr(web, "TIMEOUT_S", (5, 0.2))
    service.faults = only(EVENTS[3], stall)
    assert fetch().failed == {}
    assert_whole(out, service)


def test_events_that_fail_are_told_and_do_not_stop_the_others(service, out, run_main):
    kinds = {
        "HTTP 500: Internal error (6 attempts)": send(500, b"<h1>Internal  error</h1>"),
        "no whole HDF5 file: Database maintenance (6 attempts)": PAGE,
        "no whole HDF5 file (6 attempts)": truncate,
        "HDF5 without the group Waveforms (6 attempts)": send(200, archive(0, "Spectra")),
        "no whole answer (cut short) (6 attempts)": cut,
        'HTTP 400: {"error": "bad [31mid"}': send(400, b'{"error": "bad \x1b[31mid"}'),
        "restricted data (HTTP 403): give --token FILE": send(403, b""),
    }
    service.faults = each(zip(EVENTS, kinds.values(), strict=False), times=99)
    status, printed, complained = run_main()
    assert status == 2
    assert [line.strip() for line in printed.splitlines()[1:8]] == [
        f"{event}: {reason}" for event, reason in zip(EVENTS, kinds, strict=False)
    ]
    assert complained.splitlines()[-1] == (
        "error: 7 of 8 events could not be downloaded; give the same command again, it repeats only these"
    )
    assert "next:" not in printed
    assert_whole(out, service, EVENTS[7:])
    service.faults = each([])
    service.asked.clear()
    assert run_main()[0] == 0
    assert service.events_asked() == EVENTS[:7]
    assert_whole(out, service)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("asks", "least_s"), [(lambda: "7", 6), (lambda: formatdate(time.time() + 500, usegmt=True), 400)]
)
def test_retry_after_holds_every_request(service, out, fetch, waits, monkeypatch, status, asks, least_s):
    times, get = [], requests.Session.get
    monkeypatch.setattr(requests.Session, "get", lambda *args, **more: times.append(sum(waits)) or get(*args, **more))
    service.faults = only(EVENTS[0], send(status, b"", Retry_After=asks()))
    assert fetch().failed == {}
    assert_whole(out, service)
    assert sum(0 < time < least_s for time in times) <= 3  # what the other threads had already begun
    assert sum(time > least_s for time in times) >= 4
    assert max(waits) < 1.25 * least_s + 1


def test_a_service_that_asks_for_a_day_is_not_waited_for(service, fetch, waits):
    service.faults = only(EVENTS[0], send(429, b"", Retry_After="86400"), times=99)
    failed = fetch().failed
    assert failed == {EVENTS[0]: "the service asks to wait 86400 s, more than 600 s"}
    assert waits == []


def test_four_requests_at_once_and_never_five(service, out, fetch):
    together, flying, most = threading.Barrier(4, timeout=60), [], []

    def fault(handler, whole):
        flying.append(1)
        most.append(len(flying))
        together.wait()
        flying.pop()
        together.wait()
        send(200, whole)(handler, whole)

    service.faults = lambda number, query: fault if "eventid" in query else None
    fetch()
    assert_whole(out, service)
    assert max(most) == 4


@pytest.mark.parametrize(
    ("status", "body"), [(204, b""), (404, b""), (404, b"Error 404: no data"), (404, b"<html>No data found</html>")]
)
def test_an_event_without_data_is_noted_and_not_asked_for_again(service, out, fetch, status, body):
    service.faults = only(EVENTS[3], send(status, body), times=99)
    for _ in range(2):
        assert fetch().outcome["without data"] == 1
    assert service.events_asked() == EVENTS
    assert not (out / f"{EVENTS[3]}.h5").exists()
    assert ledger_of(out)["events"][EVENTS[3]]["no data"] == f"no data (HTTP {status})"


def test_a_page_of_what_stands_before_a_service_that_is_away_says_nothing_of_an_event(service, out, fetch):
    page = b"<html><head><title>404 Not Found</title></head><body>nginx</body></html>"
    service.faults = only(EVENTS[3], send(404, page), times=1)
    assert fetch().failed == {EVENTS[3]: "HTTP 404: 404 Not Found"}
    assert EVENTS[3] not in ledger_of(out)["events"]
    assert not fetch().failed
    assert_whole(out, service)


@pytest.mark.parametrize("status", [401, 403])
def test_restricted_data_are_not_asked_for_twice(service, fetch, status):
    service.faults = only(EVENTS[3], send(status, b""), times=99)
    assert fetch().failed == {EVENTS[3]: f"restricted data (HTTP {status}): give --token FILE"}
    assert service.events_asked() == EVENTS
    assert "has expired or does not cover them" in fetch(token=TOKEN).failed[EVENTS[3]]


@pytest.mark.parametrize("status", [200, 400, 500])
def test_the_token_goes_out_by_post_and_nowhere_else(service, out, tmp_path, run_main, status):
    (tmp_path / "token.txt").write_bytes(TOKEN)
    service.faults = only(EVENTS[3], send(status, b"<title>no: " + TOKEN + b"</title>"), times=99)
    result, printed, complained = run_main("--token", tmp_path / "token.txt")
    assert result == 2
    assert "the token may have expired" in printed
    assert [asked[0] for asked in service.asked][:2] == ["GET", "POST"]
    for method, _, _, body in service.asked[1:]:
        assert method == "POST"
        assert re.search(rb'Content-Disposition: form-data; name="message"; filename=.*\r\n\r\n' + TOKEN, body)
    kept = printed + complained + "".join(path.read_text("latin-1") for path in out.iterdir())
    assert "secret" not in kept
    assert_whole(out, service, [event for event in EVENTS if event != EVENTS[3]])


def test_the_token_follows_no_redirect(service, fetch):
    service.faults = only(EVENTS[3], send(307, b"", Location=f"{service.url}/elsewhere?eventid=x"))
    assert fetch(token=TOKEN).failed == {EVENTS[3]: "HTTP 307"}
    assert "x" not in service.events_asked()


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def spoil_entry(path):
    ledger = ledger_of(path.parent)
    ledger["events"][path.stem] = {"file": 3}
    (path.parent / "download.json").write_text(json.dumps(ledger))


@pytest.mark.parametrize(
    "spoil", [flip, spoil_entry, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:99])]
)
def test_a_restart_repeats_what_is_not_whole_and_only_that(service, out, fetch, spoil):
    fetch()
    service.asked.clear()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert fetch().outcome == {"there already": 8}
    assert service.asked == []
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.h5")} == before
    spoil(out / f"{EVENTS[5]}.h5")
    (out / f".{EVENTS[5]}.h5.0123abcd.partial.h5").write_bytes(b"half")
    assert fetch().outcome == {"downloaded": 1, "there already": 7}
    assert service.events_asked() == [EVENTS[5]]
    assert_whole(out, service)


@pytest.mark.parametrize("content", ["{", "[]", '{"events": 3, "flatfile": null}', "\x00"])
def test_without_a_readable_ledger_nothing_is_taken_on_trust(service, out, run_main, content):
    run_main()
    service.asked.clear()
    (out / "download.json").write_text(content)
    status, _, complained = run_main()
    assert status == 0
    assert "download.json is damaged: every file is asked for again" in complained
    assert service.events_asked() == EVENTS
    assert_whole(out, service)


def test_other_settings_bring_what_is_new_and_keep_the_rest(service, out, fetch):
    service.rows[0] |= {"magnitude": 3.5}
    fetch()
    service.asked.clear()
    summary = fetch(min_magnitude=3.0)
    assert summary.outcome == {"downloaded": 1, "there already": 7}
    assert service.events_asked() == EVENTS[:1]
    assert str(summary).endswith(f"--flatfile {out}/flatfile.csv --out data/prepared --min-magnitude 3.0")
    assert "8 event files" in str(fetch(start="2016-03-01"))
    assert "2 of them not of this selection" in str(fetch(start="2016-03-01"))
    service.asked.clear()
    assert fetch(min_magnitude=3.0, processing="MP").outcome == {"downloaded": 8}
    assert_whole(out, service)


def test_an_id_is_a_safe_name_and_never_a_pattern(service, out, fetch):
    odd = ["../é /x", "IT-2016-*", "a?", "a,b"]
    service.rows = [{"event": event} for event in odd]
    service.files[odd[0]] = archive(1)
    summary = fetch()
    assert set(summary.failed) == set(odd[1:])
    assert service.events_asked() == [odd[0]]
    assert [path.name for path in out.glob("*.h5")] == ["..%2F%C3%A9%20%2Fx.h5"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (PAGE, "flatfile: no table: Database maintenance (6 attempts); widen the selection, check http"),
        (send(200, b"a;b;c\n1;2;3\n"), 'no column "EVENT_ID'),
        (send(200, b"a;b;c\n1;2;3\n4;5"), "flatfile: a table cut short"),
        (send(200, b""), "flatfile: no table (6 attempts)"),
        (send(204, b""), "flatfile: no data (HTTP 204); widen the selection"),
        (send(500, b""), "flatfile: HTTP 500 (6 attempts)"),
        (cut, "flatfile: no whole answer"),
    ],
)
def test_without_a_flatfile_there_is_one_line_and_nothing_else(service, out, run_main, answer, message):
    service.faults = lambda number, query: answer
    status, printed, complained = run_main()
    assert (status, printed) == (2, "")
    assert message in complained
    assert complained.count("\n") == 1
    assert str(out) not in complained
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--service", "usgs"], "service 'usgs': expected itaca or esm"),
        (["--url", "itaca.mi.ingv.it"], "url 'itaca.mi.ingv.it': expected an address such as https://"),
        (["--url", "http://127.0.0.1:1"], "flatfile: no whole answer (NewConnectionError) (6 attempts)"),
        (["--country", "Italy"], "expected two capital letters"),
        (["--start", "1.1.2016"], "date '1.1.2016': expected YYYY-MM-DD or"),
        (["--end", "2016-02-30"], "date '2016-02-30': expected"),
        (["--start", "2017-01-01", "--end", "2016-12-31"], "start 2017-01-01 is after end 2016-12-31"),
        (["--box", "19", "35", "6", "47"], "box 19 35 6 47: expected WEST SOUTH EAST NORTH"),
        (["--box", "-10", "35", "19", "97"], "box -10 35 19 97: expected"),
        (["--box", "nan", "35", "19", "47"], "box nan 35 19 47: expected"),
        (["--box", "1", "2"], "expected 4 arguments"),
        (["--min-magnitude", "inf"], "a finite number expected"),
        (["--min-magnitude", "9"], "none of 8 records is selected (magnitude 8); widen the selection"),
        (["--start", "2020-01-01"], "flatfile: a table without rows; widen the selection"),
        (["--magnitude", "Mb"], "invalid choice"),
        (["--processing", "XX"], "processing 'XX': expected MP, AP, CV"),
        (["--token", "/nowhere/token.txt"], "token /nowhere/token.txt: cannot be read"),
        (["--token", "/dev/null"], "token /dev/null: is empty"),
        (["--out", "/dev/null/x"], "out /dev/null/x: cannot be created"),
        (["--out", "/dev/null"], "out /dev/null: cannot be created"),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(out, run_main, arguments, message):
    status, printed, complained = run_main(*arguments)
    assert (status, printed) == (2, "")
    assert complained.startswith("error: ")
    assert message in complained
    assert complained.count("\n") == 1
    assert not out.exists()


def test_a_full_disk_is_told_in_one_line_and_leaves_no_half_file(service, out, run_main, monkeypatch):
    def store(client, response, path):
        path.write_bytes(b"half")
        if path.name.startswith(f".{EVENTS[7]}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(response.content)

    monkeypatch.setattr(web.Client, "_store", store)
    status, _, complained = run_main()
    assert status == 2
    told = f"error: out {out}: No space left on device; mend that and give the same command again"
    assert complained.splitlines()[-1] == told
    assert not list(out.glob(".*"))


def test_ctrl_c_stops_at_once_though_the_service_is_silent(service, out):
    all_silent = threading.Barrier(5, timeout=120)

    def fault(handler, whole):
        all_silent.wait()
        stall(handler, whole)

    service.faults = lambda number, query: fault if number > 4 else None
    process = start(service, out)
    all_silent.wait()
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=60)  # waiting for the service would take five minutes
    assert process.returncode == 130
    told = [f"what is whole stays in {out}; the same command goes on from there", "error: interrupted"]
    assert complained.decode().splitlines()[-2:] == told
    assert not list(out.glob(".*"))
    assert len(list(out.glob("*.h5"))) == 3


def test_one_download_at_a_time_in_a_folder(out, run_main):
    with own_folder(out):
        half = out / ".a.h5.0123abcd.partial.h5"
        half.write_bytes(b"of the other download")
        status, _, complained = run_main()
        assert half.exists()
    assert status == 2
    assert "another download is writing there" in complained


def test_the_command_shows_progress_a_summary_and_the_next_step(out, run_main):
    status, printed, complained = run_main("--country", "any")
    assert status == 0
    assert re.search(r"downloading .* 8/8 +[\d.]+ kB, [\d.]+ [kM]B/s +0:00:00", complained)
    assert re.search(r"8 events: 8 downloaded, 0 there already, 0 without data, 0 failed; [\d.]+ kB received", printed)
    command = f"next: python data_prep/prepare.py {out} --flatfile {out}/flatfile.csv --out data/prepared --country any"
    assert printed.splitlines()[-1] == command
