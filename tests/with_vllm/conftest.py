"""The real vLLM, in the environment of ``make test-vllm``; elsewhere these tests skip."""

import importlib.util
import os

import pytest

# Read when vLLM is imported, here and in the processes it starts
os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

MISSING = importlib.util.find_spec("vllm") is None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/with_vllm/" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(900))  # an engine starts in one to three minutes
            if MISSING:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed here; make test-vllm builds its home"))
