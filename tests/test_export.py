"""What `best/` holds, that it opens elsewhere, and that nothing altered is taken for it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from data_prep.files import sha256
from search.export import write
from search.export.load import load_best
from search.export.program import write_program
from trainables.batches import PreparedDataset
from trainables.config import ModelConfig, TrialConfig
from trainables.metrics import z_score
from trainables.networks import make_generator

FILES = {
    "README.md",
    "SHA256SUMS",
    "config.json",
    "dataset.json",
    "environment.json",
    "generator.onnx",
    "generator.safetensors",
    "metrics.json",
    "records.safetensors",
}
TEST_SCORES = {
    "score": 9.0,
    "fidelity/log_psd": 8.0,
    "floors": {"log_psd": {"low": 0.1, "median": 0.25, "high": 0.5}},
    "resolvable": False,
    "finalist/memorisation_memorised": 0.0,
    "finalist/classifier_auc": 0.75,
}
# What the program needs beside Python's own library.
BARE = ("numpy", "numpy.libs", "onnxruntime")
PACKAGES = Path(np.__file__).parents[1]


@pytest.fixture(scope="session")
def result(tmp_path_factory, prepared):
    """What the end of a search exports of a generator of random weights, told of magnitude and distance."""
    folder, dataset = tmp_path_factory.mktemp("export"), PreparedDataset.open(prepared)
    model = ModelConfig(latent_dim=100, base_channels=2, kernel=8, conditions=("magnitude", "log_distance"))
    torch.manual_seed(0)
    state = {"averaged": make_generator(model, dataset.samples).state_dict(), "history": [{"score": 7.0}]}
    trial = SimpleNamespace(trial_id="a", config={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "best_state", lambda trials: (trial, state))
        patch.setattr(write, "_test_scores", lambda *_: TEST_SCORES)
        write.export_best([trial], TrialConfig(model), dataset, folder)
    return folder


@pytest.fixture
def copied(result, tmp_path):
    """A result whose export a test may change."""
    (tmp_path / "best").mkdir()
    for file in (result / "best").iterdir():
        (tmp_path / "best" / file.name).write_bytes(file.read_bytes())
    return tmp_path


def read(result, name):
    return json.loads((result / "best" / name).read_text())


def test_everything_is_there_and_coreutils_finds_it_unaltered(result):
    assert {file.name for file in (result / "best").iterdir()} == FILES
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=result / "best", capture_output=True, text=True)
    assert (done.returncode, done.stdout.count(": OK")) == (0, len(FILES) - 1)


def test_it_says_what_it_was_trained_on_and_with_what(result, prepared):
    data, environment = read(result, "dataset.json"), read(result, "environment.json")
    assert data["fingerprint"] == sha256(prepared / "manifest.json")
    assert data["manifest"] == json.loads((prepared / "manifest.json").read_text())
    scales = data["scales"]["earthquake"]
    assert (scales["records"], scales["of_known_unit"]) == (30, 30)
    assert scales["quantiles_cm_s2"]["50%"]["Z"] == pytest.approx(25, abs=10)  # drawn evenly from 1 to 50
    assert set(environment) == {"python", "torch", "ray", "optuna", "numpy", "platform", "device"}


def test_the_card_says_how_good_it_is_and_what_stands_against_it(result):
    card = (result / "best" / "README.md").read_text()
    for said in (
        "| test | 9.00 |",
        "| log_psd | 8 | 0.25 |",
        "| magnitude | 4.",
        "Too few windows",
        "ROC curve 0.75",
        "CC BY 4.0",
    ):
        assert said in card
    assert "memorised" not in card
    assert not re.search(r"^[^|\n].*\n\|", card, re.MULTILINE)  # or the table would be a part of the paragraph


def test_nothing_in_it_tells_whose_machine_it_was(result, prepared):
    for file in (result / "best").iterdir():
        content = file.read_bytes()
        for secret in (Path.home(), Path(__file__).parents[1], Path(sys.prefix), prepared):
            assert str(secret).encode() not in content, file.name


def test_whoever_may_read_one_file_may_read_them_all(result):
    assert len({file.stat().st_mode for file in (result / "best").iterdir()}) == 1


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_folder_without_a_whole_export_is_refused(copied, name):
    (copied / "best" / name).unlink()
    with pytest.raises(ValueError, match=f"{name} does not exist; expected the folder of a finished search"):
        load_best(copied)


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_altered_byte_of_any_file_is_refused(copied, name):
    file = copied / "best" / name
    content, rng = file.read_bytes(), np.random.default_rng(0)
    for place in (0, len(content) - 1, *rng.integers(len(content), size=20)):
        altered = bytearray(content)
        altered[place] ^= 1 << rng.integers(8)
        file.write_bytes(altered)
        with pytest.raises(ValueError, match=r"differs from its checksum|does not exist|is damaged|has format"):
            load_best(copied)
    file.write_bytes(content)
    load_best(copied)


@pytest.mark.parametrize("found", [1, 2, 3, 5, None])
def test_a_folder_of_another_format_is_refused_with_a_remedy(copied, found):
    config = read(copied, "config.json")
    (copied / "best" / "config.json").write_text(json.dumps(config | {"format": found}))
    (copied / "best" / "SHA256SUMS").unlink()  # which formats below 4 have not
    remedy = r"export it again with search/run\.py --name NAME --resume"
    with pytest.raises(ValueError, match=rf"has format {found}; this version reads 4; {remedy}"):
        load_best(copied)


def error(generator, latent, label, wave):
    """Largest error, in standard deviations of a waveform, beside the same network in double precision."""
    with torch.no_grad():
        expected = z_score(generator.eval().double()(torch.tensor(latent).double(), torch.tensor(label).double()))
    assert wave.shape == expected.shape
    return np.abs(wave - expected.numpy()).max()


@pytest.mark.parametrize("model", [{"architecture": "gated", "components": "EZ"}, {"conditions": ("depth",)}])
def test_the_program_generates_what_the_network_does_in_batches_of_any_size(tmp_path, model):
    model = ModelConfig(latent_dim=100, base_channels=2, kernel=17, **model)
    torch.manual_seed(0)
    generator = make_generator(model, 401)
    write_program(generator, model, tmp_path / "x.onnx")
    session, rng = onnxruntime.InferenceSession(tmp_path / "x.onnx"), np.random.default_rng(0)
    for batch in (1, 2, 5):
        latent, label = (rng.standard_normal((batch, n), np.float32) for n in (100, model.label_dim))
        (wave,) = session.run(None, {"latent": latent, "label": label})
        assert error(generator, latent, label, wave) <= 1e-5


def test_the_lines_of_the_card_generate_the_same_without_this_project_and_torch(result, tmp_path):
    """In a Python that knows nothing else."""
    for name in BARE:
        (tmp_path / name).symlink_to(PACKAGES / name)
    lines = re.search(r"```python\n(.*?)```", (result / "best" / "README.md").read_text(), re.DOTALL)[1]
    head = f"import sys; sys.path.append({str(tmp_path)!r})"
    tail = f"np.savez({str(tmp_path / 'x.npz')!r}, wave=wave, latent=latent, label=label)"
    code = "\n".join([head, lines, tail])
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=result / "best", check=True)
    made, (generator, _) = np.load(tmp_path / "x.npz"), load_best(result)
    assert made["wave"].shape == (16, 3, 400)
    assert error(generator, made["latent"], made["label"], made["wave"]) <= 1e-5
    assert np.abs(made["label"] - [1, 0, 0]).max() < 0.2  # the example asks for the means, in two digits
