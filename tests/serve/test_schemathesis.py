"""What the description promises, tried with what it allows and with what it forbids, by a real server process."""

import httpx
import hypothesis
import pytest
import schemathesis

from hartley.serve.app import create_app
from serving import KEY, SHORT, FakeBackend

AUTH = {"Authorization": f"Bearer {KEY}"}
# What a schema allows can still be impossible: a sampler that cannot be built, a text longer than the context
POSSIBLE = {"expected-statuses": ["200", "400", "404", "429"]}
EXAMPLES = 10  # for each operation, beside the systematic ones

schema = schemathesis.openapi.from_dict(
    create_app(FakeBackend(), max_tokens=SHORT, key=KEY.encode()).openapi(),
    config=schemathesis.config.SchemathesisConfig.from_dict({"checks": {"positive_data_acceptance": POSSIBLE}}),
)


@pytest.fixture(scope="module")
def url(servers):
    """A server of the tiny model whose answers are short."""
    return servers[1].url


def test_it_is_the_description_that_the_server_gives(url):
    assert httpx.get(f"{url}/openapi.json", headers=AUTH).json() == schema.raw_schema


@schema.parametrize()
@hypothesis.settings(max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck), deadline=None)
def test_the_server_does_what_its_description_says(case, url):
    case.call_and_validate(base_url=url, headers=AUTH, timeout=60)
