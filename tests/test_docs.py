"""Every Python example in the README and the documentation runs."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
NEEDS_MODEL = "open_engine"
EXTRAS = {'"llama"': "llama_cpp"}  # engines that are installed apart


def examples() -> list[object]:
    found = []
    for page in PAGES:
        code = "\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))
        if code:
            marks = [pytest.mark.model] if NEEDS_MODEL in code else []
            marks += [
                pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")
                for engine, package in EXTRAS.items()
                if engine in code
            ]
            found.append(pytest.param(code, id=str(page.relative_to(ROOT)), marks=marks))
    return found


@pytest.mark.parametrize("code", examples())
def test_examples_run(code: str, tiny_generate: dict[str, object]) -> None:
    exec(compile(code, "<example>", "exec"), {"__name__": "example", **tiny_generate})


def test_the_readme_names_commands_that_exist() -> None:
    from hartley.cli.main import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    for command in re.findall(r"^hartley (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M):
        assert command in names


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name in nav or name.startswith("papers/"), f"{name} cannot be reached"


@pytest.fixture
def tiny_generate() -> dict[str, object]:
    """What the transformers page calls ``model`` and ``inputs``: a small random model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        model = LlamaForCausalLM(config).eval()
    return {"model": model, "inputs": {"input_ids": torch.tensor([[1, 2, 3]])}}
