"""What can be asked and what is answered: every number has bounds, and a field that is not here is refused.

What a schema cannot say (two ways of giving one thing, a prompt longer than the context) is refused later, with status
400 instead of 422.
"""

from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # pydantic reads them from here before Python 3.12
)

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, create_model, with_config
from typing_extensions import TypedDict

LONGEST = 1 << 20  # characters of a text, and bytes of a body
PROMPTS, CHOICES = 8, 8  # of one request
LARGEST_SEED = 2**53 - 1  # what a browser can count to


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
TokenId = Annotated[int, Field(ge=0, lt=2**31), WHOLE]
Text = Annotated[str, Field(min_length=1, max_length=LONGEST)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=LONGEST // 2)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
SamplerText = Annotated[str, Field(max_length=1000)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)]
TokenIdLists = Annotated[list[TokenIds], Field(min_length=1, max_length=PROMPTS)]
Stops = Annotated[list[Stop], Field(max_length=4)]
Words = Annotated[str, Field(max_length=LONGEST)]
Count = Annotated[int, Field(ge=1, le=1_000_000), WHOLE]
Few = Annotated[int, Field(ge=0, le=20), WHOLE]  # alternatives of a token
Share = Annotated[float, Field(gt=0, le=1)]
Nothing = Annotated[float, Field(ge=0, le=0)]


def _branch(value: Any) -> str:
    """Which branch of a union a value is meant for, so that what is said to be wrong with it is said of that one."""
    return "<list>" if isinstance(value, list) else "<text>"


def _prompt_branch(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else None
    return "<lists>" if isinstance(first, list) else "<texts>" if isinstance(first, str) else _branch(value)


TextOrIds = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[TokenIds, Tag("<list>")],
    Discriminator(_branch),
    Field(description="As text, or as token ids."),
]
Prompts = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[TokenIds, Tag("<list>")]
    | Annotated[Texts, Tag("<texts>")]
    | Annotated[TokenIdLists, Tag("<lists>")],
    Discriminator(_prompt_branch),
]
StopOrStops = Annotated[Annotated[Stop, Tag("<text>")] | Annotated[Stops, Tag("<list>")], Discriminator(_branch)]


class Asked(BaseModel):
    """Of a request: types are not converted, NaN and infinities are no numbers, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Settings(Asked):
    """How to draw: one text with samplers in the order they are applied, or single settings, in a fixed order."""

    sampler: SamplerText | None = Field(None, description="For example `temperature=1.5,top_h=0.4`; not beside others.")
    temperature: float | None = Field(None, ge=0, le=100, description="Divides the logits; 0 takes the likeliest.")
    top_h: Share | None = Field(None, description="Keep up to this share of the entropy.")
    top_k: Count | None = Field(None, description="Keep so many tokens.")
    top_p: Share | None = Field(None, description="Keep the likeliest tokens up to this mass.")
    min_p: Share | None = Field(None, description="Keep what has this share of the likeliest one's probability.")
    typical_p: Share | None = Field(None, description="Keep this mass of tokens whose surprisal is near the entropy.")
    epsilon_cutoff: Share | None = Field(None, description="Keep tokens of at least this probability.")
    eta_cutoff: Share | None = Field(None, description="The same, lower where the entropy is high.")
    top_n_sigma: float | None = Field(None, gt=0, le=1000, description="Keep logits within so many deviations.")
    entropy_top_k: Count | None = Field(None, description="Keep more tokens the higher the entropy.")
    mirostat: Annotated[Literal[1, 2], WHOLE] | None = Field(
        None, description="Version: hold the surprisal at a target."
    )
    mirostat_tau: float | None = Field(None, gt=0, le=100, description="Its target, in bits a token; 5 unless given.")
    mirostat_eta: float | None = Field(None, gt=0, le=100, description="Its step; 0.1 unless given.")


class StreamOptions(Asked):
    """Of a stream."""

    include_usage: bool = False


class Generation(Settings):
    """What both ways of generating take."""

    model: Name | None = Field(None, description="The served one, if not given.")
    n: Annotated[int, Field(ge=1, le=CHOICES), WHOLE] | None = Field(
        1, description="Choices for each prompt; choice i is drawn with `seed + i`."
    )
    stop: StopOrStops | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED), WHOLE] | None = Field(
        None, description="Drawn, and told in the answer, if not given."
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    entropy: bool = Field(False, description="Each choice has `hartley`: columns with an entry for each token.")
    return_token_ids: bool = Field(False, description="Each choice has `prompt_token_ids` and `token_ids`.")
    frequency_penalty: Nothing | None = Field(None, description="Only 0: there is none.")
    presence_penalty: Nothing | None = Field(None, description="Only 0: there is none.")
    user: Name | None = Field(None, description="Not used.")


class CompletionRequest(Generation):
    """``/v1/completions``."""

    prompt: Prompts
    logprobs: Few | None = Field(None, description="So many alternatives for each token, at temperature 1.")
    echo: Literal[False] | None = False


class TextPart(Asked):
    """A part of a message."""

    type: Literal["text"]
    text: Words


class Message(Asked):
    """A turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[
        Annotated[Words, Tag("<text>")] | Annotated[list[TextPart], Field(min_length=1, max_length=256), Tag("<list>")],
        Discriminator(_branch),
    ]


