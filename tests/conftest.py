"""Shared settings: one Hypothesis profile, few threads, and markers that skip with a reason."""

import os
import shutil

# Threads that wait by spinning starve each other on a busy machine; read when torch is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A worker of a parallel run has a core to itself, and the processes that its tests start share that
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

import hypothesis
import pytest
import torch

# The second run, on the plain-torch reference, repeats what the first one tried: a third of the examples will do
examples = 33 if os.environ.get("HARTLEY_KERNELS") == "reference" else 100
hypothesis.settings.register_profile("hartley", deadline=None, derandomize=True, print_blob=True, max_examples=examples)
hypothesis.settings.load_profile("hartley")


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, headless; for one module, since its event loop would stand in the way of others."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    flags = [
        "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
