"""Questions to a batch run in SQL: DuckDB over its Parquet files, with views for what is asked most."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hartley.report.run_folder import TEXTS, TOKENS, settings_of

PAGE = 1000  # rows taken from DuckDB at once


class View(NamedTuple):
    """A question with a name."""

    about: str
    sql: str


VIEWS = {
    "totals": View(
        "the whole run in one row; nats, nats^2 and bits for each byte",
        """
        SELECT count(*) AS texts, count(error) AS errors, sum(n_tokens) AS tokens, sum(n_bytes) AS bytes,
          sum(mean_entropy * n_tokens) / sum(n_tokens) AS mean_entropy,
          sum(mean_surprisal * n_tokens) / sum(n_tokens) AS mean_surprisal,
          sum(mean_varentropy * n_tokens) / sum(n_tokens) AS mean_varentropy,
          sum(mean_surprisal * n_tokens) / ln(2) / sum(n_bytes) AS bits_per_byte,
          sum(mean_kept * n_tokens) / sum(n_tokens) AS mean_kept,
          sum(mean_mass * n_tokens) / sum(n_tokens) AS mean_mass, avg(repeated_3) AS mean_repeated_3
        FROM texts""",
    ),
    "surprising_tokens": View(
        "the 100 tokens of highest surprisal, with the text before each",
        """
        WITH top AS (SELECT id, position, text, surprisal, entropy, rank FROM tokens ORDER BY surprisal DESC LIMIT 100)
        SELECT top.id, top.position, string_agg(b.text, '' ORDER BY b.position) AS before, top.text, top.surprisal,
          top.entropy, top.rank
        FROM top LEFT JOIN tokens b ON b.id = top.id AND b.position BETWEEN top.position - 8 AND top.position - 1
        GROUP BY ALL ORDER BY top.surprisal DESC""",
    ),
    "uncertain_tokens": View(
        "the 100 places of highest entropy, with the text before each and what was drawn",
        """
        WITH top AS (SELECT id, position, text, surprisal, entropy, rank FROM tokens ORDER BY entropy DESC LIMIT 100)
        SELECT top.id, top.position, string_agg(b.text, '' ORDER BY b.position) AS before, top.text, top.entropy,
          top.surprisal, top.rank
        FROM top LEFT JOIN tokens b ON b.id = top.id AND b.position BETWEEN top.position - 8 AND top.position - 1
        GROUP BY ALL ORDER BY top.entropy DESC""",
    ),
    "frequent_tokens": View(
        "how often each token was drawn, and how surprising it was",
        """
        SELECT token_id, any_value(text) AS text, count(*) AS drawn, avg(surprisal) AS mean_surprisal,
          avg(entropy) AS mean_entropy
        FROM tokens GROUP BY token_id ORDER BY drawn DESC, token_id""",
    ),
    "uncertain_texts": View(
        "texts by mean entropy, the highest first",
        """
        SELECT id, n_tokens, mean_entropy, mean_surprisal, bits_per_byte, prompt, text
        FROM texts WHERE n_tokens > 0 ORDER BY mean_entropy DESC""",
    ),
    "surprising_texts": View(
        "texts by mean surprisal, the highest first",
        """
        SELECT id, n_tokens, mean_surprisal, mean_entropy, bits_per_byte, prompt, text
        FROM texts WHERE n_tokens > 0 ORDER BY mean_surprisal DESC""",
    ),
    "longest_texts": View(
        "texts by number of tokens, the longest first",
        """
        SELECT id, n_tokens, n_bytes, finish_reason, mean_entropy, prompt, text
        FROM texts ORDER BY n_tokens DESC, id""",
    ),
    "repetition": View(
        "texts by the share of their 3-grams of tokens that stood in them before",
        """
        SELECT id, repeated_3, n_tokens, mean_entropy, prompt, text
        FROM texts WHERE repeated_3 > 0 ORDER BY repeated_3 DESC, id""",
    ),
    "collapse_suspects": View(
        "texts whose last quarter has under a fourth of the first one's entropy, or half of whose 3-grams repeat",
        """
        WITH quarters AS (
          SELECT k.id, avg(k.entropy) FILTER (k.position < t.n_tokens / 4) AS first_entropy,
            avg(k.entropy) FILTER (k.position >= t.n_tokens * 3 / 4) AS last_entropy
          FROM tokens k JOIN texts t USING (id) WHERE t.n_tokens >= 16 GROUP BY k.id)
        SELECT id, n_tokens, first_entropy, last_entropy, repeated_3, finish_reason, prompt, text
        FROM quarters JOIN texts USING (id)
        WHERE last_entropy < first_entropy / 4 OR repeated_3 > 0.5
        ORDER BY repeated_3 DESC, last_entropy / nullif(first_entropy, 0)""",
    ),
    "entropy_by_position": View(
        "mean entropy and surprisal at each position, with the entropy's standard error over texts",
        """
        SELECT position, count(*) AS texts, avg(entropy) AS mean_entropy,
          stddev_samp(entropy) / sqrt(count(*)) AS standard_error, avg(surprisal) AS mean_surprisal
        FROM tokens GROUP BY position ORDER BY position""",
    ),
    "kept_by_position": View(
        "how many tokens the sampler kept at each position, and their mass",
        """
        SELECT position, count(*) AS texts, avg(kept) AS mean_kept, median(kept) AS median_kept, avg(mass) AS mean_mass
        FROM tokens GROUP BY position ORDER BY position""",
    ),
    "entropy_histogram": View(
        "tokens by entropy, in bins of half a nat",
        """
        SELECT floor(entropy * 2) / 2 AS entropy_from, count(*) AS tokens, count(*) / sum(count(*)) OVER () AS share
        FROM tokens WHERE entropy IS NOT NULL GROUP BY ALL ORDER BY ALL""",
    ),
    "calibration_by_rank": View(
        "how often the model's 1st, 2nd, ... choice was drawn, and the probability the model gave it there",
        """
        SELECT CASE WHEN rank <= 10 THEN rank::VARCHAR ELSE 'over ' || (10 ** floor(log10(rank - 1)))::INT END AS rank,
          count(*) AS tokens, count(*) / sum(count(*)) OVER () AS share, avg(exp(-surprisal)) AS mean_probability,
          avg(entropy) AS mean_entropy
        FROM tokens WHERE rank IS NOT NULL GROUP BY 1 ORDER BY min(tokens.rank)""",
    ),
    "calibration_by_entropy": View(
        "surprisal less entropy by entropy, in bins of half a nat: 0 for plain draws, less where a sampler cuts",
        """
        SELECT floor(entropy * 2) / 2 AS entropy_from, count(*) AS tokens, avg(entropy) AS mean_entropy,
          avg(surprisal) AS mean_surprisal, avg(surprisal - entropy) AS difference,
          stddev_samp(surprisal - entropy) / sqrt(count(*)) AS standard_error
        FROM tokens WHERE entropy IS NOT NULL AND surprisal IS NOT NULL GROUP BY 1 ORDER BY 1""",
    ),
    "finish_reasons": View(
        "how texts ended",
        """
        SELECT finish_reason, count(*) AS texts, avg(n_tokens) AS mean_tokens, avg(mean_entropy) AS mean_entropy
        FROM texts GROUP BY finish_reason ORDER BY texts DESC""",
    ),
    "strategies": View(
        "an adaptive run by strategy: texts, tokens and entropy",
        """
        SELECT strategy, count(*) AS texts, sum(n_tokens) AS tokens, avg(n_tokens) AS mean_tokens,
          avg(mean_entropy) AS mean_entropy
        FROM texts WHERE strategy IS NOT NULL GROUP BY strategy ORDER BY strategy""",
    ),
    "errors": View(
        "prompts that could not be answered, and why",
        "SELECT id, error, prompt FROM texts WHERE error IS NOT NULL ORDER BY id",
    ),
}


class Result:
    """The rows of an answer, as they are fetched."""

    def __init__(self, cursor: Any) -> None:
        self.cursor = cursor
        self.columns: list[str] = [column[0] for column in cursor.description]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        import duckdb

        try:
            while rows := self.cursor.fetchmany(PAGE):
                yield from rows
        except duckdb.Error as error:
            raise ValueError(f"DuckDB: {error}") from error


class Run:
    """A run that is open for questions."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def ask(self, sql: str) -> Result:
        """The rows of a SELECT, or of one of the ``VIEWS`` by its name.

        Raises ``ValueError`` for anything else than one SELECT, and for what DuckDB refuses.
        """
        import duckdb

        text = f"FROM {sql.strip()}" if sql.strip() in (*VIEWS, "texts", "tokens") else sql
        try:
            statements = self.connection.extract_statements(text)
            if [one.type for one in statements] != [duckdb.StatementType.SELECT]:
                raise ValueError(f"sql must be one SELECT (a run is only read), got {sql!r}")
            return Result(self.connection.execute(statements[0]))
        except duckdb.Error as error:
            raise ValueError(f"DuckDB: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[Run]:
    """Open the run at ``path`` in a DuckDB that can read its files and nothing else, and write nothing.

    Only whole shards are seen, so a run can be asked while it is being made. Raises ``ValueError`` for a folder that
    is no run, or one of another format.
    """
    import duckdb

    settings_of(path)
    texts, tokens = path.absolute() / "texts", path.absolute() / "tokens"
    names = sorted({file.name for file in texts.glob("*.parquet")} & {file.name for file in tokens.glob("*.parquet")})
    with tempfile.TemporaryDirectory(prefix="hartley-query-") as scratch, duckdb.connect(":memory:") as connection:
        for name, value in (
            ("autoinstall_known_extensions", "false"),
            ("autoload_known_extensions", "false"),
            ("python_enable_replacements", "false"),
            ("temp_directory", _quoted(scratch)),
            ("allowed_directories", _list([f"{texts}/", f"{tokens}/"])),
        ):
            connection.execute(f"SET {name} = {value}")
        for folder, schema in ((texts, TEXTS), (tokens, TOKENS)):
            rows = f"read_parquet({_list([str(folder / name) for name in names])})" if names else _none(schema)
            connection.execute(f"CREATE VIEW {folder.name} AS SELECT * FROM {rows}")
        for name, view in VIEWS.items():
            connection.execute(f"CREATE VIEW {name} AS {view.sql}")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield Run(connection)


def _none(schema: Any) -> str:
    """A table of no rows, for a run of no whole shard."""
    kinds = {"string": "VARCHAR", "double": "DOUBLE", "float": "FLOAT", "int32": "INTEGER", "int64": "BIGINT"}
    return f"(SELECT {', '.join(f'NULL::{kinds[str(field.type)]} AS {field.name}' for field in schema)} WHERE false)"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _list(texts: list[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"
