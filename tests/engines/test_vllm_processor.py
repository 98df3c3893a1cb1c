"""Our logits processor for vLLM, in both interfaces, without vLLM: the same cuts as everywhere, whatever moves."""

import math

import pytest
import torch
from hypothesis import strategies as st

from hartley.decoding import as_logits_processor, parse
from hartley.engines import logits_of, open_engine
from hartley.engines.vllm import channel
from hartley.engines.vllm.processor import HartleyProcessor
from strategies import KINDS, law
from vllm_batches import PROMPT, V1, V2, BatchUpdate, MoveDirectionality, Sequence, params

SAMPLERS = (
    "top_h=0.4",
    "temperature=1.5,top_h=0.4",
    "mirostat=2,mirostat_tau=3,mirostat_eta=1",
    "temperature=1.2,mirostat=2,mirostat_tau=2,mirostat_eta=0.5",
    "mirostat=1,mirostat_tau=3",
    "typical_p=0.9",
    "entropy_top_k=50,entropy_top_k_center=3",
    "top_p=0.9",
    "",
)
VOCABULARY = 300


def logits(streams: int, length: int, seed: int) -> torch.Tensor:
    """Recorded, in that the same seed is the same logits: some sharp, some flat, some tied."""
    generator = torch.Generator().manual_seed(seed)
    kinds = sorted(KINDS)
    return torch.stack(
        [
            torch.stack([KINDS[kinds[(s + t) % len(kinds)]](VOCABULARY, generator) for t in range(length)])
            for s in range(streams)
        ]
    )


def alone(sequence: Sequence, rows: torch.Tensor) -> tuple[list[torch.Tensor], object]:
    """What the transformers adapter leaves at each step of the same text, and the adapter."""
    processor = as_logits_processor(parse(sequence.params.extra_args["hartley"]))
    left = []
    for step in range(len(sequence.output)):
        ids = torch.tensor([[0] * PROMPT + sequence.output[:step]])
        left.append(processor(ids, rows[step][None])[0])
    processor.finish(torch.tensor([[0] * PROMPT + sequence.output]))
    return left, processor


def played(interface: type, told: bool, seed: int) -> tuple[list[Sequence], torch.Tensor]:
    texts = [*SAMPLERS, *SAMPLERS[2:5], None]
    rows = logits(len(texts), 10, seed)
    pool = [
        Sequence(i, params(None if text is None else {"hartley": text}), length=4 + (3 * i + seed) % 7, chunks=i % 3)
        for i, text in enumerate(texts)
    ]
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)).tolist()
    interface([pool[i] for i in order], rows, torch.Generator().manual_seed(seed), told, 5).run()
    return pool, rows


