"""Hartley's own runs: the lines of ``hartley generate --json``, and the folder that ``hartley batch`` writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hartley.report.readers.numbers import at_least, items, log_prob, mapping, own_numbers, string, whole
from hartley.report.readers.reading import Reading, Text
from hartley.report.run_folder import settings_of

TEXTS = ("id", "prompt", "text", "finish_reason", "n_tokens")
TOKENS = ("id", "position", "token_id", "surprisal", "entropy", "varentropy", "rank", "kept", "mass")
SPELLED = ("text",)  # of the tokens, where the run has it


def is_line(found: Any) -> bool:
    """Whether an object is a line of ``hartley generate --json``: a token, or the totals."""
    return isinstance(found, dict) and (
        ("surprisal" in found and "text" in found) or ("mean_surprisal" in found and "tokens" in found)
    )


def read_lines(source: str, found: Sequence[dict[str, Any]]) -> Reading:
    """Read the lines of ``hartley generate --json``, or of ``hartley report --json`` of one file."""
    texts: dict[tuple[str, bool], Text] = {}
    model: str | None = None
    for number, one in enumerate(found, 1):
        where = f"{source}, line {number}"
        if "mean_surprisal" in one:
            model = one["model"] if isinstance(one.get("model"), str) else model
            continue
        name, is_prompt = one.get("name") or "text", one.get("part") == "prompt"
        name = string(name, where, "name")
        texts.setdefault((name, is_prompt), Text(name, [], is_prompt=is_prompt)).tokens.append(_token(one, where))
    if not texts:
        raise ValueError(f"{source} has no tokens, only totals; give the whole output of hartley generate --json")
    for text in texts.values():
        text.known.extend([None] * len(text.tokens))
    return Reading(source, "hartley --json", list(texts.values()), model)


def _token(one: dict[str, Any], where: str) -> dict[str, Any]:
    token = {
        "position": whole(one.get("position"), 0, where, "position"),
        "token_id": whole(one.get("token_id"), 0, where, "token_id"),
        "text": string(one["text"], where, "text"),
        "piece": string(one["piece"], where, "piece") if one.get("piece") is not None else None,
        "surprisal": at_least(one["surprisal"], 0.0, where, "surprisal"),
        **own_numbers(one, where),
        "top": [_alternative(other, where) for other in items(one.get("top") or [], where, "top")],
    }
    low = at_least(one.get("entropy_low"), 0.0, where, "entropy_low")
    if low is not None:
        token["entropy_low"] = low
        token["entropy_high"] = at_least(one.get("entropy_high"), low, where, "entropy_high")
    return token


def _alternative(other: Any, where: str) -> dict[str, Any]:
    other = mapping(other, where, "an alternative")
    return {
        "token_id": whole(other.get("token_id"), 0, where, "token_id"),
        "text": string(other.get("text"), where, "text"),
        "log_prob": log_prob(other.get("log_prob"), where),
    }


def is_run(path: Path) -> bool:
    """Whether a folder is what ``hartley batch`` writes."""
    return (path / "texts").is_dir() and (path / "tokens").is_dir()


def read_run(path: Path) -> Reading:
    """Read the folder of ``hartley batch``; where it has no text of the tokens, they show as their ids."""
    if (path / "run.json").exists():
        settings_of(path)  # refuses the folder of another version
    texts = {}
    for row in _rows(path, "texts", TEXTS):
        if row["id"] in texts:
            raise ValueError(f"{path / 'texts'} holds id {row['id']!r} twice")
        texts[row["id"]] = row
    tokens: dict[Any, list[dict[str, Any]]] = {id: [] for id in texts}
    dangling = 0
    for row in _rows(path, "tokens", TOKENS, SPELLED):
        if row["id"] in tokens:
            tokens[row["id"]].append(row)
        else:
            dangling += 1
    if not texts:
        raise ValueError(f"{path} holds no finished text yet")
    made: list[Text] = []
    unequal = failed = 0
    for id, row in texts.items():
        lines = sorted(tokens[id], key=lambda one: one["position"])
        failed += row["finish_reason"] == "error"
        unequal += len(lines) != (row["n_tokens"] or 0)
        made.append(_run_text(f"{path}: id {id}", str(id), row, lines))
    if not any(text.tokens for text in made):
        raise ValueError(f"{path} holds texts but no tokens")
    notes: list[str] = []
    if failed:
        notes.append(f"{failed:,} of {len(made):,} prompts failed; hartley query shows why")
    if dangling:
        notes.append(f"{dangling:,} tokens of texts that are not finished are left out")
    if unequal:
        notes.append(f"{unequal:,} texts have another number of tokens than they state")
    return Reading(str(path), "hartley batch run", made, None, notes)


def _run_text(where: str, name: str, row: dict[str, Any], lines: list[dict[str, Any]]) -> Text:
    made: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        place = f"{where}, token {number}"
        id = whole(line["token_id"], 0, place, "token_id")
        made.append(
            {
                "position": line["position"],
                "token_id": id,
                "text": f"⟨{id}⟩" if line.get("text") is None else line["text"],
                "piece": line.get("text") or f"⟨{id}⟩",
                "surprisal": at_least(line["surprisal"], 0.0, place, "surprisal"),
                **own_numbers(line, place),
                "top": [],
            }
        )
    spelled = all(line.get("text") is not None for line in lines)
    return Text(
        name,
        made,
        row["prompt"],
        None if spelled else row["text"] or "",
        row["finish_reason"],
        known=[None] * len(made),
    )


def _rows(path: Path, folder: str, columns: Sequence[str], others: Sequence[str] = ()) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for file in sorted((path / folder).glob("[!.]*.parquet")):
        try:
            names = pq.read_schema(file).names
            missing = [name for name in columns if name not in names]
            if missing:
                raise ValueError(
                    f"{file} has no column {', '.join(missing)}; it may be of another version of hartley batch"
                )
            rows += pq.read_table(file, columns=[*columns, *(one for one in others if one in names)]).to_pylist()
        except pa.ArrowException as error:
            raise ValueError(f"{file} is not a Parquet file that can be read: {error}") from error
    return rows