class ChatRequest(Generation):
    """``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=256)
    logprobs: bool | None = False
    top_logprobs: Few | None = Field(None, description="Alternatives for each token; needs `logprobs`.")


class ScoreRequest(Asked):
    """``/v1/score``."""

    model: Name | None = None
    text: TextOrIds
    top: Few = Field(0, description="So many alternatives for each token.")


class DetectRequest(Asked):
    """``/v1/detect``."""

    model: Name | None = None
    text: TextOrIds
    prompt: TextOrIds | None = Field(None, description="What the text answers or goes on from; not judged.")
    sampler: SamplerText | None = Field(None, description="How the text is supposed to have been drawn.")
    level: float = Field(0.05, gt=0, lt=1, description="Largest chance of rejecting wrongly.")


def bounded(max_tokens: int) -> tuple[type[CompletionRequest], type[ChatRequest]]:
    """Both requests, with the most tokens that may be asked for."""
    most: Any = Annotated[int, Field(ge=1, le=max_tokens), WHOLE]
    none: Any = most | None
    return (
        create_model("CompletionRequest", __base__=CompletionRequest, max_tokens=(none, Field(min(16, max_tokens)))),
        create_model(
            "ChatRequest",
            __base__=ChatRequest,
            max_tokens=(none, None),
            max_completion_tokens=(none, Field(None, description="OpenAI's new name of `max_tokens`.")),
        ),
    )


Finish = Literal["stop", "length"]
Number = float | None  #: null where it is not finite
closed = with_config(ConfigDict(extra="forbid"))


@closed
class Alternative(TypedDict):
    """One of the likeliest tokens, by the model's own distribution at temperature 1."""

    token_id: int
    text: str
    log_prob: Number


@closed
class Columns(TypedDict):
    """One entry for each token of a choice or chunk; nats, varentropies nats^2.

    Surprisal, entropy, varentropy and rank are of the model's own distribution at temperature 1.
    """

    token_ids: list[int]
    texts: list[str]
    surprisal: list[Number]
    entropy: list[Number]
    varentropy: list[Number]
    rank: list[int | None]
    kept: list[int | None]
    mass: list[Number]
    drawn_entropy: list[Number]
    drawn_varentropy: list[Number]
    top: list[list[Alternative]]


@closed
class Usage(TypedDict):
    """Tokens; one that ends the text is counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@closed
class CompletionLogprobs(TypedDict):
    """OpenAI's form for completions; a column each."""

    tokens: list[str]
    token_logprobs: list[Number]
    top_logprobs: list[dict[str, Number]] | None
    text_offset: list[int]


@closed
class ChatLogprob(TypedDict):
    """A token and its log-probability."""

    token: str
    logprob: Number
    bytes: list[int] | None


@closed
class ChatTokenLogprob(ChatLogprob):
    """A drawn token beside the likeliest ones."""

    top_logprobs: list[ChatLogprob]


@closed
class ChatLogprobs(TypedDict):
    """OpenAI's form for chats."""

    content: list[ChatTokenLogprob]


@closed
class CompletionChoice(TypedDict):
    """A text, or the next part of one; ``finish_reason`` is null while it goes on."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None
    hartley: NotRequired[Columns]
    prompt_token_ids: NotRequired[list[int]]
    token_ids: NotRequired[list[int]]


@closed
class ChatMessage(TypedDict):
    """The answer."""

    role: Literal["assistant"]
    content: str


@closed
class ChatChoice(TypedDict):
    """A whole answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish
    hartley: NotRequired[Columns]
    prompt_token_ids: NotRequired[list[int]]
    token_ids: NotRequired[list[int]]


