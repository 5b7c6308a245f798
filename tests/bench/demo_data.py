"""The demo's dataset, for benchmarks that are given none."""

from pathlib import Path

from data_prep.demo import write_demo_archive
from data_prep.prepare import prepare
from search.session import DEMO_SETTINGS


def make_demo_data(folder: Path, **archive: int) -> Path:
    """Write the demo's archive, or one of other `n_events` and `seed`, and prepare it; returns the dataset's folder."""
    written = write_demo_archive(folder / "archive", **archive)
    prepare(written.files, written.flatfile, folder / "data", DEMO_SETTINGS, progress=False)
    return folder / "data"
