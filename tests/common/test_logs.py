"""Tests that text from outside cannot forge a line of the log."""

import logging
import subprocess
import sys
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common.datatypes import printable
from clipper_common.logs import LineFormatter

FORGED = "x\n26-01-01:00:00:00 CRITICAL [store.py:1] all is lost\r\x1b[2J\x1b[31mred\x9b31m\u2028\u202e\x00\ud800"


def logged(text: str, error: Exception | None = None) -> str:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    handler.handle(logging.LogRecord("n", logging.ERROR, "file.py", 7, "said: %s", (text,), _raised(error)))
    return stream.getvalue()


def _raised(error: Exception | None) -> tuple[type[Exception], Exception, None] | None:
    return (type(error), error, None) if error else None


def test_text_from_outside_stays_on_its_line() -> None:
    line = logged(FORGED)
    assert line.count("\n") == 1 and line.endswith("\n") and line[:-1].isprintable()
    assert (
        r"said: x\n26-01-01:00:00:00 CRITICAL" in line and r"\r\x1b[2J\x1b[31mred\x9b31m\u2028\u202e\x00\ud800" in line
    )


def test_no_line_of_a_traceback_looks_like_a_record() -> None:
    first, *others = logged("x", ValueError(FORGED)).splitlines()
    assert others and all(line.startswith("  ") and line.isprintable() for line in others)
    assert any("ValueError: x" in line for line in others)


def test_what_is_long_is_cut() -> None:
    assert len(logged("x" * 100_000)) < 5000


def test_what_is_harmless_is_left_alone() -> None:
    assert "said: gr\u00fc\u00df dich \U0001f600 at C:\\x [::1]:7000" in logged(
        "gr\u00fc\u00df dich \U0001f600 at C:\\x [::1]:7000"
    )


@given(st.text(st.characters()))
def test_printable_text_is_printable(text: str) -> None:
    shown = printable(text, 20)
    assert shown.isprintable() and len(shown) < 250
    shown.encode()


@pytest.mark.parametrize("program", ["query_frontend", "management_frontend", "query_frontend.exporter"])
def test_programs_log_by_it(program: str) -> None:
    """The helper that they configure logging by, in a process of its own: pytest has handlers here."""
    code = f"import {program}, logging; from clipper_common import webapp; webapp.configure_logging(); "
    code += r"logging.getLogger('x').error('a\nb %s', '\x1b[31m')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr.count("\n") == 1 and r"a\nb \x1b[31m" in done.stderr