@closed
class Delta(TypedDict):
    """The next part of an answer; the first one says whose it is."""

    role: NotRequired[Literal["assistant"]]
    content: str


@closed
class ChatPiece(TypedDict):
    """A part of an answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None
    hartley: NotRequired[Columns]
    prompt_token_ids: NotRequired[list[int]]
    token_ids: NotRequired[list[int]]


@closed
class Head(TypedDict):
    """What every answer starts with."""

    id: str
    created: int
    model: str
    seed: int
    sampler: str


@closed
class Completion(Head):
    """The answer of ``/v1/completions``."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage


@closed
class CompletionChunk(Head):
    """An event of a stream; ``usage`` stands in the last one if it was asked for, which has no choices."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]


@closed
class Chat(Head):
    """The answer of ``/v1/chat/completions``."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


@closed
class ChatChunk(Head):
    """An event of a stream; see :class:`CompletionChunk`."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatPiece]
    usage: NotRequired[Usage | None]


@closed
class ScoreColumns(TypedDict):
    """One entry for each token of a text, the first of which has no prediction; as :class:`Columns`."""

    token_ids: list[int]
    texts: list[str]
    surprisal: list[Number]
    entropy: list[Number]
    varentropy: list[Number]
    rank: list[int | None]
    top: list[list[Alternative]]


@closed
class Totals(TypedDict):
    """Means over the tokens that have a prediction (nats, varentropy nats^2); bytes are of the text after the first."""

    tokens: int
    bytes: int
    mean_surprisal: Number
    mean_entropy: Number
    mean_varentropy: Number
    bits_per_byte: Number
    bits_per_byte_entropy: Number


@closed
class Score(TypedDict):
    """The answer of ``/v1/score``."""

    model: str
    tokens: ScoreColumns
    totals: Totals


@closed
class Verdict(TypedDict):
    """The answer of ``/v1/detect``; see :class:`hartley.detection.Detection`."""

    model: str
    engine: str
    dtype: str | None
    sampler: str
    prompt: str | list[int] | None
    decision: Literal["rejected", "not rejected", "undecidable"]
    reason: str
    meaning: str
    statistic: Number
    log_perplexity: Number
    mean_entropy: Number
    n_tokens: int
    total_variance: Number
    impossible: int
    sufficient: Number
    log_e_value: Number
    e_value: Number
    z_score: Number
    p_value: Number
    p_values: dict[str, Number]
    method: Literal["evalue", "calibrated", "zscore"]
    alternative: Literal["two-sided", "greater", "less"]
    alpha: float


@closed
class About(TypedDict):
    """Of the served model.

    ``ends`` are the tokens that end a text, null where that is not known. ``samplers`` has the single settings of each
    sampler as JSON schemas, bounds included.
    """

    engine: str
    dtype: str | None
    vocab_size: int | None
    context_length: int | None
    max_tokens: int
    chat: bool
    score: bool
    ends: list[int] | None
    samplers: dict[str, dict[str, dict[str, Any]]]


@closed
class Model(TypedDict):
    """A model, as OpenAI lists one."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    hartley: About


@closed
class Models(TypedDict):
    """The list of models, which has one."""

    object: Literal["list"]
    data: list[Model]


@closed
class Fault(TypedDict):
    """What was wrong; ``param`` is the field, where it was one."""

    message: str
    type: str
    param: str | None
    code: str | None


@closed
class Faulty(TypedDict):
    """Every answer but 200."""

    error: Fault


@closed
class Status(TypedDict):
    """Whether the server is alive, or ready."""

    status: str


def samplers() -> dict[str, dict[str, dict[str, Any]]]:
    """The single settings by sampler, each with its type, bounds and description.

    >>> samplers()["top_h"]["top_h"]["maximum"], list(samplers()["mirostat"])
    (1, ['mirostat', 'mirostat_tau', 'mirostat_eta'])
    """
    from hartley.decoding.text import known_settings

    known = known_settings()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for key, schema in Settings.model_json_schema()["properties"].items():
        if key in known:
            bounds = {name: value for name, value in schema["anyOf"][0].items() if name != "title"}
            found.setdefault(known[key][0], {})[key] = bounds | {"description": schema["description"]}
    return found