@pytest.mark.parametrize("interface", [V1, V2])
@pytest.mark.parametrize("told", [True, False], ids=["told", "read"])
@law(st.integers(0, 2**31), examples=6)
def test_both_interfaces_cut_as_transformers_does_while_others_come_and_go(interface, told, seed):
    pool, rows = played(interface, told, seed)
    for sequence in pool:
        assert len(sequence.output) == sequence.length
        if sequence.params.extra_args is None:
            for step, left in enumerate(sequence.masked):
                assert torch.equal(left, rows[sequence.stream, step])
            continue
        expected, _ = alone(sequence, rows[sequence.stream])
        for left, exact in zip(sequence.masked, expected, strict=True):
            assert torch.equal(left > -torch.inf, exact > -torch.inf), sequence.params
            torch.testing.assert_close(left, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("interface", [V1, V2])
@pytest.mark.parametrize("told", [True, False], ids=["told", "read"])
@law(st.integers(0, 2**31), examples=6)
def test_mirostat_telescopes_for_every_request_whatever_the_others_do(interface, told, seed):
    """Sum over steps of eta (S - tau) is mu at the start less mu at the end: each token moved mu exactly once."""
    pool, rows = played(interface, told, seed)
    checked = 0
    for sequence in pool:
        extra = sequence.params.extra_args
        if extra is None or "mirostat" not in extra["hartley"]:
            continue
        setting = parse(extra["hartley"])
        settings = getattr(setting, "samplers", [setting])[-1].settings
        row = sequence.params._hartley_row
        state = row.state
        mu = float(state[-1] if isinstance(state, tuple) else state)
        log_probs = rows[sequence.stream].double().log_softmax(-1)
        bits = [-log_probs[step, token].item() / math.log(2) for step, token in enumerate(sequence.output)]
        if row.turn is not None:  # nothing came after its last token, so that one is not taken in
            bits.pop()
        moved = settings["eta"] * sum(bit - settings["tau"] for bit in bits)
        assert 2 * settings["tau"] - mu == pytest.approx(moved, abs=1e-4)
        checked += 1
    assert checked == 6


@pytest.mark.parametrize("interface", [V1, V2])
def test_the_numbers_of_each_token_come_back(interface):
    pool, rows = played(interface, True, seed=3)
    for sequence in pool:
        if sequence.params.extra_args is None:
            assert sequence.numbers == [None] * sequence.length
            continue
        _, adapter = alone(sequence, rows[sequence.stream])
        for got, draw in zip(sequence.numbers, adapter.trace, strict=True):
            exact = [getattr(draw, name).item() for name in channel.ALL[:6]]
            assert got == pytest.approx(exact, rel=1e-4, abs=1e-5)
            assert isinstance(got[3], int)
            assert isinstance(got[4], int)


@pytest.mark.model
@pytest.mark.parametrize("interface", [V1, V2])
def test_the_same_on_logits_recorded_from_the_default_model(interface, moby_dick):
    engine = open_engine("smollm2")
    recorded = logits_of(engine, engine.tokenizer.encode(moby_dick)[:40]).reshape(5, 8, -1)
    pool = [Sequence(i, params({"hartley": text}), length=8, chunks=i % 2) for i, text in enumerate(SAMPLERS[2:7])]
    interface(pool, recorded, torch.Generator().manual_seed(0), True, 3).run()
    for sequence in pool:
        expected, _ = alone(sequence, recorded[sequence.stream])
        for left, exact in zip(sequence.masked, expected, strict=True):
            assert torch.equal(left > -torch.inf, exact > -torch.inf)


def test_requests_that_ask_nothing_cost_nothing():
    processor = HartleyProcessor(None, torch.device("cpu"), False)
    processor.update_state(BatchUpdate(1, [], [(0, params(None), [1], [])], []))
    logits = torch.zeros(1, 5)
    assert processor.apply(logits) is logits
    assert processor.turns == []
    assert processor.drawn(torch.tensor([1])) == {}


def test_a_swap_with_an_empty_place_moves_one():
    processor = HartleyProcessor(None, torch.device("cpu"), False)
    processor.update_state(BatchUpdate(2, [], [(0, params({"top_k": 1}), [1], [])], []))
    processor.update_state(BatchUpdate(2, [], [], [(0, 1, MoveDirectionality.SWAP)]))
    left = processor.apply(torch.tensor([[3.0, 2.0], [3.0, 2.0]]))
    assert left.tolist() == [[3.0, 2.0], [3.0, -math.inf]]


def test_one_broken_row_is_left_to_vllm_and_the_others_go_on(caplog):
    processor = HartleyProcessor(None, torch.device("cpu"), False)
    added = [(place, params({"top_k": 1}), [1], []) for place in range(3)]
    processor.update_state(BatchUpdate(3, [], added, []))
    rows = torch.tensor([[3.0, 2.0], [math.nan, 2.0], [1.0, 2.0]])
    left = processor.apply(rows.clone())
    assert left[0].tolist() == [3.0, -math.inf]
    assert left[1].isnan().tolist() == [True, False]
    assert left[2].tolist() == [-math.inf, 2.0]
    assert sorted(processor.drawn(torch.tensor([0, 1, 1]))) == [0, 2]
    assert "left a row to vLLM" in caplog.text


def test_a_token_that_could_not_be_drawn_has_numbers_that_json_can_say():
    processor = HartleyProcessor(None, torch.device("cpu"), False)
    processor.update_state(BatchUpdate(1, [], [(0, params({"entropy": "all"}), [1], [])], []))
    processor.apply(torch.tensor([[1.0, -math.inf]]))
    numbers = dict(zip(channel.ALL, processor.drawn(torch.tensor([1]))[0], strict=True))
    assert numbers["surprisal"] is None
    assert numbers["log_prob"] is None
    assert numbers["top_tokens"][0] == 0


def test_tokens_that_vllm_hides_are_said_to_be_missing(caplog):
    processor = HartleyProcessor(None, torch.device("cpu"), False)
    output = []
    processor.update_state(BatchUpdate(1, [], [(0, params({"mirostat_tau": 3}), [1], output)], []))
    processor.apply(torch.zeros(1, 8))
    output.append(-1)  # asynchronous scheduling: a placeholder
    processor.update_state(None)
    assert "--no-async-scheduling" in caplog.text


def test_speculative_rows_are_left_alone():
    from types import SimpleNamespace

    processor = HartleyProcessor(None, SimpleNamespace())
    processor.add_request(0, params({"top_k": 1}))
    one = torch.tensor([0]).numpy()
    left = processor.apply(torch.zeros(2, 4), SimpleNamespace(idx_mapping_np=one, seq_lens_upper_bound_np=one))
    assert (left == 0).all()


@pytest.fixture
def open_channel(monkeypatch):
    monkeypatch.setattr(channel, "trouble", "")


@pytest.mark.usefixtures("open_channel")
@pytest.mark.parametrize(
    ("extra", "others", "match"),
    [
        ({"top_h": 1.5}, {}, r"top_h must be in \(0, 1\]; got 1.5"),
        ({"top_h": True}, {}, "top_h must be a number or a word, got True"),
        ({"top_p": "0.9,top_k=3"}, {}, "top_p must be a number"),
        ({"top_k": 10**30}, {}, "."),
        ({"mirostat_tau": math.nan}, {}, "mirostat_tau"),
        ({"mirostat_mu": math.nan}, {}, "mirostat_mu must be a number"),
        ({"hartley": "top_hh=0.4"}, {}, "did you mean 'top_h'"),
        ({"hartley": "top_p=[0.5 0.9]"}, {}, "a value for each row"),
        ({"hartley": 3}, {}, "hartley must be a sampler text"),
        ({"hartley": "top_h=0.4", "top_p": 0.5}, {}, "are both given"),
        ({"entropy": "yes"}, {}, "entropy must be true, false or 'all'"),
        ({"mirostat_tau": 3}, {"top_p": 0.9}, r"vLLM's own top_p=0.9 comes after it"),
        ({"mirostat_tau": 3}, {"temperature": 0.0}, r"vLLM's own temperature=0.0 comes after it"),
        ({"mirostat_eta": 0.2, "top_h": 0.3}, {}, "cannot be chained"),
    ],
)
def test_what_cannot_be_done_is_refused_when_the_request_comes_in(extra, others, match):
    with pytest.raises(ValueError, match=match):
        HartleyProcessor.validate_params(params(extra, **others))


@pytest.mark.usefixtures("open_channel")
def test_what_can_be_done_is_let_in():
    for extra in (None, {}, {"kv_transfer_params": {"a": 1}}, {"entropy": 1}, {"top_h": "0.4"}, {"mirostat": 2}):
        HartleyProcessor.validate_params(params(extra))
    HartleyProcessor.validate_params(params({"top_h": 0.4}, temperature=0.7, top_p=0.9))


def test_numbers_are_refused_where_the_channel_is_not_open():
    with pytest.raises(ValueError, match=r"vllm\.general_plugins is not loaded; ask with entropy=false"):
        HartleyProcessor.validate_params(params({"top_h": 0.4}))
    HartleyProcessor.validate_params(params({"top_h": 0.4, "entropy": False}))


def test_single_arguments_are_chained_in_the_order_of_transformers():
    from hartley.engines.vllm.arguments import arguments

    asked = arguments({"top_p": 0.9, "top_h": 0.4, "temperature": 1.5, "someone": "else"})
    assert str(asked.sampler) == "temperature=1.5,top_h=0.4,top_p=0.9"
