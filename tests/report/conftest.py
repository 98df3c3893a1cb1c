"""Runs to report on, as plain token dicts."""

import math

import pytest

WORDS = [
    "Call",
    " me",
    " Ishmael",
    ".",
    "\n",
    " <script>alert(1)</script>",
    "&amp;",
    "‮ brow",
    "\x1b[31m",
    "",
    "\n\n",
    "\"'",
]


def token(place, text):
    surprisal = 0.2 * 1.6**place
    return {
        "position": place,
        "token_id": place + 10,
        "text": text,
        "piece": text or "<|im_end|>",
        "surprisal": surprisal,
        "entropy": 1.0 + place % 4,
        "varentropy": 2.0,
        "rank": place + 1,
        "kept": 3**place,
        "mass": 0.9,
        "top": [
            {"token_id": place + 10, "text": text, "log_prob": -surprisal},
            {"token_id": 1, "text": "<img src=x onerror=alert(1)>", "log_prob": math.log(0.1)},
        ],
    }


@pytest.fixture
def run():
    """Tokens with everything that has to be escaped, of every step of surprisal."""
    return [token(place, text) for place, text in enumerate(WORDS)]


@pytest.fixture
def runs(run):
    """Three samplers, two prompts, two seeds."""
    return [
        {"sampler": sampler, "prompt": prompt, "seed": seed, "finish": "length", "tokens": run[seed:]}
        for sampler in ("top_h=0.4", "top_p=0.9", "plain <b>")
        for prompt in ("Why?", "<script>prompt</script>")
        for seed in (0, 1)
    ]
