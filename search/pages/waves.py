"""The page's section that sets generated beside real waveforms: examples, and what is common to all of either kind.

Shapes: N window, C component (E, N, Z), T sample, D feature.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep import page
from data_prep.files import sha256
from search.export.load import REMEDY
from search.pages.charts import WIDTH, Axis, Chart, Values, drawing, legend
from search.pages.page import grid, quiet, section
from search.pages.result import Result
from search.plan import GENERATED
from search.trials import score_text
from trainables import metrics
from trainables.batches import LABELS, PreparedDataset
from trainables.fidelity import SCORED

EXAMPLES = 4
# Real windows that bands are drawn from, at most: more would look the same.
MOST_REAL = 256
# Columns of an example's picture; each shows the smallest and the largest sample there.
COLUMNS = 420
TRACE_PX = 46
# Where in it the traces begin and end.
LEFT_PX, RIGHT_PX = 24, WIDTH - 16
SHARES = (0.16, 0.5, 0.84)
KINDS = legend({"real": "real", "generated": "generated"})
NAMES = {
    "log_psd": "power spectrum",
    "envelope": "envelope",
    "band_envelope": "envelopes in octaves",
    "duration": "durations",
    "embedding": "embedding",
    "coupling": "coupling of components",
    "conditions": "heeding of conditions",
    "crest": "crest and moments",
    "response_spectrum": "response spectra",
}

# Of what is looked at closer: where it stands in the metrics, and what it is.
LOOKS = {
    "told from real": ("finalist/classifier_auc", "area under the ROC curve of a small network; 0.5 is guessing"),
    "closer to training": ("finalist/memorisation_closer", "than real records are, share of pairs; 0.5 is chance"),
    "variety": ("gate/diversity", "distance to the nearest of its kind, over that among real records"),
    "coverage": ("gate/coverage", "of real records by generated ones nearby, over that by other real records"),
    "envelopes": ("finalist/soft_dtw", "soft-DTW to the nearest real one, over that among real records"),
}


def waves_section(result: Result) -> str:
    """Generated beside real, or why there is nothing to set beside each other yet."""
    title, file = "Generated beside real", result.folder / GENERATED
    if not (result.best and file.is_file()):
        return section("waves", title, quiet("Waveforms are generated at the end, from the exported generator."))
    generated = metrics.z_score(_loaded(file))
    if not _has_data(result):
        return section("waves", title, quiet(f"The dataset that it ran on is no longer at {result.data_name}."))
    dataset = PreparedDataset.open(result.data)
    kinds = {"real": _real(result, dataset), "generated": generated}
    return section(
        "waves",
        title,
        f"<p>{len(generated)} generated windows beside {len(kinds['real'])} of the validation part, all normalised. "
        "Bands hold the middle 68 % of all components' values, lines are medians.</p>",
        _examples(kinds, result.config.model.components, dataset.fs_hz),
        grid(*_features(kinds, dataset), _distances(result), columns=2),
        _closer_look(result.best["test"]),
    )


def _loaded(file: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(file))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is damaged ({error}); {REMEDY}") from error


def _has_data(result: Result) -> bool:
    """Whether the dataset is still there, and the same."""
    manifest = result.data / "manifest.json"
    return manifest.is_file() and sha256(manifest) == result.fingerprint


def _real(result: Result, dataset: PreparedDataset) -> Tensor:
    """Earthquakes of the validation part, evenly chosen where there are many."""
    part = dataset.part("val", result.config.model)
    places = torch.nonzero(part.label[:, 0] == LABELS["earthquake"])[:, 0]
    return part.wave[places[:: -(-len(places) // MOST_REAL)]]


def _examples(kinds: dict[str, Tensor], components: str, fs_hz: float) -> str:
    chosen = {kind: wave[torch.linspace(0, len(wave) - 1, EXAMPLES).long()].numpy() for kind, wave in kinds.items()}
    peak = max(float(np.abs(wave).max()) for wave in chosen.values())
    columns = [
        f"<div><h3>{kind.capitalize()}</h3>"
        + "".join(_record(wave, kind, components, peak, fs_hz) for wave in waves)
        + f"{_seconds(waves.shape[-1] / fs_hz)}</div>"
        for kind, waves in chosen.items()
    ]
    return f'<div class="grid of2 records">{"".join(columns)}</div>'


def _record(wave_CT: np.ndarray, kind: str, components: str, peak: float, fs_hz: float) -> str:
    """The components one above the other, all records to one scale."""
    height = TRACE_PX * len(components)
    content = []
    for place, (name, signal) in enumerate(zip(components, wave_CT, strict=True)):
        middle = TRACE_PX * (place + 0.5)
        points = _outline(signal) * (TRACE_PX / 2 / peak)
        x = np.repeat(np.arange(len(points)) * (RIGHT_PX - LEFT_PX) / len(points) + LEFT_PX, 2)
        pairs = " ".join(f"{a:.0f},{middle - b:.1f}" for a, b in zip(x, points.ravel(), strict=True))
        content.append(
            f'<text class="note" x="4" y="{middle + 4}">{name}</text><polyline class="{kind}" points="{pairs}"/>'
        )
    title = f"A {kind} record of {wave_CT.shape[-1] / fs_hz:g} s"
    return drawing("".join(content), WIDTH, height, title)


def _seconds(length_s: float) -> str:
    """The axis of time below the records."""
    axis = Axis(0, length_s)
    ticks = [(LEFT_PX + float(axis.share(value)) * (RIGHT_PX - LEFT_PX), text) for value, text in axis.ticks()]
    content = "".join(f'<text class="tick x" x="{x:.0f}" y="10">{text}</text>' for x, text in ticks)
    return drawing(
        f'{content}<text class="label x" x="{(LEFT_PX + RIGHT_PX) / 2}" y="28">time (s)</text>', WIDTH, 34, "Time"
    )


def _outline(signal: np.ndarray) -> np.ndarray:
    """Smallest and largest sample of each column of a picture, (columns, 2)."""
    pieces = np.array_split(signal, min(COLUMNS, len(signal)))
    return np.array([(piece.min(), piece.max()) for piece in pieces])


def _features(kinds: dict[str, Tensor], dataset: PreparedDataset) -> list[str]:
    fs_hz, (low_hz, high_hz), samples = dataset.fs_hz, dataset.usable_band_hz, dataset.samples
    frequency = np.geomspace(max(low_hz, fs_hz / samples), high_hz, metrics.BANDS)
    envelopes = metrics.log_envelope(kinds["real"][:1], fs_hz).shape[-1]
    time = (np.arange(envelopes) + 1) * samples / fs_hz / (envelopes + 1)
    periods = np.array(metrics.periods_s(samples, fs_hz, low_hz))

    def response(wave: Tensor) -> Tensor:
        return metrics.response_spectra(wave, fs_hz, low_hz).view(len(wave), len(periods), -1).transpose(1, 2)

    return [
        _bands(
            kinds,
            lambda wave: metrics.log_envelope(wave, fs_hz),
            time,
            Axis(0, samples / fs_hz, label="time (s)"),
            ("Envelopes", "RMS amplitude", "Root mean square over half a second; 1 is the window's own."),
        ),
        _bands(
            kinds,
            lambda wave: metrics.log_psd(wave, fs_hz, low_hz, high_hz),
            frequency,
            Axis.over(frequency, True, "frequency (Hz)", 0),
            ("Power spectra", "power", "Within the usable band."),
        ),
        _bands(
            kinds,
            response,
            periods,
            Axis.over(periods, True, "period (s)", 0),
            ("Response spectra", "SA / PGA", "Spectral acceleration at 5 % damping over peak acceleration."),
        ),
    ]


def _bands(
    kinds: dict[str, Tensor], feature: Callable[[Tensor], Tensor], x: Values, axis: Axis, words: tuple[str, str, str]
) -> str:
    """Median and middle 68 % of a logarithmic feature (N, C, D) of either kind; `words`: title, unit, remark."""
    title, label, remark = words
    found = {kind: _quantiles(feature, wave) for kind, wave in kinds.items()}
    chart = Chart(axis, Axis.over(np.stack(list(found.values())).ravel(), log=True, label=label))
    for kind, (low, _, high) in found.items():
        chart.band(np.asarray(x), low, high, f"{kind} fill")
    for kind, (_, middle, _) in found.items():
        chart.line(x, middle, kind)
    return chart.figure(title, remark, KINDS)


def _quantiles(feature: Callable[[Tensor], Tensor], wave_NCT: Tensor) -> np.ndarray:
    found = torch.cat([feature(chunk).flatten(0, 1) for chunk in wave_NCT.split(32)])
    return torch.quantile(found, torch.tensor(SHARES), dim=0).exp().numpy()


def _distances(result: Result) -> str:
    """The parts of the score, each over its floor: where generated windows are still far from real ones."""
    assert result.best
    floors: dict[str, Any] = result.best["test"]["floors"]
    names = [*SCORED, *(name for name in NAMES if name not in SCORED)]
    body = [_distance(result.best, name, floors[name]) for name in names if name in floors]
    head = ["distance over its floor", "validation", "test", "real to real", ""]
    remark = (
        "1: as far as real windows are from each other. Real to real: nine in ten splits of real test windows; the "
        "score counts what exceeds 1 in units of what their upper end does."
    )
    return f"<div><h3>What the score is made of</h3>{page.table(head, body)}{quiet(remark)}</div>"


def _distance(best: dict[str, Any], name: str, floor: dict[str, float]) -> tuple[str, ...]:
    values = [page.Number(score_text(best[part][f"fidelity/{name}"])) for part in ("validation", "test")]
    low, high = floor["low"] / floor["median"], floor["high"] / floor["median"]
    counted = "" if name in SCORED else "not counted"
    return NAMES.get(name, name), *values, page.Number(f"{low:.2f}–{high:.2f}"), counted


def _closer_look(test: Mapping[str, Any]) -> str:
    """What only the exported generator is asked, beside the real records of the test part."""
    body = [(name, page.Number(f"{test[key]:.2f}"), meaning) for name, (key, meaning) in LOOKS.items()]
    copied = "It has memorised" if test["finalist/memorisation_memorised"] else "It has not memorised"
    remark = (
        f"{copied} training records: copies would be closer to them than real records are, in most pairs and by much."
    )
    return f"<h3>A closer look at what it generates</h3>{page.table(['', 'test part', ''], body)}{quiet(remark)}"
