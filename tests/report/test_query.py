"""A run in SQL: what the views say, checked against Python, and what is refused."""

import json
import math
import os
import statistics

import pytest

from hartley.info.plain import plain
from hartley.report.query import VIEWS, opened
from hartley.report.run_folder import RunFolder

WORDS = ("the", " sea", " was", " calm")


def answer(id, count, *, surprisal=1.0, repeat=False, error=None):
    """An answer of ``count`` tokens: entropies fall, surprisals differ by text."""
    tokens = [
        {
            "position": i,
            "token_id": i % 3 if repeat else i,
            "text": WORDS[i % 4],
            "surprisal": surprisal + i / 64,
            "entropy": 4.0 / (1 + i) if repeat else 2.0 + i / 32,
            "varentropy": 0.5,
            "rank": 1 + i,
            "kept": 10,
            "mass": 0.75,
        }
        for i in range(count)
    ]
    text = "".join(token["text"] for token in tokens)
    finish = "error" if error else "length"
    return {"id": id, "prompt": f"prompt {id}", "text": text, "finish_reason": finish, "error": error, "seed": 1,
            "tokens": tokens}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A run of two shards, and files that no finished shard owns."""
    path = tmp_path_factory.mktemp("a 'run'") / "run"
    folder = RunFolder(path)
    with folder.locked():
        folder.begin({"seed": 1}, {})
        folder.write(0, [answer("a", 40), answer("b", 24, repeat=True)])
        folder.write(1, [answer("c", 8, surprisal=5.0), answer("d", 0, error="the prompt is empty")])
        folder.write(2, [answer("e", 3)])
        (path / "texts" / "00000002.parquet").unlink()  # not committed yet
    return path


@pytest.fixture
def ask(path):
    """Rows of an answer, as dicts."""
    with opened(path) as run:

        def rows(sql):
            found = run.ask(sql)
            return [dict(zip(found.columns, row, strict=True)) for row in found]

        yield rows


def test_only_whole_shards_are_seen(ask):
    assert [row["id"] for row in ask("FROM texts")] == ["a", "b", "c", "d"]
    assert {row["id"] for row in ask("SELECT DISTINCT id FROM tokens")} == {"a", "b", "c"}


def test_the_totals_are_those_of_all_tokens(ask):
    (found,) = ask("totals")
    tokens = ask("tokens")
    assert (found["texts"], found["errors"], found["tokens"]) == (4, 1, 72)
    for key in ("entropy", "surprisal", "varentropy", "kept", "mass"):
        assert found[f"mean_{key}"] == pytest.approx(statistics.fmean(token[key] for token in tokens), rel=1e-6)
    size = sum(len(token["text"]) for token in tokens)
    nats = math.fsum(token["surprisal"] for token in tokens)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)


def test_the_most_surprising_tokens_come_with_what_stood_before(ask):
    found = ask("surprising_tokens")
    assert [row["surprisal"] for row in found] == sorted((t["surprisal"] for t in ask("tokens")), reverse=True)
    assert len(found) == 72
    first = next(row for row in found if (row["id"], row["position"]) == ("a", 9))
    assert first["before"] == "".join(WORDS[i % 4] for i in range(1, 9))
    assert next(row for row in found if row["position"] == 0)["before"] is None
    assert [row["entropy"] for row in ask("uncertain_tokens")][:1] == [4.0]


def test_what_collapsed_is_suspected_and_what_did_not_is_not(ask):
    (found,) = ask("collapse_suspects")
    assert found["id"] == "b"
    assert found["first_entropy"] == pytest.approx(statistics.fmean(4 / (1 + i) for i in range(6)))
    assert found["last_entropy"] == pytest.approx(statistics.fmean(4 / (1 + i) for i in range(18, 24)))
    assert found["repeated_3"] == pytest.approx(1 - 3 / 22)
    assert [row["id"] for row in ask("repetition")] == ["b"]


def test_by_position_and_by_bin(ask):
    found = {row["position"]: row for row in ask("entropy_by_position")}
    assert found[0]["texts"] == 3
    assert found[0]["mean_entropy"] == pytest.approx((2 + 4 + 2) / 3)
    assert found[0]["standard_error"] == pytest.approx(statistics.stdev([2, 4, 2]) / 3**0.5)
    assert found[39]["texts"] == 1
    assert sum(row["tokens"] for row in ask("entropy_histogram")) == 72
    assert sum(row["share"] for row in ask("entropy_histogram")) == pytest.approx(1)
    assert {row["mean_kept"] for row in ask("kept_by_position")} == {10}
    ranks = ask("calibration_by_rank")
    assert [row["rank"] for row in ranks] == [*map(str, range(1, 11)), "over 10"]
    assert ranks[0]["tokens"] == 3
    assert ranks[0]["mean_probability"] == pytest.approx((2 * math.exp(-1) + math.exp(-5)) / 3)
    for row in ask("calibration_by_entropy"):
        assert row["difference"] == pytest.approx(row["mean_surprisal"] - row["mean_entropy"])


def test_texts_by_every_order(ask):
    assert [row["id"] for row in ask("longest_texts")] == ["a", "b", "c", "d"]
    assert ask("surprising_texts")[0]["id"] == "c"
    assert ask("uncertain_texts")[-1]["id"] == "b"
    assert ask("errors") == [{"id": "d", "error": "the prompt is empty", "prompt": "prompt d"}]
    assert {row["finish_reason"]: row["texts"] for row in ask("finish_reasons")} == {"length": 3, "error": 1}
    assert ask("frequent_tokens")[0]["drawn"] == 10  # token 0: once in a, 8 times in b, once in c


def test_a_run_without_a_shard_can_be_asked_everything(tmp_path):
    folder = RunFolder(tmp_path / "new")
    with folder.locked():
        folder.begin({}, {})
    with opened(tmp_path / "new") as run:
        for view in VIEWS:
            assert len(list(run.ask(view))) == (1 if view == "totals" else 0)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY texts TO '{run}/texts/evil.parquet'",
        "EXPLAIN ANALYZE COPY texts TO '{run}/texts/evil.parquet'",
        "EXPORT DATABASE '{run}/texts'",
        "CREATE TABLE t AS SELECT 1",
        "ATTACH '{run}/x.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "PRAGMA database_list",
        "SELECT 1; SELECT 2",
        "",
        "DROP VIEW texts",
        "SELECT * FROM read_text('{run}/run.json')",
        "SELECT * FROM read_text('{run}/texts/../run.json')",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')",
        "SELECT * FROM path",
        "SELECT nosuch FROM texts",
        "SELEC 1",
    ],
)
def test_a_run_is_only_read(path, sql):
    before = sorted(path.rglob("*"))
    with opened(path) as run, pytest.raises(ValueError, match=r"sql must be one SELECT|DuckDB: "):
        list(run.ask(sql.format(run=str(path).replace("'", "''"))))
    assert sorted(path.rglob("*")) == before


def test_an_error_while_rows_are_fetched_is_one_too(path):
    with opened(path) as run, pytest.raises(ValueError, match="DuckDB: "):
        list(run.ask("SELECT CASE WHEN i > 5000 THEN error('late') ELSE i END FROM range(10000) r(i)"))


def test_a_link_to_a_run_is_the_run(path, tmp_path):
    os.symlink(path, tmp_path / "link")
    with opened(tmp_path / "link") as run:
        assert len(list(run.ask("texts"))) == 4


@pytest.mark.parametrize(
    ("record", "message"),
    [(None, "no run.json"), ('{"format": 7}', "format 7; this version of hartley reads 1"), ("[", "is damaged")],
)
def test_what_is_no_run_is_refused(tmp_path, record, message):
    if record is not None:
        (tmp_path / "run.json").write_text(record)
    with pytest.raises(ValueError, match=message), opened(tmp_path):
        pass


def test_any_value_has_a_place_in_json(ask):
    (row,) = ask("SELECT [1, NULL] AS a, {'b': DATE '2020-01-02'} AS s, 'nan'::DOUBLE AS n, 1.5::DECIMAL(4, 1) AS d")
    found = json.loads(json.dumps({key: plain(value) for key, value in row.items()}, allow_nan=False))
    assert found == {"a": [1, None], "s": {"b": "2020-01-02"}, "n": None, "d": "1.5"}
