"""In-context navigation: say what was already explored, and the next probe of a language model goes elsewhere."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from hartley.info.checks import check_count, check_one_of
from hartley.info.head import Head

Judge = Callable[[str], bool]

NOTHING = "nothing"  # stands for an answer whose end never came
CHUNK = 32  # completions run side by side: bounds the memory of their caches


@runtime_checkable
class TextModel(Protocol):
    """What navigation asks of a language model; :class:`CausalTextModel` makes one of any transformers model."""

    def next_logits(self, text: str) -> Tensor:
        """The logits ``[V]`` of the token after ``text``; -inf where a server does not tell."""
        ...

    def token_text(self, token: int) -> str:
        """The text of one token; empty for a special one."""
        ...

    def complete(self, text: str, tokens: Sequence[int], max_new_tokens: int, stop: str) -> list[str]:
        """Each of ``tokens`` after ``text``, with its greedy continuation.

        A continuation ends with the ``stop`` string (kept in the text), the end of the sequence, or ``max_new_tokens``
        tokens after the first.
        """
        ...


class CausalTextModel:
    """A causal language model of transformers and its tokenizer, as a :class:`TextModel`.

    The text before a slot is read once; the completions of all its tokens then run as one batch on copies of its cache.
    Raises ``ValueError`` for an empty text and for one that leaves no room in the model's context.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.end = {*_as_list(model.generation_config.eos_token_id), *_as_list(tokenizer.eos_token_id)}

    @property
    def keys(self) -> Tensor:
        """The rows ``[V, D]`` of the output layer."""
        return self.model.get_output_embeddings().weight.detach()

    @torch.inference_mode()
    def next_logits(self, text: str) -> Tensor:
        """The logits ``[V]`` of the token after ``text``, float32."""
        return self._read(text, 1).logits[0, -1].float()

    def token_text(self, token: int) -> str:
        """The text of one token; empty for a special one."""
        return self.tokenizer.decode([token], skip_special_tokens=True)

    @torch.inference_mode()
    def complete(self, text: str, tokens: Sequence[int], max_new_tokens: int, stop: str) -> list[str]:
        """Each of ``tokens`` after ``text``, with its greedy continuation."""
        cache = self._read(text, 1 + max_new_tokens).past_key_values if tokens else None
        found: list[str] = []
        for first in range(0, len(tokens), CHUNK):
            found += self._chunk(copy.deepcopy(cache), tokens[first : first + CHUNK], max_new_tokens, stop)
        return found

    def _chunk(self, cache: Any, tokens: Sequence[int], max_new_tokens: int, stop: str) -> list[str]:
        rows = [[token] for token in tokens]
        running = list(range(len(rows)))
        cache.batch_repeat_interleave(len(rows))
        for _ in range(max_new_tokens):
            going = [place for place, row in enumerate(running) if not self._over(rows[row], stop)]
            if not going:
                break
            if len(going) < len(running):
                cache.batch_select_indices(torch.tensor(going, device=self.model.device))
                running = [running[place] for place in going]
            step = torch.tensor([rows[row][-1:] for row in running], device=self.model.device)
            logits = self.model(step, past_key_values=cache, use_cache=True).logits[:, -1]
            for row, token in zip(running, logits.argmax(-1), strict=True):
                rows[row].append(int(token))
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    def _over(self, row: list[int], stop: str) -> bool:
        return row[-1] in self.end or stop in self.tokenizer.decode(row, skip_special_tokens=True)

    def _read(self, text: str, room: int) -> Any:
        ids = self.tokenizer(text, return_tensors="pt")["input_ids"].to(self.model.device)
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if ids.shape[1] == 0:
            raise ValueError(f"text must hold at least one token; got {text!r}")
        if limit is not None and ids.shape[1] + room > limit:
            raise ValueError(
                f"text of {ids.shape[1]} tokens and {room} more do not fit the context of {limit}; list fewer answers "
                "(max_explored)"
            )
        return self.model(ids, use_cache=True, logits_to_keep=1)


def list_prompt(instruction: str, explored: Sequence[str] = ()) -> str:
    """The instruction and a numbered list of quoted answers, open at its next slot.

    >>> print(list_prompt("Name some colours.", ["red", "blue"]))
    Name some colours.
    <BLANKLINE>
    Answer:
    1. "red"
    2. "blue"
    3. "
    """
    lines = "".join(f'{number}. "{item}"\n' for number, item in enumerate(explored, start=1))
    return f'{instruction}\n\nAnswer:\n{lines}{len(explored) + 1}. "'


STEP = "* **Step 1:**\n"


