"""Prompts read from every kind of file, and what is refused."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from hartley.engines.batch.prompts import LONGEST, Prompt, Shards, read, survey

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=20)
ROWS = st.lists(st.tuples(TEXT.filter(bool), TEXT.filter(bool)), min_size=1, max_size=12)


def as_csv(rows, names=("id", "prompt", "other")):
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([names, *[(*row, "7") for row in rows]])
    return file.getvalue().encode()


@given(ROWS)
def test_every_kind_of_file_gives_the_same_prompts(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("prompts")
    lines = "".join(json.dumps({"other": 1, "prompt": text, "id": id}) + "\n\n" for id, text in rows).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "a.ndjson").write_bytes(b"\xef\xbb\xbf" + lines)
    (folder / "a.CSV").write_bytes(as_csv(rows))
    ids, texts = zip(*rows, strict=True)
    parquet.write_table(pa.table({"prompt": texts, "x": range(len(rows)), "id": ids}), folder / "a.parquet")
    packed = pa.table({"prompt": pa.array(texts).dictionary_encode(), "id": pa.array(ids, pa.large_string())})
    parquet.write_table(packed, folder / "b.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.ndjson", "a.CSV", "a.parquet", "b.parquet"):
        assert list(read(str(folder / name))) == [Prompt(*row) for row in rows]


def test_without_ids_a_prompt_goes_by_its_place_and_integers_by_their_digits(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,n\n007,1\n,2\n")
    assert list(read(str(tmp_path / "a.csv"))) == [Prompt("0", "007"), Prompt("1", "")]
    parquet.write_table(pa.table({"id": [10, 11], "prompt": ["a", None]}), tmp_path / "a.parquet")
    assert list(read(str(tmp_path / "a.parquet"))) == [Prompt("10", "a"), Prompt("11", None)]
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "id": 10}\n{"prompt": null, "id": 11}')
    assert survey(str(tmp_path / "a.jsonl")) == survey(str(tmp_path / "a.parquet"))


def test_a_url_is_as_good_as_a_path(tmp_path):
    import fsspec

    with fsspec.open("memory://prompts/a.jsonl", "wb") as file:
        file.write(b'{"prompt": "hello"}\n')
    assert list(read("memory://prompts/a.jsonl")) == [Prompt("0", "hello")]
    parquet.write_table(pa.table({"prompt": ["hello"]}), tmp_path / "a.parquet")
    assert list(read((tmp_path / "a.parquet").as_uri())) == [Prompt("0", "hello")]


@given(st.integers(1, 30), st.integers(1, 8), st.lists(st.integers(0, 7), max_size=6))
def test_shards_cut_the_file_by_place_in_any_order(tmp_path_factory, rows, size, asked):
    path = tmp_path_factory.mktemp("shards") / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": str(row)}) + "\n" for row in range(rows)))
    shards = Shards(str(path), size)
    for shard in asked:
        assert [prompt.text for prompt in shards.take(shard)] == list(map(str, range(rows)))[shard * size :][:size]


@given(ROWS, ROWS)
def test_the_survey_tells_files_apart(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("survey")
    found = []
    for name, rows in (("a.jsonl", first), ("b.jsonl", second)):
        unique = list(dict(rows).items())
        (folder / name).write_text("".join(json.dumps({"id": id, "prompt": text}) + "\n" for id, text in unique))
        found.append((survey(str(folder / name)), unique))
        assert found[-1][0].rows == len(unique)
    assert (found[0][0] == found[1][0]) == (found[0][1] == found[1][1])


@pytest.mark.parametrize("ids", [["a", "b", "a"], ["0", "0"], ["0", "1", "2", "0"], ["x", "1", "x"]])
def test_an_id_that_comes_twice_is_named(tmp_path, ids):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": id, "prompt": "p"}) + "\n" for id in ids))
    with pytest.raises(ValueError, match=f"the id '{ids[-1]}' comes twice"):
        survey(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"hello", "ends in .parquet, .jsonl"),
        ("a.parquet.gz", b"", "ends in .parquet, .jsonl"),
        ("a.jsonl", b"", "holds no prompt"),
        ("a.jsonl", b"\n \n", "holds no prompt"),
        ("a.csv", b"", "holds no prompt"),
        ("a.csv", b"id,prompt\n", "holds no prompt"),
        ("a.parquet", b"", "a.parquet: "),
        ("a.parquet", b"PAR1 but not for long PAR1", "a.parquet: "),
        ("a.jsonl", b'{"text": "a", "id": 1}\n', "no column 'prompt'; its columns are 'text', 'id'"),
        ("a.csv", b"text,id\na,1\n", "no column 'prompt'; its columns are 'text', 'id'"),
        ("a.csv", b"prompt,prompt\na,1\n", "2 columns 'prompt'"),
        ("a.csv", b"id,prompt\n1,a,b\n", "Expected 2 columns, got 3"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "line 2 is not UTF-8"),
        ("a.csv", b"prompt\na\n\xff\xfe\n", "UTF8|UTF-8"),
        ("a.csv", "prompt\na\n".encode("utf-16"), "UTF8|UTF-8|no column"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "line 2 is not JSON"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1 is not JSON"),
        ("a.jsonl", b'"a"\n', "line 1 must be a JSON object, got str"),
        ("a.jsonl", b'{"prompt": 3}\n', "prompt must be text, got int"),
        ("a.jsonl", b'{"prompt": "a", "id": 1.5}\n', "id must be text or an integer, got 1.5"),
        ("a.jsonl", b'{"prompt": "a", "id": true}\n', "id must be text or an integer, got True"),
        ("a.jsonl", b'{"prompt": "a", "id": 1}\n{"prompt": "a"}\n', "line 2 has the columns 'prompt'"),
        ("a.jsonl", b'{"prompt": "\\ud800"}\n', "line 1 has no form in UTF-8"),
        ("a.jsonl", b'{"prompt": "' + b"a" * LONGEST + b'"}\n', "longer than"),
    ],
)
def test_bad_files_are_named_and_placed(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        survey(str(tmp_path / name))


def test_a_parquet_file_needs_text(tmp_path):
    parquet.write_table(pa.table({"text": ["a"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column 'prompt'; its columns are 'text', 'id'"):
        survey(str(tmp_path / "a.parquet"))
    parquet.write_table(pa.table({"prompt": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="prompt must be text, got int"):
        survey(str(tmp_path / "a.parquet"))


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        survey(str(tmp_path / "a.jsonl"))
