"""What a request asks of Hartley inside vLLM: ``extra_args`` offline, ``vllm_xargs`` over REST."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hartley.decoding import Sampler
from hartley.decoding.text import joined, known_settings, parse_request

NUMBERS = ("entropy", "varentropy", "surprisal", "rank", "kept", "mass")  #: per token, in this order
ALL = (*NUMBERS, "log_prob", "drawn_entropy", "drawn_varentropy", "top_tokens", "top_log_probs")

LONGEST = 1000  # characters of a sampler text


class Arguments(NamedTuple):
    """What one request asks for."""

    sampler: Sampler
    text: str  #: of the sampler; empty samples from the model as it is
    numbers: tuple[str, ...]  #: which numbers go back with each token; none if empty


def arguments(extra: Mapping[str, Any] | None) -> Arguments | None:
    """Read the arguments of one request, or None where nothing is asked of Hartley.

    ``hartley="temperature=1.5,top_h=0.4"`` applies samplers in the order written; single arguments (``top_h=0.4``,
    ``mirostat_tau=3``) are chained in the order of transformers. ``entropy=True`` returns the numbers of
    :data:`NUMBERS` with each token and is implied by a sampler; ``"all"`` returns those of :data:`ALL`, and ``False``
    none. Other keys belong to others and are left alone. Raises ``ValueError`` for a sampler that cannot be read or
    built, both forms at once, one value per row, or another value of ``entropy``.

    >>> arguments({"top_h": 0.4, "temperature": 1.5}).sampler
    chain(temperature(1.5), top_h(0.4))
    >>> arguments({"entropy": True}).text, arguments({"kv_transfer_params": {}})
    ('', None)
    """
    if not extra:
        return None
    known = known_settings()
    given = {key: value for key, value in extra.items() if key in known}
    whole = extra.get("hartley")
    if whole is None and not given and "entropy" not in extra:
        return None
    if whole is not None and given:
        raise ValueError(f"hartley={whole!r} and {', '.join(given)} are both given; write everything in hartley")
    numbers = _numbers(extra.get("entropy", True))
    if whole is None:
        whole = joined({key: _value(key, value) for key, value in given.items()})
    elif not isinstance(whole, str) or len(whole) > LONGEST:
        raise ValueError(f"hartley must be a sampler text of at most {LONGEST} characters, got {whole!r:.80}")
    return Arguments(parse_request(whole), whole, numbers)


def check_beside(asked: Arguments, params: Any) -> None:
    """Refuse vLLM's own settings, which come after ours, where they would silence ours; ``ValueError`` naming them.

    A sampler that sets the cut-off by itself (mirostat) learns from what is drawn, so nothing may come after it.
    """
    if not asked.sampler.rules_alone:
        return
    off = {"temperature": (1.0,), "top_p": (1.0,), "top_k": (0, -1), "min_p": (0.0,)}
    for name, values in off.items():
        if (value := getattr(params, name)) not in values:
            raise ValueError(
                f"{asked.text} sets the cut-off by itself, and vLLM's own {name}={value} comes after it; set it to "
                f"{values[0]}, and give a temperature as hartley='temperature=T,{asked.text}'"
            )


def _numbers(entropy: Any) -> tuple[str, ...]:
    if entropy == "all":
        return ALL
    if isinstance(entropy, bool | int) and entropy in (0, 1):  # vLLM's server turns JSON's true into 1
        return NUMBERS if entropy else ()
    raise ValueError(f"entropy must be true, false or 'all', got {entropy!r}")


def _value(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or set(str(value)) & set(",=["):
        raise ValueError(f"{key} must be a number or a word, got {value!r:.80}")
    return value