def ways_prompt(instruction: str, explored: Sequence[str] = ()) -> str:
    """The instruction and the ways already found to solve it, open at the first step of the next.

    >>> print(ways_prompt("What is 2 + 3?", ["Count on from 2."]), end="")
    What is 2 + 3?
    Please show me some different ways to solve this problem.
    <BLANKLINE>
    ### Way 1:
    * **Step 1:**
    Count on from 2.
    <BLANKLINE>
    ### Way 2:
    * **Step 1:**
    """
    ways = "".join(f"### Way {number}:\n{STEP}{way}\n\n" for number, way in enumerate(explored, start=1))
    ask = "Please show me some different ways to solve this problem."
    return f"{instruction}\n{ask}\n\n{ways}### Way {len(explored) + 1}:\n{STEP}"


@dataclass(frozen=True)
class Template:
    """How explored answers are shown, and where one ends."""

    prompt: Callable[[str, Sequence[str]], str]
    stop: str
    must_close: bool  # a text that never reaches ``stop`` is no answer
    max_new_tokens: int
    within: int | None  # ranks that a round looks at; None: all

    def read(self, text: str) -> str | None:
        """The answer at the start of ``text``; None where there is none."""
        answer, stop, _ = text.partition(self.stop)
        return None if self.must_close and not stop else answer.strip() or None


TEMPLATES = {
    "list": Template(list_prompt, '"', must_close=True, max_new_tokens=64, within=None),
    "cot": Template(ways_prompt, "#", must_close=False, max_new_tokens=256, within=100),
}


@dataclass(frozen=True)
class Probe:
    """One first token, and the answer that followed from it."""

    round: int  # from 0
    token: int
    answer: str  # "nothing" where none came to an end
    hit: bool | None  # what the judge said; None without a judge


@dataclass(frozen=True)
class Exploration:
    """What was found, in order, and the prompt that each round read."""

    probes: list[Probe]
    prompts: list[str]

    @property
    def answers(self) -> list[str]:
        """One answer a probe, repeats and all."""
        return [probe.answer for probe in self.probes]

    @property
    def hits(self) -> list[bool]:
        """What the judge said of each; empty without a judge."""
        return [probe.hit for probe in self.probes if probe.hit is not None]


