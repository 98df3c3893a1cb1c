"""A tiny model behind a real server process, and the application in this process behind a fake one."""

import httpx
import pytest

from serving import KEY, SHORT, FakeBackend, client_of, live
from tiny_models import SPECIAL, write_folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of a tiny random model with a chat template, whose texts do not end by themselves under top_k=100."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    model = write_folder(folder)
    model.lm_head.weight.data[: len(SPECIAL)] = 0.0  # a logit of 0, below the 100 likeliest of 268
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def servers(tiny, tmp_path_factory):
    """Two servers of the tiny model that ask for a key and start together: one for long texts, one for short ones."""
    key = tmp_path_factory.mktemp("keys") / "key"
    key.write_text(f"{KEY}\n")
    common = ("--model", tiny, "--api-key-file", key)
    with (
        live(*common, "--streams", 4, "--queue", 8, "--max-tokens", 400) as long,
        live(*common, "--queue", 200, "--max-tokens", SHORT) as short,
    ):
        yield long, short


@pytest.fixture(scope="session")
def server(servers):
    """A server with four places, where eight texts of up to 400 tokens may wait."""
    return servers[0]


@pytest.fixture
def http(server):
    """A plain client of that server."""
    with httpx.Client(base_url=server.url, timeout=60, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture
def backend():
    return FakeBackend()


@pytest.fixture
def make_client(backend):
    """A client of the application in this process, with these settings of the application."""
    from hartley.serve.app import create_app

    def make(**settings):
        return client_of(create_app(backend, **settings))

    return make


@pytest.fixture(scope="session")
def plain_app():
    """The application in front of a backend that nobody looks at: making one takes longer than a request."""
    from hartley.serve.app import create_app

    return create_app(FakeBackend())


@pytest.fixture
def plain(plain_app):
    return client_of(plain_app)


@pytest.fixture
def keyed(make_client):
    return make_client(key=KEY.encode())


@pytest.fixture
def anyio_backend():
    return "asyncio"
