"""What a run looks like: its totals, its page, its lines on a terminal; all from plain token dicts, whoever made them.

A token dict is a line of ``hartley generate --json``. ``text`` and ``surprisal`` (nats) are needed; ``token_id``,
``piece`` (the token by itself), ``entropy`` (nats), ``varentropy`` (nats^2), ``rank``, ``kept`` (tokens), ``mass`` and
``top`` (dicts of ``text`` and ``log_prob``) may be missing or None where a provider does not tell them, and are left
out of the report then. Where entropy is not told but bounded, ``entropy_low`` and ``entropy_high`` (nats; None: not
limited) stand in its place.
"""

from hartley.report.calibration import Calibration, calibration
from hartley.report.compare_page import compare_page
from hartley.report.files import check_writable, write_atomic
from hartley.report.readers import Reading, Text, read
from hartley.report.report_page import report_page
from hartley.report.summary import bits_per_byte, distinct_n, mean_and_error, repeated_ngrams, totals
from hartley.report.tokens_page import tokens_page
from hartley.report.whole_run import run_totals, uncertain_spans

__all__ = [
    "Calibration",
    "Reading",
    "Text",
    "bits_per_byte",
    "calibration",
    "check_writable",
    "compare_page",
    "distinct_n",
    "mean_and_error",
    "read",
    "repeated_ngrams",
    "report_page",
    "run_totals",
    "tokens_page",
    "totals",
    "uncertain_spans",
    "write_atomic",
]
