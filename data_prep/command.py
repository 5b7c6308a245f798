"""What every command of the project shares: how it ends on bad input and on Ctrl-C."""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints end like any other bad input."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{message}; see --help")


def run_command(main: Callable[[], None]) -> None:
    """Run `main`, turning bad input into one line on stderr and exit status 2, Ctrl-C into 130, SIGTERM into 143.

    Bad input is a `ValueError` or an `OSError`; any other exception is our own mistake and keeps its traceback.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_fail("terminated", 143)))  # so that files are put away
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(_fail(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", 130))


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
