"""One fixture runs a whole test module on both kernels: numba, and the plain-torch definition."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", params=["numba", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Switch the kernels for a module; without the fast paths there is only one to run."""
    if request.param == "numba" and os.environ.get("HARTLEY_KERNELS") == "reference":
        pytest.skip("the fast paths are switched off")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "reference":
            patch.setenv("HARTLEY_KERNELS", "reference")
        yield request.param
