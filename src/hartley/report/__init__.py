"""What a run looks like: its totals, its page, its lines on a terminal; all from plain token dicts, whoever made them.

A token dict is a line of ``hartley generate --json``. ``text`` and ``surprisal`` (nats) are needed; ``token_id``,
``piece`` (the token by itself), ``entropy`` (nats), ``varentropy`` (nats^2), ``rank``, ``kept`` (tokens), ``mass`` and
``top`` (dicts of ``text`` and ``log_prob``) may be missing or None where a provider does not tell them, and are left
out of the report then.
"""

from hartley.report.compare_page import compare_page
from hartley.report.files import check_writable, write_atomic
from hartley.report.summary import bits_per_byte, distinct_n, mean_and_error, repeated_ngrams, totals
from hartley.report.tokens_page import tokens_page

__all__ = [
    "bits_per_byte",
    "check_writable",
    "compare_page",
    "distinct_n",
    "mean_and_error",
    "repeated_ngrams",
    "tokens_page",
    "totals",
    "write_atomic",
]