class InContextNavigator:
    """Probe a language model for many different answers, showing it the ones it has given.

    Each of ``rounds`` rounds lists the answers so far in the prompt, walks down the ranking of the next token past
    every token already probed (as text: " red" and "red" are one), and completes the next ``per_round`` greedily.

    Parameters
    ----------
    model, tokenizer
        A causal language model of transformers and its tokenizer, or a :class:`TextModel` alone.
    template
        ``"list"``: quoted items of a numbered list. ``"cot"``: ways to solve a problem, from the 100 likeliest tokens.
    regularise
        Complete from the prompt that lists nothing, so that answers do not copy the style of the list.
    judge
        ``judge(answer) -> bool``: marks each answer as a hit or a miss.
    distinct_by
        ``"first_token"``: no first token is probed twice. ``"answer"``: a probe that repeats an answer (or brings
        none) is replaced by the next of the 100 likeliest; where ``regularise`` is off, a token may lead to another
        answer in a later round ("New York", then "New Zealand").
    max_explored
        How many answers, the latest ones, the prompt lists; 0 lists none, which is plain probing of the ranking.
    max_new_tokens
        Longest completion after its first token; 64 for a list and 256 for ways by default.

    Raises ``ValueError`` for counts below 1 and unknown names; ``TypeError`` for a model it cannot use.

    Source: Peng, An and Shang 2024, "Correlation and Navigation in the Vocabulary Key Representation Space".
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        template: Literal["list", "cot"] = "list",
        rounds: int = 10,
        per_round: int = 10,
        regularise: bool = True,
        judge: Judge | None = None,
        distinct_by: Literal["first_token", "answer"] = "first_token",
        max_explored: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        check_one_of("template", template, tuple(TEMPLATES))
        check_one_of("distinct_by", distinct_by, ("first_token", "answer"))
        check_count("rounds", rounds)
        check_count("per_round", per_round)
        if max_explored is not None and max_explored < 0:
            raise ValueError(f"max_explored must be None (all) or at least 0; got {max_explored}")
        if max_new_tokens is not None:
            check_count("max_new_tokens", max_new_tokens)
        self.model = as_text_model(model, tokenizer)
        self.template = TEMPLATES[template]
        self.rounds = rounds
        self.per_round = per_round
        self.regularise = regularise
        self.judge = judge
        self.distinct_by = distinct_by
        self.max_explored = max_explored
        self.max_new_tokens = max_new_tokens or self.template.max_new_tokens

    def explore(self, instruction: str) -> Exploration:
        """Probe until the rounds are over, or until a round finds nothing left to probe."""
        known: dict[str, str] = {}  # every answer once, case aside
        tried: set[str] = set()
        probes: list[Probe] = []
        prompts: list[str] = []
        for round in range(self.rounds):
            if self.distinct_by == "answer" and not self.regularise:
                tried = set()  # with another list before it, a token may lead elsewhere
            prompts.append(self.template.prompt(instruction, self._listed(known)))
            found = self._round(round, prompts[0] if self.regularise else prompts[-1], prompts[-1], tried, known)
            if not found:
                break
            probes += found
        return Exploration(probes, prompts)

    def _round(self, round: int, base: str, prompt: str, tried: set[str], known: dict[str, str]) -> list[Probe]:
        fresh = self._untried(self.model.next_logits(prompt), tried)
        found: list[Probe] = []
        while tokens := list(islice(fresh, self.per_round - len(found))):
            texts = self.model.complete(base, tokens, self.max_new_tokens, self.template.stop)
            for token, text in zip(tokens, texts, strict=True):
                answer = self.template.read(text)
                if self.distinct_by == "answer" and (answer is None or answer.casefold() in known):
                    continue
                hit = None if self.judge is None else answer is not None and self.judge(answer)
                found.append(Probe(round, token, answer or NOTHING, hit))
                if answer is not None:
                    known.setdefault(answer.casefold(), answer)
        return found

    def _untried(self, logits: Tensor, tried: set[str]) -> Iterator[int]:
        within = 100 if self.distinct_by == "answer" else self.template.within
        for token in islice(ranked(logits), within):
            text = self.model.token_text(token).strip()
            if text and text not in tried:
                tried.add(text)
                yield token

    def _listed(self, known: dict[str, str]) -> list[str]:
        answers = list(known.values())
        return answers if self.max_explored is None else answers[max(0, len(answers) - self.max_explored) :]


@dataclass(frozen=True)
class Vote:
    """The answer that most paths end in, the answer of each path, and the paths."""

    answer: str
    answers: list[str]
    paths: list[str]


def first_line(text: str) -> str:
    """The first line of ``text`` that is not empty, without a full stop at its end.

    >>> first_line(" 18.\\nBecause")
    '18'
    """
    return text.strip().partition("\n")[0].strip().rstrip(".")


def navigated_self_consistency(
    model: Any,
    question: str,
    n_paths: int = 4,
    tokenizer: Any = None,
    max_new_tokens: int = 256,
    read: Callable[[str], str] = first_line,
) -> Vote:
    """Solve a question along ``n_paths`` different ways, navigated one after the other, and take the majority's answer.

    Each path is followed alone by "Final Answer:" and 8 greedy tokens, of which ``read`` takes the answer. The most
    frequent answer wins, the first seen among equals. ``model`` and ``tokenizer`` as for :class:`InContextNavigator`.
    Raises ``ValueError`` for counts below 1.
    """
    text_model = as_text_model(model, tokenizer)
    navigator = InContextNavigator(
        text_model, template="cot", rounds=n_paths, per_round=1, max_new_tokens=max_new_tokens
    )
    paths = navigator.explore(question).answers
    answers = [read(_final(text_model, f"{question}\n\n{STEP}{path}\n\nFinal Answer:")) for path in paths]
    return Vote(Counter(answers).most_common(1)[0][0], answers, paths)


def _final(model: TextModel, text: str) -> str:
    return model.complete(text, [next(ranked(model.next_logits(text)))], 7, "#")[0]


def map_at_k(hits: Sequence[bool], k: int) -> float:
    """Mean over i = 1..k of the share of hits among the first i: rewards hits that come early.

    Not the average precision of retrieval, which averages over the hits alone. Raises ``ValueError`` unless ``k`` is
    between 1 and the number of hits.

    >>> map_at_k([True, True, False, False], 4)
    0.7916666666666666

    Source: Peng, An and Shang 2024.
    """
    if not 1 <= k <= len(hits):
        raise ValueError(f"k must be between 1 and the number of hits, {len(hits)}; got {k}")
    return sum(sum(hits[:i]) / i for i in range(1, k + 1)) / k


def ranked(logits: Tensor) -> Iterator[int]:
    """Tokens of ``logits [V]`` from the most probable down, ties by id; never one at -inf.

    >>> list(ranked(torch.tensor([0.0, 2.0, -torch.inf, 1.0])))
    [1, 3, 0]
    """
    head, seen = Head.of(logits[None]), 0
    while True:
        known = int(head.known[0])
        possible = head.log_probs[0, seen:known] > -torch.inf
        yield from map(int, head.tokens[0, seen:known][possible])
        if bool(head.complete[0]):
            return
        head, seen = head.widen(), known


def as_text_model(model: Any, tokenizer: Any = None) -> TextModel:
    """``model`` as it is where it is a :class:`TextModel`; else a model and tokenizer of transformers, wrapped.

    Raises ``TypeError`` for a transformers model without its tokenizer, and for anything else.
    """
    if isinstance(model, TextModel):
        return model
    if tokenizer is None or not callable(getattr(model, "get_output_embeddings", None)):
        raise TypeError(
            "model must be a causal language model of transformers together with its tokenizer, or have next_logits, "
            f"token_text and complete; got {type(model).__name__} and tokenizer {type(tokenizer).__name__}"
        )
    return CausalTextModel(model, tokenizer)


def _as_list(ids: Any) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
