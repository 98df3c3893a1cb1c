import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from hartley.engines import open_engine
from hartley.models import Model, load
from tiny_models import write_folder, write_gguf


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny random Llama in a folder, with its packed forms in a cache that the workers of a run share."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    directory = place / "tiny"
    with FileLock(place / "tiny.lock"):
        if not directory.exists():
            directory.mkdir()
            write_folder(directory, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARTLEY_CACHE", str(place / "cache"))
        return load(directory, progress=lambda message: None)


@pytest.fixture(scope="session")
def tiny_gguf(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same tiny Llama with the GGUF file it could have come from."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, seed=1)
    return replace(tiny, gguf=path)


@pytest.fixture(scope="session", params=["transformers", "onnx float32", "onnx int8", "llama"])
def engine(request: pytest.FixtureRequest, tiny: Model, tiny_gguf: Model) -> Any:
    """Every engine on the tiny model."""
    name, *dtype = request.param.split()
    if name == "llama" and find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    return open_engine(tiny_gguf if name == "llama" else tiny, name, *dtype, device="cpu")


@pytest.fixture
def moby_dick() -> str:
    return (Path(__file__).parents[1] / "data" / "moby_dick.txt").read_text(encoding="utf-8")
