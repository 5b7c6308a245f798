import numpy as np
import pandas as pd
import pytest

from trainables.batches import PreparedDataset
from trainables.config import CONDITIONS, ModelConfig

ALL = ModelConfig(conditions=CONDITIONS)


def rewrite(folder, part, change):
    """Change the table of a part, by a function from table to table."""
    file = folder / f"{part}.parquet"
    change(pd.read_parquet(file)).to_parquet(file)


def with_value(row, column, value):
    """A change of one value."""
    return lambda rows: rows.assign(**{column: rows[column].where(rows.index != row, value)})


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_conditions_are_standardised_by_the_training_part_alone(mixed, part):
    def values(name):
        rows = pd.read_parquet(mixed / f"{name}.parquet").query("label == 'earthquake'")
        return np.stack([rows["magnitude"], np.log(rows["distance_km"]), rows["depth_km"]], axis=1)

    label, train = PreparedDataset.open(mixed).part(part, ALL).label, values("train")
    expected = (values(part) - train.mean(0)) / train.std(0)
    np.testing.assert_allclose(label[label[:, 0] == 1, 1:], expected, atol=1e-5)


def test_other_parts_do_not_move_the_standard(mixed):
    before = PreparedDataset.open(mixed).part("train", ALL).label
    for part in ("val", "test"):
        rewrite(mixed, part, lambda rows: rows.assign(magnitude=rows["magnitude"] + 100))
    dataset = PreparedDataset.open(mixed)
    assert dataset.part("train", ALL).label.equal(before)
    assert dataset.part("val", ALL).label[:, 1].max() > 50


def test_noise_and_unknown_values_have_a_condition_of_zero(mixed):
    rewrite(mixed, "train", with_value(1, "depth_km", np.nan))
    label = PreparedDataset.open(mixed).part("train", ALL).label
    assert label[::3].count_nonzero() == 0
    assert label[1, 3] == 0
    assert label[1, :3].all()


def test_a_magnitude_that_a_noise_window_was_given_is_none_of_the_earthquakes(mixed):
    before = PreparedDataset.open(mixed).part("train", ALL).label
    rewrite(mixed, "train", with_value(0, "magnitude", 9.9))
    assert PreparedDataset.open(mixed).part("train", ALL).label.equal(before)


def test_distances_below_a_kilometre_are_alike(mixed):
    for row, distance_km in ((1, 0.0), (2, 1.0)):
        rewrite(mixed, "train", with_value(row, "distance_km", distance_km))
    label = PreparedDataset.open(mixed).part("train", ModelConfig(conditions=("log_distance",))).label
    assert label.isfinite().all()
    assert label[1, 1] == label[2, 1]


def test_a_constant_condition_tells_nothing_and_explodes_nowhere(mixed):
    rewrite(mixed, "train", lambda rows: rows.assign(magnitude=5.1))
    dataset, model = PreparedDataset.open(mixed), ModelConfig(conditions=("magnitude",))
    assert dataset.part("train", model).label[:, 1].abs().max() < 1e-6
    assert dataset.part("val", model).label[:, 1].abs().max() < 2


@pytest.mark.parametrize(
    "change",
    [lambda rows: rows.assign(magnitude=np.nan), lambda rows: rows.drop(columns="magnitude")],
    ids=["blank", "no such column"],
)
def test_a_condition_that_no_earthquake_has_is_refused(mixed, change):
    rewrite(mixed, "train", change)
    with pytest.raises(
        ValueError, match=r"no earthquake of .*train\.parquet has a magnitude; leave it out of model.conditions"
    ):
        PreparedDataset.open(mixed).part("train", ModelConfig(conditions=("magnitude",)))


@pytest.mark.parametrize("components", ["E", "N", "Z", "EN", "EZ", "NZ", "ENZ"])
def test_components_are_picked_by_name_and_stay_on_disk(prepared, components):
    dataset = PreparedDataset.open(prepared)
    whole, some = dataset.part("train").wave, dataset.part("train", ModelConfig(components=components)).wave
    assert some.equal(whole[:, ["ENZ".index(letter) for letter in components]])
    assert some.untyped_storage().nbytes() == whole.untyped_storage().nbytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_sample_that_is_no_number_is_found_and_named(mixed, part, value):
    PreparedDataset.open(mixed).verify()  # a sound one is not refused
    wave = np.load(mixed / f"{part}.npy")
    wave[7, 1, 300] = value
    np.save(mixed / f"{part}.npy", wave)
    with pytest.raises(ValueError, match=rf"{part}\.npy: window 7 holds a sample that is no finite number; prepare"):
        PreparedDataset.open(mixed).verify()
