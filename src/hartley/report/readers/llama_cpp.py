"""llama.cpp's own server: ``completion_probabilities``, as it is now and as it was.

Now: ``id``, ``token``, ``bytes``, ``logprob`` and ``top_logprobs``, or ``prob`` and ``top_probs`` when the request said
``post_sampling_probs``. Before: ``content`` and ``probs`` of ``tok_str`` and ``prob``.
"""

from collections.abc import Sequence
from typing import Any

from hartley.report.readers.numbers import items, mapping, prob, string
from hartley.report.readers.openai import chat_step
from hartley.report.readers.reading import Listed, Reading, Step, check_list, text_of_steps

NAME = "completion_probabilities"
ASK = 'ask for them: "n_probs": 20 in the request (the larger the number, the narrower the entropy)'


def matches(found: Any) -> bool:
    """Whether an object is a response of llama.cpp's server, or a piece of a streamed one."""
    return isinstance(found, dict) and (NAME in found or ("content" in found and "stop" in found))


def read(source: str, found: Sequence[dict[str, Any]]) -> Reading:
    """Read responses, one after the other or in the pieces of a stream."""
    steps: list[list[Step]] = [[]]
    facts: list[dict[str, Any]] = [{}]
    notes: set[str] = set()
    for piece in found:
        if facts[-1].get("stop"):
            steps.append([])
            facts.append({})
        facts[-1] |= {key: piece[key] for key in ("stop", "prompt", "model", "stop_type") if key in piece}
        for entry in items(piece.get(NAME) or [], source, NAME):
            where = f"{source}: {f'response {len(steps)}, ' if len(steps) > 1 else ''}token {len(steps[-1]) + 1}"
            entry = mapping(entry, where, "a token")
            if "probs" in entry:
                notes.add("An older llama.cpp: its probabilities may be those that the sampler left, not the model's")
                steps[-1].append(_older(entry, where))
            else:
                if "prob" in entry:
                    notes.add(
                        "post_sampling_probs: entropy and surprisal are of what the sampler left, not of the model's "
                        "own distribution"
                    )
                steps[-1].append(chat_step(entry, where, exact=True))
    if not any(steps):
        raise ValueError(f"{source} has no log-probabilities: {ASK}")
    several = len(steps) > 1
    texts = [
        text_of_steps(
            f"response {number}" if several else "text",
            one,
            prompt=fact["prompt"] if isinstance(fact.get("prompt"), str) else None,
            finish=fact["stop_type"] if isinstance(fact.get("stop_type"), str) else None,
        )
        for number, (one, fact) in enumerate(zip(steps, facts, strict=True), 1)
        if one
    ]
    model = next((fact["model"] for fact in facts if isinstance(fact.get("model"), str)), None)
    return Reading(source, "llama.cpp server", texts, model, sorted(notes))


def _older(entry: dict[str, Any], where: str) -> Step:
    text = string(entry.get("content"), where, "content")
    where = f"{where} ({text[:20]!r})"
    listed: list[Listed] = []
    for one in items(entry["probs"], where, "probs"):
        one = mapping(one, where, "an alternative")
        spelled = string(one.get("tok_str", one.get("token")), where, "tok_str")
        listed.append(Listed(spelled, prob(one.get("prob"), where)))
    drawn = next((one for one in listed if one.text == text), Listed(text, float("-inf")))
    check_list(listed, drawn, where)
    return Step(drawn, listed, exact=True)
