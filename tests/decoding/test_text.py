import math

import pytest
import torch
from hypothesis import strategies as st

from hartley.decoding import (
    chain,
    entropy_top_k,
    epsilon_cutoff,
    eta_cutoff,
    min_p,
    mirostat,
    parse,
    temperature,
    top_h,
    top_k,
    top_n_sigma,
    top_p,
    typical_p,
)
from hartley.decoding.text import joined, known_settings, parse_request
from strategies import fractions, law

positive = st.floats(1e-3, 1e3)

samplers = st.one_of(
    positive.map(temperature),
    st.integers(1, 10**6).map(top_k),
    fractions().map(top_p),
    fractions().map(min_p),
    fractions().map(typical_p),
    st.builds(top_h, fractions(), st.sampled_from(["paper", "partial"]), st.integers(1, 500)),
    positive.map(top_n_sigma),
    fractions().map(eta_cutoff),
    fractions().map(epsilon_cutoff),
    st.builds(entropy_top_k, st.integers(50, 3000), st.integers(1, 50), positive, positive, positive),
    st.lists(st.floats(1 / 64, 1.0, width=32), min_size=1, max_size=4).map(lambda p: top_p(torch.tensor(p))),
)
targets = st.builds(
    mirostat,
    st.sampled_from([1, 2]),
    positive,
    positive,
    st.integers(1, 300),
    st.sampled_from(["model", "truncated"]),
    st.sampled_from(["paper", "official", "llama.cpp"]),
    st.none() | st.floats(-10, 10),
    st.floats(-10, 0),
    st.floats(1, 10),
)


def chained(parts):
    try:
        return chain(*parts)
    except ValueError:  # the same truncation twice
        return parts[0]


@law(st.lists(samplers, max_size=4).map(lambda parts: chained(parts) if parts else chain()) | targets, examples=200)
def test_text_round_trips(sampler):
    again = parse(str(sampler))
    assert str(again) == str(sampler)
    assert repr(again) == repr(sampler)
    assert again == sampler
    for one, other in zip(getattr(sampler, "samplers", [sampler]), getattr(again, "samplers", [again]), strict=True):
        for name, value in one.settings.items():
            got = other.settings[name]
            assert torch.equal(got, value) if isinstance(value, torch.Tensor) else got == value


@pytest.mark.parametrize(
    ("text", "sampler"),
    [
        ("", chain()),
        ("  ", chain()),
        ("temperature=1.5,top_h=0.4", chain(temperature(1.5), top_h(0.4))),
        (" top_p = 0.9 , ", top_p(0.9)),
        ("top_k=50, temperature=0.7, top_p=0.9", chain(top_k(50), temperature(0.7), top_p(0.9))),
        ("mirostat_tau=3", mirostat(tau=3)),
        ("mirostat=1,mirostat_tau=3,mirostat_eta=1,mirostat_compat=llama.cpp", mirostat(1, 3, 1, compat="llama.cpp")),
        ("temperature=0.5,temperature=2", chain(temperature(0.5), temperature(2))),
        ("entropy_top_k=100,entropy_top_k_k_min=5", entropy_top_k(100, 5)),
        ("top_h=0.4,top_h_rule=partial", top_h(0.4, rule="partial")),
        ("top_p=[0.9 0.5]", top_p(torch.tensor([0.9, 0.5]))),
        ("mirostat_mu_max=inf", mirostat(mu_max=math.inf)),
    ],
)
def test_reads(text, sampler):
    assert parse(text) == sampler


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topp=0.9", "did you mean 'top_p'"),
        ("temprature=1", "did you mean 'temperature'"),
        ("mirostat_tua=3", "did you mean 'mirostat_tau'"),
        ("zzz=1", "known are"),
        ("top_p", "not of the form name=value"),
        ("top_p=", "neither a number nor a word"),
        ("top_p=1.5", r"top_p must be in \(0, 1\]; got 1.5"),
        ("temperature=-1", "temperature must be finite and at least 0; got -1"),
        ("top_h_rule=partial", "top_h_rule is given without top_h=VALUE"),
        ("top_h=0.4,top_h_rule=papers", "'paper', 'partial'"),
        ("top_p=0.9,mirostat=2", "cannot be chained"),
        ("top_p=[]", "neither a number nor a word"),
        (f"top_k={2**62}", r"top_k must be less than 2\*\*62"),
    ],
)
def test_refuses_and_says_what_was_meant(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("text", ["top_p=high", "top_k=2.5"])
def test_refuses_the_wrong_kind_of_value(text):
    with pytest.raises(TypeError, match=text.split("=")[0]):
        parse(text)


def test_every_setting_has_a_key_of_its_own():
    keys = known_settings()
    assert len(set(keys.values())) == len(keys)
    assert keys["top_p"] == ("top_p", "p")
    assert keys["mirostat_tau"] == ("mirostat", "tau")


def test_settings_given_one_by_one_are_chained_in_a_fixed_order():
    given = {"mirostat_tau": 3, "temperature": 0.5}
    assert parse(joined(given)) == chain(temperature(0.5), mirostat(tau=3))
    assert joined({"top_p": 0.9, "top_h": 0.4, "temperature": 2}) == "temperature=2,top_h=0.4,top_p=0.9"
    assert joined({}) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top_h=1.5", "top_h must"),
        ("top_p=[0.9 0.8]", "a value for each row"),
        ("top_p=high", "cannot run"),
        ("mirostat_mu=nan", "mirostat_mu must be a number"),
    ],
)
def test_what_came_with_a_request_breaks_where_it_is_read(text, message):
    with pytest.raises(ValueError, match=message):
        parse_request(text)


@law(samplers | targets, examples=50)
def test_what_can_be_written_can_be_asked_for(sampler):
    if "[" not in str(sampler):
        assert parse_request(str(sampler)) == sampler
