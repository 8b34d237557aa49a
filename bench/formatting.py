"""Numbers and foreign text as Markdown shows them. No torch.

Rounding happens here and nowhere else. Accuracies come in as fractions and go out in percent.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from bench import stats

NOTHING = "-"
"""What a cell of a table shows where there is no value."""
NOISY, SHARED, ELSEWHEN = "†", "‡", "§"
"""Marks of a time: IQR / median above 10 %; other work ran meanwhile; timed at another commit than others beside it."""
FEWEST_SPREAD = 3
"""Values of which an interval of their mean is shown: of two it reaches nine standard deviations either way."""
VAGUE = 2.0
"""High over low end of an interval from which on three digits say enough."""
_SPECIAL = re.compile(r"([\\`*\[\]|~$])|(?<!\w)(_)|(_)(?!\w)")


def escape(text: object) -> str:
    """Foreign text as one line of Markdown that shows it as it is, in a table too. Control characters are dropped."""
    line = " ".join(str(text).split())
    line = "".join(character for character in line if unicodedata.category(character)[0] != "C")
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(lambda match: "\\" + match[0], line)


def named(label: str) -> str:
    """The label of a cell within a sentence, set apart from its words."""
    return f"*{escape(label)}*"


def code(text: str) -> str:
    """A name of the project's own as a code span; what would end the span or the cell is left out."""
    return "`" + " ".join(text.replace("`", "").replace("|", "").split()) + "`"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A Markdown table of finished strings; the first `text_columns` are aligned left, the others right.

    Not padded to equal widths: a figure that changes then changes its own line alone.
    """
    rule = [":--" if i < text_columns else "--:" for i in range(len(headers))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [headers, rule, *rows])


def folded(title: str, body: str) -> str:
    """What a reader opens to see: there, but not in the way."""
    return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>"


def without_empty_columns(headers: Sequence[str], rows: Sequence[Sequence[str]],
                          kept: int) -> tuple[list[str], list[list[str]]]:
    """Headers and rows without the columns, after the first `kept`, that hold nothing in any row."""
    full = [i for i in range(len(headers)) if i < kept or any(row[i] != NOTHING for row in rows)]
    return [headers[i] for i in full], [[row[i] for i in full] for row in rows]


def anchor(title: str) -> str:
    """What a heading is linked by, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def percent(fraction: float | None, digits: int = 2) -> str:
    return NOTHING if fraction is None or math.isnan(fraction) else f"{100 * fraction:.{digits}f}"


def as_printed(fraction: float | None) -> str:
    """A figure of somebody else's, in per cent: with the digits that they give, one at least."""
    text = percent(fraction)
    return text.removesuffix("0") if "." in text else text


def points(difference: float) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    return f"{100 * difference:+.2f}"


def estimate(values: Sequence[float], low_end: float = 0.0) -> str:
    """Accuracies over seeds: mean ± sd [95 % interval of the mean]; of two no interval, of one the value alone.

    An accuracy lies between `low_end` and 1, and so does its mean: the interval is cut there.
    """
    if not values:
        return NOTHING
    summary = stats.summarize(values)
    if math.isnan(summary.sd):
        return percent(summary.mean)
    return f"{percent(summary.mean)} ± {percent(summary.sd)}{interval_text(values, percent, low_end, 1.0)}"


def mean_with_interval(values: Sequence[float], low_end: float = 0.0) -> str:
    """As `estimate`, without the sd: for sentences."""
    return f"{percent(stats.mean(values))}{interval_text(values, percent, low_end, 1.0)}" if values else NOTHING


def interval_text(
    values: Sequence[float], show: Callable[[float], str], low_end: float = -math.inf, high_end: float = math.inf,
    of: Callable[[Sequence[float]], stats.Interval] = stats.mean_interval,
) -> str:
    """What stands behind a mean: its 95 % interval, or another one `of` the values, cut at the ends of what can be.

    Empty for too few values.
    """
    if len(values) < FEWEST_SPREAD:
        return ""
    low, high = of(values)
    return f" [{show(max(low, low_end))}, {show(min(high, high_end))}]"


def significant(value: float, digits: int = 3) -> str:
    """Rounded to significant digits, thousands set apart, never in powers of ten."""
    if not math.isfinite(value):
        return NOTHING
    exact = Decimal(repr(float(value)))
    if not exact:
        return "0"
    decimals = digits - 1 - exact.adjusted()
    rounded = round(exact, decimals)
    return f"{rounded:,.{max(0, decimals - (rounded.adjusted() - exact.adjusted()))}f}"


def count(value: int) -> str:
    return f"{value:,}" if value else NOTHING


def ratio_text(ratio: stats.Ratio) -> str:
    """e.g. 1.023 [1.010, 1.036]; without the interval for one pair or two, with three digits where it is a wide one."""
    if ratio.n < FEWEST_SPREAD:
        return f"{ratio.ratio:.3f}"
    if ratio.high > VAGUE * ratio.low:
        return f"{significant(ratio.ratio)} [{significant(ratio.low)}, {significant(ratio.high)}]"
    return f"{ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def first_of(texts: Sequence[str], most: int, between: str = "; ") -> str:
    """So many, and how many more there are."""
    return between.join([*texts[:most], *[f"and {len(texts) - most} more"] * (len(texts) > most)])


def p_value(p: float) -> str:
    """Digits enough to tell it from 0.05."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.4f}" if 0.0495 <= p < 0.0505 else f"p = {p:.3f}"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
