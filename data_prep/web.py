"""Whole answers from a web service that may fail: one retry loop for refusals, time-outs, cuts and error pages."""

import random
import re
import threading
import time
from collections.abc import Callable, Generator, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import requests

ATTEMPTS = 6
BACKOFF_S = 1.0  # before the second attempt, doubled for each further one
LONGEST_WAIT_S = 600.0  # a service that asks for more is not waited for
TIMEOUT_S = (20.0, 300.0)  # to connect, and between bytes: a service may first have to put the file together
GRACE_S = 0.5  # for threads to end
_CHUNK = 1 << 18
_HEAD = 4096  # bytes of an error page that are read to quote it
_Result = TypeVar("_Result")


class AnswerError(Exception):
    """No whole answer, and why; `wait_s` is what the service asks to wait, None where asking again is no use."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class NoDataError(AnswerError):
    """The service has nothing of the kind."""


class Client:
    """Asks one service, by several threads if need be; with a token by POST, as restricted data want it."""

    def __init__(self, token: bytes | None = None) -> None:
        self.stop = threading.Event()
        self.received = 0  # bytes
        self._token = token
        self._session = requests.Session()  # threads may share it: pool and cookie jar have their locks
        self._lock = threading.Lock()
        self._closed_until = 0.0  # on the clock of `now`

    def label(self, url: str) -> str:
        """The request as a ledger keeps it: method and address, never the token."""
        return f"{'POST' if self._token else 'GET'} {url}"

    def fetch(self, url: str, path: Path, wrong: Callable[[Path], str | None]) -> None:
        """Write the answer to `path`; `wrong` says what keeps a received file from being whole.

        Raises:
            NoDataError: the service has no such data.
            AnswerError: it refuses, asks for too long a wait, or failed `ATTEMPTS` times.
            OSError: `path` cannot be written.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._receive(url, path, wrong)
            except AnswerError as error:
                if error.wait_s is None:
                    raise
                if attempt == ATTEMPTS:
                    raise AnswerError(f"{error} ({ATTEMPTS} attempts)") from None
                self._hold_all(error.wait_s)
                # Jitter, lest threads that failed together ask together again.
                self.wait(BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1))

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until the client is stopped."""
        self.stop.wait(seconds)

    def now(self) -> float:
        """Seconds on the clock that waiting goes by."""
        return time.monotonic()

    def _hold_all(self, seconds: float) -> None:
        """A service that asks for patience means every thread."""
        if seconds > LONGEST_WAIT_S:
            raise AnswerError(f"the service asks to wait {seconds:.0f} s, more than {LONGEST_WAIT_S:.0f} s")
        with self._lock:
            self._closed_until = max(self._closed_until, self.now() + seconds)

    def _receive(self, url: str, path: Path, wrong: Callable[[Path], str | None]) -> None:
        while self._closed_until > self.now() and not self.stop.is_set():  # another thread may put it off meanwhile
            self.wait(self._closed_until - self.now())
        try:
            with self._ask(url) as response:
                self._check_status(response)
                self._store(response, path)
        except requests.RequestException as error:
            raise AnswerError(f"no whole answer ({_cause(error)})", 0) from None
        trouble = wrong(path)
        if trouble:
            raise AnswerError(trouble + self._quote(_head(path)), 0)

    def _ask(self, url: str) -> requests.Response:
        self._check_stop()
        if self._token is None:
            return self._session.get(url, stream=True, timeout=TIMEOUT_S)
        form = {"message": ("token.txt", self._token)}
        # No redirects: the token is for this address only.
        return self._session.post(url, files=form, stream=True, timeout=TIMEOUT_S, allow_redirects=False)

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        head = next(response.iter_content(_HEAD), b"")
        if status == 204 or (status == 404 and not _is_of_a_proxy(head)):
            raise NoDataError(f"no data (HTTP {status})")
        if status in (401, 403):
            raise AnswerError(f"restricted data (HTTP {status}): {self._advice()}")
        passing = status in (408, 429) or status >= 500
        raise AnswerError(f"HTTP {status}{self._quote(head)}", _retry_after_s(response) if passing else None)

    def _store(self, response: requests.Response, path: Path) -> None:
        """Chunk by chunk; a body shorter than its Content-Length ends in an error of the HTTP library."""
        with path.open("wb") as file:
            for chunk in response.iter_content(_CHUNK):
                self._check_stop()
                file.write(chunk)
                with self._lock:
                    self.received += len(chunk)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise AnswerError("stopped")

    def _advice(self) -> str:
        if self._token is None:
            return "give --token FILE"
        return "the token has expired or does not cover them; get another one from the service"

    def _quote(self, head: bytes) -> str:
        """Title or first words of an error page; nothing where a token went out, as the page may repeat it."""
        text = "" if b"\x00" in head else head.decode("utf-8", "replace")
        title = re.search(r"<title[^>]*>(.+?)</title>", text, re.DOTALL | re.IGNORECASE)
        words = " ".join((title[1] if title else re.sub(r"<[^>]*>", " ", text)).split())
        if words and self._token is not None:
            return " (a page not shown here, as it may repeat the token; the token may have expired)"
        return f": {''.join(filter(str.isprintable, words[:80]))}" if words else ""


def in_threads(
    work: Callable[[str], _Result], items: Sequence[str], count: int, stop: threading.Event
) -> Generator[tuple[str, _Result | Exception]]:
    """Each item with its result or exception, as they come from `count` threads.

    Not an executor: the end of the process waits for an executor's threads, and Ctrl-C is not to wait for a service
    that is silent. Ending early sets `stop`.
    """
    todo: SimpleQueue[str] = SimpleQueue()
    done: SimpleQueue[tuple[str, _Result | Exception]] = SimpleQueue()
    for item in items:
        todo.put(item)
    threads = [threading.Thread(target=_work, args=(work, todo, done, stop), daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        for _ in items:
            yield done.get()
    finally:
        stop.set()
        deadline = time.monotonic() + GRACE_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _work(
    work: Callable[[str], _Result],
    todo: "SimpleQueue[str]",
    done: "SimpleQueue[tuple[str, _Result | Exception]]",
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        try:
            item = todo.get_nowait()
        except Empty:
            return
        try:
            done.put((item, work(item)))
        except Exception as error:  # for the reader of the results to judge
            done.put((item, error))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_of_a_proxy(head: bytes) -> bool:
    """Whether an answer is a page that does not speak of data: what stands before a service that is away sends it."""
    return head.lstrip().startswith(b"<") and b"no data" not in head.lower()


def _retry_after_s(response: requests.Response) -> float:
    """Seconds that the service asks to wait (it may send a date), 0 where it asks for none."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _cause(error: requests.RequestException) -> str:
    """What went wrong at the bottom, by its name, such as NameResolutionError."""
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "cut short"
    inner = error.args[0] if error.args else error
    return type(getattr(inner, "reason", None) or inner).__name__
