"""The probe: probabilities, batches, absent classes, calibration, and a file that only its own model can use."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hartley.decoding import DifficultyProbe
from hartley.decoding.difficulty import DIFFICULTIES
from hartley.decoding.difficulty_probe import KIND
from strategies import seeds

D = 12


def blobs(n=60, seed=0, spread=0.3, classes=DIFFICULTIES):
    """Rows around one centre a class, on scales that differ by a million, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.array(classes)[np.arange(n) % len(classes)]
    centres = {name: rng.standard_normal(D) for name in DIFFICULTIES}
    x = np.stack([centres[name] for name in labels]) + spread * rng.standard_normal((n, D))
    return (x * np.geomspace(1e-3, 1e3, D)).astype(np.float32), labels


@pytest.fixture(scope="module")
def probe():
    return DifficultyProbe(hidden_size=32).fit(*blobs(), model_id="tiny float32 ab", template_hash="cd")


def test_learns_what_is_there_to_learn_on_any_scale(probe):
    x, labels = blobs(n=300)
    assert (probe.predict(x) == labels).mean() > 0.95
    assert probe.score(x, labels) == (probe.predict(x) == labels).mean()


def test_is_the_network_of_the_paper(probe):
    x, _ = blobs()
    z = (x.astype(np.float64) - probe.mean_.numpy()) / probe.scale_.numpy()
    np.testing.assert_allclose(((x - x.mean(0)) / x.std(0)), z, rtol=1e-3, atol=1e-3)
    w1, b1, w2, b2 = (getattr(probe, name).numpy().astype(np.float64) for name in ("w1_", "b1_", "w2_", "b2_"))
    scores = np.maximum(z @ w1.T + b1, 0) @ w2.T + b2
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(probe.predict_proba(x), expected, rtol=1e-9)
    assert (w1.shape, w2.shape) == ((32, D), (3, 32))
    assert DifficultyProbe().hidden_size == 256


