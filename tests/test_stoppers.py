import pytest

from search.config import DriftConfig
from search.stoppers import drift_reason, theil_sen_slope

CONFIG = DriftConfig(bound=5.0, patience=3, grace_epochs=2, grace_generator_steps=20)
NAN = float("nan")


def history(gaps, first_epoch=1, steps=100, name="drift/minimum"):
    return [{"epoch": first_epoch + i, "generator_steps": steps, name: gap} for i, gap in enumerate(gaps)]


@pytest.mark.parametrize(
    ("gaps", "stops"),
    [
        ([9, 9, 9, 9, 9], True),  # far off, and staying there
        ([9, 9, 6, 7, 8], True),  # far off, and going away
        ([-9, -9, -6, -7, -8], True),  # the sign does not matter
        ([20, 16, 12, 9, 7], False),  # far off, but closing: learning
        ([9, 9, 9, 9, 4], False),  # the last one within the bound
        ([9, 9, 4, 9, 9], False),  # one of the last three within the bound
        ([1, 1, 1, 1, 1], False),  # near
        ([9, 9, 9, 9], False),  # only two reports past the grace of two epochs
        ([9, 9, 9], False),
        ([], False),
        ([9, 9, NAN, NAN, NAN], False),  # not a drift; divergence has its own rule
    ],
)
def test_decisions_on_drift(gaps, stops):
    assert (drift_reason(history(gaps), CONFIG) is not None) is stops


def test_grace_asks_for_generator_steps_too():
    assert drift_reason(history([9] * 5, steps=20), CONFIG) is None
    assert drift_reason(history([9] * 5, steps=21), CONFIG)


@pytest.mark.parametrize("name", ["minimum", "maximum", "mean", "log_std", "skewness", "log_kurtosis"])
def test_every_moment_is_watched_and_named(name):
    reason = drift_reason(history([7] * 5, name=f"drift/{name}"), CONFIG)
    assert reason == f"drift: {name} off by 7.0 (bound 5), not closing"


def test_the_slope_is_not_moved_by_one_outlier():
    assert theil_sen_slope([1, 2, 3, 4, 5]) == 1
    assert theil_sen_slope([1, 2, 99, 4, 5]) == 1
    assert theil_sen_slope([3, 3, 3]) == 0
