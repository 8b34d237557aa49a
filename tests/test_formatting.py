"""Numbers against hand-rounded ones; foreign text against what Markdown would make of it."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.formatting import (
    as_printed,
    count,
    escape,
    estimate,
    mean_with_interval,
    p_value,
    percent,
    plural,
    significant,
    table,
)


@pytest.mark.parametrize(("value", "text"), [
    (12345, "12,300"), (9.996, "10.0"), (999.9, "1,000"), (0.00012345, "0.000123"), (1.0, "1.00"),
    (1.5e7, "15,000,000"),
    (0, "0"), (-2.345, "-2.34"), (math.nan, "-"), (math.inf, "-"), (99.95, "100"), (0.0009996, "0.00100"),
])
def test_significant_rounds_as_by_hand(value, text):
    assert significant(value) == text


def test_significant_takes_numpy_numbers():
    import numpy as np

    assert significant(np.float64(1234.5)) == "1,230"


def test_an_interval_of_accuracies_ends_where_accuracies_do():
    # sd of (10, 50, 90) is 40, of (90, 99, 99) 5.196; 4.30265 / sqrt(3) = 2.48414
    assert estimate([0.1, 0.5, 0.9]) == "50.00 ± 40.00 [0.00, 100.00]"
    assert mean_with_interval([0.90, 0.99, 0.99]) == "96.00 [83.09, 100.00]"
    assert estimate([-0.02, 0.0, 0.02], -1.0) == "0.00 ± 2.00 [-4.97, 4.97]"  # a difference of accuracies


def test_a_quoted_figure_keeps_the_digits_that_it_has():
    assert [as_printed(each) for each in (0.904, 0.9254, 0.93, 1.0, None)] == ["90.4", "92.54", "93.0", "100.0", "-"]


def test_estimate_is_mean_sd_and_students_interval():
    # sd of (90, 91, 92) is 1; t(0.975, 2) = 4.30265; 4.30265 / sqrt(3) = 2.48414
    assert estimate([0.90, 0.91, 0.92]) == "91.00 ± 1.00 [88.52, 93.48]"


def test_two_seeds_have_no_interval_one_no_spread_and_none_has_nothing():
    assert estimate([0.90, 0.92]) == "91.00 ± 1.41"
    assert mean_with_interval([0.90, 0.92]) == "91.00"
    assert estimate([0.9]) == mean_with_interval([0.9]) == "90.00"
    assert estimate([]) == "-"


def test_percent_of_nothing():
    assert percent(None) == percent(math.nan) == "-"
    assert percent(0.12345) == "12.35"  # 12.345 in binary lies just above


def test_small_words():
    assert plural(1, "cell") == "1 cell"
    assert plural(1000, "cell") == "1,000 cells"
    assert count(0) == "-"
    assert p_value(0.0004) == "p < 0.001"
    assert p_value(0.0421) == "p = 0.042"
    assert [p_value(p) for p in (0.0496, 0.0504)] == ["p = 0.0496", "p = 0.0504"], "on which side of 0.05"


@pytest.mark.parametrize(("text", "shown"), [
    ("a|b", r"a\|b"), ("`x`", r"\`x\`"), ("<script>", "&lt;script&gt;"), ("two\nlines\r\nthree", "two lines three"),
    ("[x](y)", r"\[x\](y)"), ("*bold* _it_", r"\*bold\* \_it\_"), ("kernel_size", "kernel_size"), ("a\\b", r"a\\b"),
    ("$x$", r"\$x\$"), ("&lt;", "&amp;lt;"), ("bell\x07\u202e!", "bell!"),
])
def test_escape_leaves_nothing_that_markdown_reads(text, shown):
    assert escape(text) == shown


@given(st.text())
def test_escaped_text_stays_in_its_cell(text):
    shown = escape(text)
    bare = re.sub(r"\\[\\`*\[\]|~$_]", "", shown)
    assert not set(bare) & set("|`<>[]*\\\n\r")
    assert len(table(["a"], [[shown]]).splitlines()) == 3


def test_table_has_a_row_per_line_and_aligns():
    assert table(["cell", "n"], [["a", "1"], ["b", "2"]]) == "| cell | n |\n| :-- | --: |\n| a | 1 |\n| b | 2 |"
