"""The page's section about whether generated records help a detector, once that was tried."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from data_prep import page
from search.pages.charts import Axis, Chart, legend
from search.pages.page import quiet, section
from search.pages.result import Result
from search.utility import ALONE, AUGMENTED, BOTH, GENERATED, KURTOSIS, MEASURES, REAL, UTILITY, cells

# What a method's line looks like: colours by what is learnt, dashed what is augmented or not learnt.
KINDS = {
    REAL: "s0 of-search",
    AUGMENTED: "s0 of-search dashed",
    GENERATED: "s1 of-search",
    BOTH: "s1 of-search dashed",
    ALONE: "s2 of-search",
    KURTOSIS: "s3 of-search dashed",
}

BROAD = 1060

Content = Mapping[str, Any]


def tried(result: Result) -> bool:
    """Whether `search/utility.py` was run on the result."""
    return (result.folder / UTILITY).is_file()


def utility_section(result: Result) -> str:
    """The table, the learning curves and what follows from them; nothing where it was not tried.

    Raises:
        ValueError: for a damaged file.
    """
    if not tried(result):
        return ""
    file = result.folder / UTILITY
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        parts = [f'<p class="lead">{escape(content["finding"])}</p>', _curves(content), _table(content), _how(content)]
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); write it again with search/utility.py") from error
    return section("utility", "Does it help?", *parts)


def _curves(content: Content) -> str:
    """Accuracy by the number of real records, and of a detector that has generated ones alone."""
    rows = content["rows"]
    chart = Chart(
        Axis.over([row["real_records"] for row in rows], log=True, label="real records"),
        Axis.over([100 * row["accuracy"]["mean"] for row in rows], label="accuracy, %"),
        BROAD,
        360,
    )
    for method, kind in KINDS.items():
        points = [(row["real_records"], 100 * row["accuracy"]["mean"]) for row in rows if row["method"] == method]
        if method == ALONE:
            chart.level(points[0][1], kind)
        else:
            chart.line([size for size, _ in points], [accuracy for _, accuracy in points], kind)
    remark = f"Dashed: augmented, or {KURTOSIS}, a threshold on that one feature."
    return chart.figure("Accuracy on held-out records", remark, legend({kind: name for name, kind in KINDS.items()}))


def _table(content: Content) -> str:
    body = [(row["real_records"], row["method"], *map(page.Number, cells(row))) for row in content["rows"]]
    return page.table(["real records", "learns from", *(f"{title}, %" for title in MEASURES.values())], body)


def _how(content: Content) -> str:
    """What was done, and what to keep in mind."""
    windows, (low_db, high_db), (low_hz, high_hz) = content["windows"], content["snr_db"], content["band_hz"]
    return quiet(
        f"Windows of {content['seconds']:g} s, {low_hz:g} to {high_hz:g} Hz. A detector (ConvNetQuake) learns for "
        f"{content['steps']} steps, whatever it learns from, and is tested on {windows['test']} records of the test "
        f"part, mixed with noise at {low_db:g} to {high_db:g} dB, and on {windows['held_noise']} windows of noise "
        f"({content['noise']}). Unmixed the task is no task: log-kurtosis alone has an area under the ROC curve of "
        f"{content['unmixed_log_kurtosis_auc']:.3f}. Intervals hold the mean over seeds with 95 % confidence, of these "
        f"test records. The generator has learnt from all {windows['train']} training records: with fewer real ones, "
        f"generated ones also bring what it knows of the others."
    )