@settings(max_examples=20)
@given(seeds(), st.integers(1, 40), st.floats(0.01, 1000))
def test_probabilities_sum_to_one_whatever_stands_beside_a_row(probe, seed, n, size):
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * size
    whole = probe.predict_proba(x)
    np.testing.assert_allclose(whole.sum(-1), 1, rtol=1e-12)
    assert (whole >= 0).all()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(probe.predict_proba(x[order]), whole[order.numpy()], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(probe.predict_proba(x[:1]), whole[:1], rtol=1e-9, atol=1e-12)
    assert (probe.predict(x) == probe.classes_[whole.argmax(-1)]).all()


@pytest.mark.parametrize("classes", [["easy", "hard"], ["normal", "hard"], ["hard"]])
def test_a_class_that_was_absent_is_never_predicted(classes):
    probe = DifficultyProbe(hidden_size=8, epochs=5).fit(*blobs(classes=classes))
    assert probe.classes_.tolist() == classes
    x = torch.randn(500, D, generator=torch.Generator().manual_seed(0)) * 1e4
    assert set(probe.predict(x)) <= set(classes)
    assert probe.predict_proba(x).shape == (500, len(classes))


def test_ties_go_to_normal():
    probe = DifficultyProbe(hidden_size=4, epochs=1).fit(*blobs())
    probe.w2_ = torch.zeros_like(probe.w2_)
    probe.b2_ = torch.tensor([1.0, 1.0, 0.0])
    assert set(probe.predict(blobs()[0])) == {"normal"}
    probe.b2_ = torch.tensor([1.0, 0.0, 1.0])
    assert set(probe.predict(blobs()[0])) == {"easy"}


def test_the_same_seed_gives_the_same_probe_and_the_global_one_is_not_touched():
    before = torch.get_rng_state()
    one, again, other = (DifficultyProbe(8, 3, seed).fit(*blobs()) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.w1_, again.w1_)
    assert torch.equal(one.w2_, again.w2_)
    assert not torch.equal(one.w1_, other.w1_)


def test_a_constant_feature_does_no_harm():
    x, labels = blobs()
    x[:, 3] = 7.0
    probe = DifficultyProbe(hidden_size=8, epochs=5).fit(x, labels)
    assert np.isfinite(probe.predict_proba(x)).all()


def test_calibration_is_of_rows_left_out_and_changes_no_label():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((90, D)), rng.choice(DIFFICULTIES, 90)  # nothing to learn
    probe = DifficultyProbe(epochs=400).fit(x, labels)
    before, sure = probe.predict(x), probe.predict_proba(x).max(-1).mean()
    assert probe.score(x, labels) > 0.9  # learnt by heart
    right = probe.calibrate(x, labels)
    # 90 guesses at one in three: 45 or more are right by chance once in 1,400 times
    assert right.sum() < 45
    assert probe.temperature_ > 2
    assert probe.predict_proba(x).max(-1).mean() < sure - 0.1
    assert (probe.predict(x) == before).all()


def test_calibration_without_surprise_stays_sure_and_meets_classes_that_come_once():
    x, labels = blobs(n=90, spread=0.05)
    probe = DifficultyProbe(hidden_size=32).fit(x, labels)
    assert probe.calibrate(x, labels).mean() > 0.95
    labels = np.array(["easy"] * 89 + ["hard"])
    probe = DifficultyProbe(hidden_size=32, epochs=50).fit(x, labels)
    right = probe.calibrate(x, labels)
    assert not right[-1]  # the fold that leaves it out cannot know it
    assert right.sum() == 89
    assert np.isfinite(probe.predict_proba(x)).all()


def test_a_saved_probe_is_the_same_probe(probe, tmp_path):
    x, labels = blobs()
    probe.calibrate(x, labels)
    probe.save(tmp_path / "p.safetensors")
    again = DifficultyProbe.load(tmp_path / "p.safetensors", model_id="tiny float32 ab", template_hash="cd")
    assert (again.predict_proba(x) == probe.predict_proba(x)).all()
    assert again.get_params() == probe.get_params()
    assert (again.model_id_, again.template_hash_) == ("tiny float32 ab", "cd")
    assert again.n_features_in_ == D
    assert [file.name for file in tmp_path.iterdir()] == ["p.safetensors"]


def test_another_model_or_template_is_refused(probe, tmp_path):
    probe.save(path := tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="made for the model 'tiny float32 ab' and cannot judge for 'tiny int8 ab'"):
        DifficultyProbe.load(path, model_id="tiny int8 ab")
    with pytest.raises(ValueError, match="made for the chat template 'cd' and cannot judge for 'plain'"):
        DifficultyProbe.load(path, template_hash="plain")
    with pytest.raises(ValueError, match=f"X must hold hidden states of {D} numbers.*got 13"):
        probe.predict(np.zeros((2, D + 1)))


def rewritten(path, **changes):
    """The file with some of its facts or tensors changed; None drops one."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()[KIND])
    tensors = load_file(path)
    for name, value in changes.items():
        where = tensors if name in tensors else facts
        where.pop(name) if value is None else where.update({name: value})
    save_file(tensors, path, metadata={KIND: json.dumps(facts)})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"version": 2}, "cannot be read: version must be 1; got 2"),
        ({"classes": ["easy", "normal", "impossible"]}, "cannot be read: classes must be some of"),
        ({"classes": ["easy", "normal"]}, "cannot be read: w2_ must hold"),
        ({"classes": []}, "cannot be read"),
        ({"temperature": 0.0}, "temperature must be finite and above 0; got 0.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"settings": {"hidden_size": 31}}, "cannot be read: w1_"),
        ({"settings": {"colour": 1}}, "cannot be read"),
        ({"settings": 3}, "cannot be read"),
        ({"w1_": None}, "cannot be read.*w1_"),
        ({"b2_": torch.tensor([0.0, float("nan"), 0.0])}, "b2_ must hold finite numbers"),
        ({"mean_": torch.zeros(D + 1)}, "scale_ must hold"),
        ({"model_id": None}, "cannot be read.*model_id"),
    ],
)
def test_a_damaged_file_is_named(probe, tmp_path, changes, match):
    probe.save(path := tmp_path / "p.safetensors")
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=match):
        DifficultyProbe.load(path)


def test_what_is_no_probe_is_refused_and_nothing_is_unpickled(tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = tmp_path / "p.safetensors"
    for content in (b"", b"{}", pickle.dumps(Trap())):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            DifficultyProbe.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a hartley difficulty probe"):
        DifficultyProbe.load(path)
    with pytest.raises(FileNotFoundError, match="no probe at"):
        DifficultyProbe.load(tmp_path / "none.safetensors")


def test_a_failed_save_leaves_the_old_file(probe, tmp_path, monkeypatch):
    path = tmp_path / "p.safetensors"
    path.write_text("old")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hartley.decoding.difficulty_probe.save", full)
    with pytest.raises(OSError, match="No space"):
        probe.save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_scikit_learn_can_clone_and_cross_validate_it():
    from sklearn.base import clone
    from sklearn.model_selection import cross_val_score

    x, labels = blobs()
    copy = clone(DifficultyProbe(hidden_size=16, epochs=200, random_state=4))
    assert copy.get_params() == {"hidden_size": 16, "epochs": 200, "random_state": 4}
    assert copy.set_params(epochs=100).epochs == 100
    assert cross_val_score(copy, x, labels, cv=3).mean() > 0.9


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DifficultyProbe(hidden_size=0), "hidden_size"),
        (lambda: DifficultyProbe(epochs=0), "epochs"),
        (lambda: DifficultyProbe().fit(np.zeros((2, 3)), ["easy", "medium"]), "got 'medium'"),
        (lambda: DifficultyProbe().fit(np.zeros((2, 3)), ["easy"]), "y must hold one label for each of the 2 rows"),
        (lambda: DifficultyProbe().fit(np.zeros((0, 3)), []), "of the 0 rows"),
        (lambda: DifficultyProbe().fit(np.zeros(3), ["easy"]), r"shape \[N, D\]; got \(3,\)"),
        (lambda: DifficultyProbe().fit([[0.0], [np.inf]], ["easy", "hard"]), "X must be finite; row 1 is not"),
        (lambda: DifficultyProbe().predict([[0.0]]), "not trained yet"),
        (lambda: DifficultyProbe(epochs=1).fit([[0.0]], ["easy"]).calibrate([[0.0]], ["easy"]), "at least 2"),
    ],
)
def test_what_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
