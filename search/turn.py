"""One machine at a time works on a search that is kept in a bucket, where no lock goes with a process that ends.

It leaves a mark there with its name, renews it, and takes it away at the end. A mark that nobody renews is of a machine
that is lost. No clock but the bucket's is asked. Two machines that begin in the same second may both write theirs: the
one whose mark is gone stops when it next looks.
"""

import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from types import TracebackType

from pyarrow.fs import FileType
from rich.console import Console

from search.storage import Place

MARK, CLOCK = ".running", ".clock"
# How often a mark is renewed, after how long without that its machine counts as lost, and how often it is looked at.
RENEWED_S, LOST_S, LOOK_S = 15.0, 60.0, 2.0
# How long giving it back may take after an error that may be the bucket's.
PATIENCE_S = 5.0


class Turn:
    """The right to work on a search, for as long as this is entered; a folder of this machine has locks instead.

    Raises:
        ValueError: if another machine works on it, when entered.
    """

    def __init__(self, kept: Place, console: Console):
        self._kept, self._console = kept, console
        self._mark = kept / MARK
        self._own = f"{platform.node()}, process {os.getpid()} ({uuid.uuid4().hex})".encode()
        self._over = threading.Event()
        self._taken_by = ""
        self._renewing = threading.Thread(target=self._renew, name="turn", daemon=True)

    def __enter__(self) -> "Turn":
        if self._kept.copy:
            self._wait_for_the_lost()
            self._mark.write(self._own)
            if (holder := self._holder()) != self._own:
                raise ValueError(self._refusal(holder))
            self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept.copy:
            return
        self._over.set()
        if not isinstance(error, OSError):
            self._give_back()
            return
        # It may be the bucket that does not answer, which the search has told already: that is not waited for.
        giving_back = threading.Thread(target=self._try_to_give_back, name="giving back", daemon=True)
        giving_back.start()
        giving_back.join(PATIENCE_S)

    def _give_back(self) -> None:
        self._renewing.join()
        if self._holder() == self._own:
            self._mark.filesystem.delete_file(self._mark.path)

    def _try_to_give_back(self) -> None:
        with suppress(OSError):  # the mark is then taken for a lost machine's
            self._give_back()

    def check(self) -> None:
        """Look whether it is still this machine's turn.

        Raises:
            ValueError: if another machine has gone on with the search.
        """
        if self._taken_by:
            raise ValueError(
                f"search {self._kept.here.name} goes on elsewhere since this machine did not reach {self._kept}: on "
                f"{self._taken_by}; nothing is left to do here"
            )

    def _wait_for_the_lost(self) -> None:
        """Wait until a mark of another machine has gone, or not been renewed for so long that its machine is lost."""
        holder, renewed_s = self._holder(), self._renewed_s()
        if not holder:
            return
        clock = self._kept / CLOCK
        clock.write(b"")
        end_s = time.monotonic() + LOST_S - (_written_s(clock) - renewed_s)
        clock.filesystem.delete_file(clock.path)
        with self._console.status(f"Waiting whether {_name(holder)} still works on {self._kept} ..."):
            while time.monotonic() < end_s and self._holder():
                if self._renewed_s() != renewed_s:
                    raise ValueError(self._refusal(holder))
                time.sleep(LOOK_S)

    def _renew(self) -> None:
        while not self._over.wait(RENEWED_S):
            try:
                holder = self._holder()
                if holder and holder != self._own:
                    self._taken_by = _name(holder)
                    return
                self._mark.write(self._own)
            except OSError:  # the search itself waits for the bucket, and tells if it stays away
                continue

    def _holder(self) -> bytes:
        """What is in the mark; nothing where there is none."""
        try:
            return self._mark.read()
        except FileNotFoundError:
            return b""

    def _renewed_s(self) -> float:
        return _written_s(self._mark)

    def _refusal(self, holder: bytes) -> str:
        return (
            f"search {self._kept.here.name} is running already, on {_name(holder)}; wait for it, or stop it first "
            f"({self._mark} is its mark)"
        )


def _name(holder: bytes) -> str:
    return holder.decode().partition(" (")[0]


def _written_s(file: Place) -> float:
    """When a file was last written, by the clock of where it is kept; 0 where there is none."""
    info = file.filesystem.get_file_info(file.path)
    return 0.0 if info.type == FileType.NotFound else info.mtime_ns / 1e9
