"""Shared settings: one Hypothesis profile, two threads, and markers that skip with a reason."""

import os

# Threads that wait by spinning starve each other on a busy machine; read when torch is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("hartley", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("hartley")


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
