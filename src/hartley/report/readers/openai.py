"""OpenAI's two shapes, which vLLM, llama.cpp and many others answer in too: chat and the older completions.

Chat: ``choices[].logprobs.content[]`` with ``token``, ``logprob``, ``bytes`` and ``top_logprobs``. Completions:
``choices[].logprobs`` with the lists ``tokens``, ``token_logprobs`` and ``top_logprobs`` (an object a token). Streams
have the same in pieces. vLLM adds ``prompt_logprobs``; Hartley's plug-in for it adds an object ``hartley`` to a choice.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hartley.report.readers import vllm
from hartley.report.readers.numbers import items, log_prob, mapping, prob, raw_bytes, string, whole
from hartley.report.readers.reading import Listed, Reading, Step, Text, check_list, text_of_steps

BYTES = re.compile(r"bytes:(?:\\x[0-9a-fA-F]{2})+")  # how the older API spells half a character
ID = re.compile(r"token_id:(\d{1,18})")  # how vLLM spells tokens when asked for ids
ASK = (
    'ask for them: "logprobs": true, "top_logprobs": 20 in a chat request, "logprobs": 5 in a completion request '
    "(the larger the number, the narrower the entropy)"
)


def matches(found: Any) -> bool:
    """Whether an object is a response, or a piece of a streamed one, in either shape."""
    return isinstance(_body(found), dict) and isinstance(_body(found).get("choices"), list)


def read(source: str, found: Sequence[Any]) -> Reading:
    """Read responses; the pieces of a stream, which share an ``id``, make one."""
    texts: list[Text] = []
    kinds: list[str] = []
    model: str | None = None
    for number, (pieces, label) in enumerate(_responses(found), 1):
        model = model or next((piece["model"] for piece in pieces if isinstance(piece.get("model"), str)), None)
        name = label or (f"response {number}" if len(found) > len(pieces) else "")
        for index, choice in _choices(pieces, f"{source}: {name}".rstrip(": ")):
            choice_name = f"{name}, choice {index}".lstrip(", ") if _several(pieces) else name or "text"
            where = f"{source}: {choice_name}" if choice_name != "text" else source
            kinds.append(choice["kind"])
            echoed = choice["steps"] and choice["steps"][0].drawn.log_prob == -math.inf  # nothing comes before it
            texts += (
                []
                if echoed
                else vllm.prompts(choice["prompt_logprobs"], where, "" if choice_name == "text" else choice_name)
            )
            if choice["steps"] or choice["hartley"]:
                texts.append(_text(choice, where, choice_name))
    if not texts or not any(text.tokens for text in texts):
        raise ValueError(f"{source} has no log-probabilities: {ASK}")
    shape = "chat" if kinds and all(kind == "chat" for kind in kinds) else "completions"
    is_vllm = any(key in one for one in _flat(found) for key in vllm.MARKS)
    return Reading(source, f"vLLM, OpenAI {shape}" if is_vllm else f"OpenAI {shape}", texts, model)


def _body(found: Any) -> Any:
    """The response itself: a line of OpenAI's batch files wraps it."""
    if isinstance(found, dict) and isinstance(found.get("response"), dict):
        return found["response"].get("body", found["response"])
    return found


