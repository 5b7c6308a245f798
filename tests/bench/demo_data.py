"""The demo's dataset, for benchmarks that are given none."""

from pathlib import Path

from data_prep.demo import write_demo_archive
from data_prep.prepare import prepare
from search.session import DEMO_SETTINGS


def make_demo_data(folder: Path) -> Path:
    """Write the demo's archive and prepare it, both in a folder; returns the dataset's."""
    archive = write_demo_archive(folder / "archive")
    prepare(archive.files, archive.flatfile, folder / "data", DEMO_SETTINGS, progress=False)
    return folder / "data"
