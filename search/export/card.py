"""The model card of an exported generator: what it is, learned from, scores, cannot do, and how to use it."""

import math
from collections.abc import Mapping, Set
from typing import Any

import pandas as pd

from search.export.load import CHECKSUMS, CONFIG, DATASET, ENVIRONMENT, METRICS, PROGRAM, RECORDS, WEIGHTS
from search.space import shown
from search.trials import score_text
from search.verdict import Verdict
from trainables.batches import CONDITION_COLUMNS, PreparedDataset
from trainables.config import ModelConfig

MADE_UP = "XX"  # SEED's network for tests
# Columns of the training table and how a reader knows them.
COVERAGE = {"magnitude": "magnitude", "distance_km": "epicentral distance in km", "depth_km": "depth in km"}
FILES = {
    WEIGHTS: "weights, averaged over the training",
    PROGRAM: "the same generator as a program, its waveforms normalised",
    CONFIG: "what the network is made of and was trained with",
    METRICS: "all scores, on the validation and the test part",
    RECORDS: "label, conditions and scales (cm/s²) of each training record",
    DATASET: "what it was trained on: fingerprint, selection, counts, scales",
    ENVIRONMENT: "versions and device of where it was exported",
    CHECKSUMS: f"of all of these; `sha256sum -c {CHECKSUMS}` compares",
}


def model_card(
    name: str,
    dataset: PreparedDataset,
    model: ModelConfig,
    metrics: Mapping[str, Any],
    verdict: Verdict | None,
) -> str:
    """The card as Markdown; `name` is the search's."""
    rows = pd.read_parquet(dataset.folder / "train.parquet").reindex(columns=["label", "network", *COVERAGE])
    return f"""# Generator of search `{name}`, trial {metrics["trial_id"]}, seed {metrics["seed"]}

Accelerograms, {dataset.samples} samples at {dataset.fs_hz:g} Hz, each component ({", ".join(model.components)})
normalised to mean 0 and standard deviation 1. What belongs to one training record is drawn together from
`{RECORDS}`: {", ".join(["label", *model.conditions, "the components' scales in cm/s²"])}.

## Scores

{_scores(metrics, verdict)}

## Use

With the project that made it: `python search/generate.py results/{name} --count 16 --out waveforms.npy`

With onnxruntime and numpy alone, in this folder:

```python
{_lines_to_use_it(model.latent_dim, dataset.standards(model.conditions))}
```

The first number of `label` is 1 for an earthquake and 0 for noise, which has 0 for all others.

## Trained on

{_data(dataset)}

{_coverage(rows)}

## Limits

{_limits(dataset, metrics["test"])}

## Licence of the data

{_licence(set(rows["network"].dropna()))}

## Files

{_table(("file", "what"), {f"`{file}`": what for file, what in FILES.items()})}
"""


def _licence(networks: Set[str]) -> str:
    if networks == {MADE_UP}:
        return "None is needed: the training records are made up."
    return f"""Networks of the training records: {", ".join(sorted(networks)) or "unknown"} ({MADE_UP}: made up).
Their licence is not known here. Most networks in ITACA give their records under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/), which asks to name the source; what each of them asks for is said at
https://itaca.mi.ingv.it and https://www.fdsn.org/networks. Look there before you pass on this folder or what it
generates."""