def _flat(found: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Responses and their choices."""
    for one in found:
        yield _body(one)
        yield from (choice for choice in _body(one)["choices"] if isinstance(choice, dict))


def _responses(found: Sequence[Any]) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """The pieces of each response, and its name where the file gives it one."""
    groups: dict[Any, tuple[list[dict[str, Any]], str]] = {}
    for number, one in enumerate(found):
        body = _body(one)
        named = one.get("custom_id") if body is not one else None
        key = ("id", body["id"]) if isinstance(body.get("id"), str) and named is None else ("number", number)
        groups.setdefault(key, ([], named if isinstance(named, str) else ""))[0].append(body)
    yield from groups.values()


def _several(pieces: Sequence[Mapping[str, Any]]) -> bool:
    return len({choice.get("index") for piece in pieces for choice in piece["choices"] if isinstance(choice, dict)}) > 1


def _choices(pieces: Sequence[dict[str, Any]], where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The choices of a response, put together from its pieces."""
    made: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        for place, choice in enumerate(piece["choices"]):
            choice = mapping(choice, where, f"choices[{place}]")
            index = whole(choice.get("index", place), 0, where, "index") or 0
            one = made.setdefault(
                index,
                {"kind": "chat", "steps": [], "hartley": {}, "text": [], "finish": None, "prompt_logprobs": None,
                 "token_ids": []},
            )  # fmt: skip
            spoken = choice.get("message") or choice.get("delta") or {}
            if isinstance(choice.get("text"), str):
                one["kind"] = "completions"
                one["text"].append(choice["text"])
            elif isinstance(spoken, dict):
                one["text"] += [spoken[key] for key in ("content", "refusal") if isinstance(spoken.get(key), str)]
            one["finish"] = choice.get("finish_reason") or one["finish"]
            one["prompt_logprobs"] = (
                choice.get("prompt_logprobs") or piece.get("prompt_logprobs") or one["prompt_logprobs"]
            )
            if isinstance(choice.get("token_ids"), list):
                one["token_ids"] += choice["token_ids"]
            own = mapping(choice.get(vllm.KEY) or {}, where, vllm.KEY)
            for key in vllm.LISTS:
                if own.get(key) is not None:
                    one["hartley"].setdefault(key, []).extend(items(own[key], where, f"{vllm.KEY}.{key}"))
            if choice.get("logprobs") is not None:
                found = mapping(choice["logprobs"], where, f"choices[{place}].logprobs")
                one["steps"] += _steps(found, f"{where}, choice {index}", len(one["steps"]))
    yield from sorted(made.items())


def _steps(found: dict[str, Any], where: str, before: int) -> list[Step]:
    if isinstance(found.get("tokens"), list):
        return _completion_steps(found, where, before)
    entries = [
        *items(found.get("content") or [], where, "content"),
        *items(found.get("refusal") or [], where, "refusal"),
    ]
    return [chat_step(entry, f"{where}, token {number}") for number, entry in enumerate(entries, before + 1)]


def chat_step(entry: Any, where: str, exact: bool = False) -> Step:
    """A token of the chat shape, which llama.cpp has too, there with ids and, after sampling, ``prob``.

    ``exact``: see :func:`hartley.report.readers.reading.known_of`.
    """
    entry = mapping(entry, where, "a token")
    where = f"{where} ({str(entry.get('token'))[:20]!r})"
    drawn = _listed(entry, where)
    beside = entry.get("top_logprobs") or entry.get("top_probs") or []
    listed = [_listed(mapping(one, where, "an alternative"), where) for one in items(beside, where, "top_logprobs")]
    check_list(listed, drawn, where)
    return Step(drawn, listed, exact or "id" in entry)


def _listed(entry: dict[str, Any], where: str) -> Listed:
    text = string(entry.get("token"), where, "token")
    value = prob(entry["prob"], where) if "prob" in entry else log_prob(entry.get("logprob"), where)
    if text.startswith("token_id:") and (ids := ID.fullmatch(text)):
        return Listed(f"⟨{ids[1]}⟩", value, int(ids[1]))
    return Listed(text, value, whole(entry.get("id"), 0, where, "id"), raw_bytes(entry.get("bytes"), where))


def _completion_steps(found: dict[str, Any], where: str, before: int) -> list[Step]:
    tokens = items(found["tokens"], where, "tokens")
    values = items(found.get("token_logprobs"), where, "token_logprobs")
    tops = found.get("top_logprobs")
    tops = [None] * len(tokens) if tops is None else items(tops, where, "top_logprobs")
    if not len(tokens) == len(values) == len(tops):
        raise ValueError(
            f"{where}: tokens, token_logprobs and top_logprobs must be equally long; got {len(tokens)}, "
            f"{len(values)} and {len(tops)}"
        )
    made: list[tuple[Listed, list[Listed]]] = []
    for number, (token, value, top) in enumerate(zip(tokens, values, tops, strict=True), before + 1):
        place = f"{where}, token {number} ({str(token)[:20]!r})"
        token = string(token, place, "token")
        drawn = _spelled(token, -math.inf if value is None else log_prob(value, place))
        beside = mapping(top or {}, place, "top_logprobs")
        made.append((drawn, [_spelled(text, log_prob(one, place)) for text, one in beside.items()]))
    whole = _whole_lists(made)
    return [Step(drawn, listed, whole=whole[place]) for place, (drawn, listed) in enumerate(made)]


def _spelled(token: str, value: float) -> Listed:
    if found := ID.fullmatch(token):
        return Listed(f"⟨{found[1]}⟩", value, int(found[1]))
    raw = (
        bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
        if BYTES.fullmatch(token)
        else token.encode("utf-8", "surrogatepass")
    )
    return Listed(token, value, None, raw)


def _whole_lists(made: Sequence[tuple[Listed, list[Listed]]]) -> list[bool]:
    """Whether each list has all it should.

    In an object tokens that are spelled alike fall together, and the one that is lost can be probable. A whole list has
    the N most probable tokens, and the drawn one besides where it is less probable. N is not told: it is taken to be
    what the longest lists have, so that a file of which every list has lost a token is not seen through.
    """
    least = [not any(one.log_prob < drawn.log_prob for one in listed) for drawn, listed in made]
    sizes = [len(listed) for _, listed in made]
    inner = [size for size, last in zip(sizes, least, strict=True) if not last]
    most = max(1, max(sizes, default=0) - 1, *inner)
    return [
        size >= most + last and not any("\ufffd" in one.text for one in listed)
        for size, last, (_, listed) in zip(sizes, least, made, strict=True)
    ]


def _text(choice: dict[str, Any], where: str, name: str) -> Text:
    steps: list[Step] = choice["steps"]
    whole_text = "".join(choice["text"]) or None
    if choice["hartley"]:
        steps = vllm.with_own_numbers(steps, choice["hartley"], choice["token_ids"], where)
    text = text_of_steps(name, steps, finish=choice["finish"])
    spelled = "".join(token["text"] for token in text.tokens)
    if whole_text is None or spelled == whole_text or spelled.startswith(whole_text):
        return text
    return Text(name, text.tokens, whole=whole_text, finish=text.finish, known=text.known)
