"""What vLLM adds to OpenAI's shapes: log-probabilities of the prompt, and the numbers of Hartley's plug-in.

The plug-in puts an object under ``KEY`` into a choice: lists with a number a token, ``entropy``, ``varentropy``,
``surprisal``, ``rank``, ``kept`` and ``mass``, any of which may be missing. With it entropies are exact, and no
log-probabilities are needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hartley.report.readers.numbers import at_least, items, log_prob, mapping, own_numbers, whole
from hartley.report.readers.reading import Listed, Step, Text, text_of_steps

KEY = "hartley"
MARKS = (KEY, "prompt_logprobs", "prompt_token_ids")  # in a response or a choice: it is vLLM's
LISTS = ("entropy", "varentropy", "surprisal", "rank", "kept", "mass")


def prompts(found: Any, where: str, name: str) -> list[Text]:
    """The scored prompt of a choice as a text, if it has one: a list of objects, token id to log-probability.

    The prompt's own token is the first of each object; the first token of all has none.
    """
    if found is None:
        return []
    steps: list[Step] = []
    for number, entry in enumerate(items(found, where, "prompt_logprobs"), 1):
        place = f"{where}, prompt token {number}"
        if entry is None:
            continue
        listed = [_listed(id, one, place) for id, one in mapping(entry, place, "prompt_logprobs").items()]
        if not listed:
            raise ValueError(f"{place}: prompt_logprobs holds an empty object")
        own = mapping(next(iter(entry.values())), place, "prompt_logprobs")
        rank = whole(own.get("rank"), 1, place, "rank")
        steps.append(Step(listed[0], listed, told={} if rank is None else {"rank": rank}))
    return [text_of_steps(f"{name}, prompt" if name else "prompt", steps, skip=1, is_prompt=True)] if steps else []


def _listed(id: str, found: Any, where: str) -> Listed:
    found = mapping(found, where, "prompt_logprobs")
    if not id.isdecimal() or len(id) > 18:
        raise ValueError(f"{where}: prompt_logprobs must have token ids as names; got {id[:20]!r}")
    text = found.get("decoded_token")
    return Listed(text if isinstance(text, str) else f"⟨{id}⟩", log_prob(found.get("logprob"), where), int(id))


def with_own_numbers(
    steps: Sequence[Step], found: Mapping[str, list[Any]], token_ids: Sequence[Any], where: str
) -> list[Step]:
    """The steps with the plug-in's numbers; where there are no log-probabilities, steps made of these alone."""
    lists = {key: found[key] for key in LISTS if found.get(key) is not None}
    if not lists:
        raise ValueError(f"{where}: {KEY} has none of the lists {', '.join(LISTS)}")
    count = len(steps) or len(next(iter(lists.values())))
    for key, values in lists.items():
        if len(values) != count:
            raise ValueError(f"{where}: {KEY}.{key} must have a number for each of {count} tokens; got {len(values)}")
    if not steps:
        if "surprisal" not in lists:
            raise ValueError(f"{where}: there are no log-probabilities, and {KEY} has no surprisal")
        ids = token_ids if len(token_ids) == count else [None] * count
        steps = [
            Step(Listed("▯" if id is None else f"⟨{id}⟩", 0.0, whole(id, 0, where, "a token id")), []) for id in ids
        ]
    made: list[Step] = []
    for number, step in enumerate(steps):
        place = f"{where}, token {number + 1}"
        own = {key: values[number] for key, values in lists.items()}
        told = own_numbers(own, place)
        surprisal = at_least(own.get("surprisal"), 0.0, place, "surprisal")
        if surprisal is not None:
            told["surprisal"] = surprisal
        made.append(step._replace(told={**step.told, **told}))
    return made