def _table(head: tuple[str, ...], rows: Mapping[str, str]) -> str:
    lines = [head, ("---",) * len(head), *rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scores(metrics: Mapping[str, Any], verdict: Verdict | None) -> str:
    """How good it is, how it was chosen, and the parameters that came of it."""
    test, head = metrics["test"], ("score (1 = as close as real data to themselves)", "value")
    scores = {part: score_text(metrics[part]["score"]) for part in ("validation", "test")}
    floors = {
        name: f"{shown(test[f'fidelity/{name}'], 3)} | {floor['median']:.3g}" for name, floor in test["floors"].items()
    }
    parameters = {f"`{key}`": shown(value) for key, value in sorted(metrics["parameters"].items())}
    paragraphs = [
        _table(head, scores),
        _table(("distance on the test part", "over its floor", "floor, among real records"), floors),
        *(_finalists(verdict) if verdict else []),
        _table(("parameter", "value"), parameters),
    ]
    return "\n\n".join(paragraphs)


def _finalists(verdict: Verdict) -> list[str]:
    words = (
        "The best configurations of the search were trained again with another seed, and the best two of these with "
        "more. Of those two the lower geometric mean wins, of their scores and of what all the search's scores let "
        "expect; of all trainings of the winner the one with the lowest score on validation is the generator here."
    )
    rows = {one.trial_id: " | ".join(one.texts) for one in verdict.ranked}
    return [
        words,
        _table(("trial", "mean score", "expected by the search", "with other seeds"), rows),
        verdict.sentence,
    ]


def _lines_to_use_it(latent_dim: int, standards: Mapping[str, tuple[float, float]]) -> str:
    """Python that generates 16 earthquakes, of the training records' mean conditions if there are any."""
    means = {
        CONDITION_COLUMNS[name]: f"{math.exp(mean) if name.startswith('log_') else mean:.2g}"
        for name, (mean, _) in standards.items()
    }
    asked = [f"{', '.join(means)} = {', '.join(means.values())}"] if means else []
    numbers = ", ".join(["1", *(_standardised(name, *standard) for name, standard in standards.items())])
    return "\n".join(
        [
            "import numpy as np, onnxruntime",
            "",
            *asked,
            f'generator = onnxruntime.InferenceSession("{PROGRAM}")',
            f"latent = np.random.default_rng(0).standard_normal((16, {latent_dim}), np.float32)",
            f"label = np.float32([[{numbers}]]).repeat(16, axis=0)",
            '(wave,) = generator.run(None, {"latent": latent, "label": label})',
        ]
    )


def _standardised(name: str, mean: float, std: float) -> str:
    value = CONDITION_COLUMNS[name]
    return f"({f'np.log({value})' if name.startswith('log_') else value} - {mean:.8g}) / {std:.8g}"


def _data(dataset: PreparedDataset) -> str:
    manifest = dataset.manifest
    counts = ", ".join(f"{manifest['counts'][part]} {part}" for part in ("train", "val", "test"))
    settings = ", ".join(f"`{key}` {shown(value)}" for key, value in manifest.get("settings", {}).items())
    return f"Windows: {counts}. Selected and prepared with: {settings or 'unknown'}. All of it is in `{DATASET}`."


def _coverage(rows: pd.DataFrame) -> str:
    quakes = rows[rows["label"] == "earthquake"]
    known = {words: quakes[name] for name, words in COVERAGE.items() if quakes[name].notna().any()}
    ranges = {words: f"{values.min():.3g} to {values.max():.3g}" for words, values in known.items()}
    return _table(("of the training records", "range"), ranges)


def _limits(dataset: PreparedDataset, test: Mapping[str, Any]) -> str:
    (low_hz, high_hz), auc = dataset.usable_band_hz, test["finalist/classifier_auc"]
    limits = [
        "It knows earthquakes of those ranges alone, and few at their ends.",
        f"It was judged from {low_hz:.3g} to {high_hz:.3g} Hz, the band of nearly all training records.",
        "Amplitudes in cm/s² are not its own: each waveform takes the standard deviations of one training record.",
        f"A small network tells its waveforms from real ones: area under the ROC curve {auc:.2f}, 0.5 is guessing.",
        "Waveforms are independent of each other: no two are of one earthquake at two stations.",
        "What it makes has not happened: no evidence of ground motion at any place. Check what matters to you, such as "
        "response spectra, against recordings before you use it for design or hazard.",
        *_doubts(test),
    ]
    return "\n".join(f"- {limit}" for limit in limits)


def _doubts(test: Mapping[str, Any]) -> list[str]:
    """What stands against trusting the generator or its score."""
    doubts = []
    if not test["resolvable"]:
        doubts.append("Too few windows or events to resolve the score: differences of this size may be chance.")
    if test["finalist/memorisation_memorised"]:
        doubts.append("It has memorised training records: what it generates lies closer to them than real records do.")
    return doubts
