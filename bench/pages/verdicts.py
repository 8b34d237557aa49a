"""The report's claims and the verdicts on them as tables. No torch."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from bench.claims import Claim, Judged
from bench.formatting import NOTHING, escape, plural, table
from bench.judging.evidence import Finding

MOST_TOLD = 3
"""Parts whose evidence stands beside a claim; the table of parts has all."""


def summary_table(judged: Sequence[Judged]) -> str:
    """One row per claim: its verdict, and why."""
    rows = [[str(one.claim.number), escape(one.claim.statement), escape(one.claim.reported), verdict_text(one),
             why(one)] for one in judged]
    return table(["claim", "the report says", "its evidence", "verdict", "why"], rows, text_columns=5)


def verdict_text(judged: Judged) -> str:
    """e.g. contradicted (1 of 6 parts): how many of the report's own parts have the claim's verdict."""
    verdicts = [finding.verdict for part, finding in judged.told if part.decides]
    share = f" ({verdicts.count(judged.verdict)} of {len(verdicts)} parts)" if len(verdicts) > 1 else ""
    return f"**{judged.verdict}**{share}"


def why(judged: Judged) -> str:
    """The evidence of the first `MOST_TOLD` parts that decide the verdict, and how many others had each verdict. Parts
    that are told beside are left out."""
    own = [(part, finding) for part, finding in judged.told if part.decides]
    deciding = [(part, finding) for part, finding in own if finding.verdict == judged.verdict]
    texts = [f"*{escape(part.statement)}*: {finding.in_short}." for part, finding in deciding[:MOST_TOLD]]
    others = Counter(finding.verdict for _, finding in own if finding.verdict != judged.verdict)
    more = [(judged.verdict, len(deciding) - MOST_TOLD), *others.most_common()]
    texts += [f"{plural(num, 'other part')}: {verdict}." for verdict, num in more if num > 0]
    return "<br>".join(texts)


def parts_table(judged: Sequence[Judged]) -> str:
    """One row per part: evidence, verdict, and the seeds that would resolve it; then the tests, each once."""
    rows, tests = [], defaultdict(list)
    for claim, findings in judged:
        for i, (part, finding) in enumerate(zip(claim.parts, findings, strict=True)):
            beside = "" if part.decides else ", beside"
            rows.append([_name(claim, i), escape(part.statement), f"**{finding.verdict}**{beside}", finding.evidence,
                         _seeds(finding), ", ".join(f"`{one}`" for one in part.experiments)])
            tests[part.test].append(_name(claim, i))
    headers = ["part", "statement", "verdict", "our evidence", "seeds to resolve it", "experiments"]
    lines = [f"- {', '.join(parts)}: {escape(test)}." for test, parts in tests.items()]
    return table(headers, rows, text_columns=len(headers)) + "\n\n**Tests**\n\n" + "\n".join(lines)


def by_experiment(judged: Sequence[Judged]) -> dict[str, list[str]]:
    """For each experiment the parts of claims that it judges, as `3a (in Network 1): **contradicted**, evidence`."""
    found: dict[str, list[str]] = {}
    for claim, findings in judged:
        for i, (part, finding) in enumerate(zip(claim.parts, findings, strict=True)):
            for experiment in part.experiments:
                found.setdefault(experiment, []).append(
                    f"{_name(claim, i)} ({escape(part.statement)}): **{finding.verdict}**, {finding.in_short}")
    return found


def _name(claim: Claim, part: int) -> str:
    return f"{claim.number}{chr(ord('a') + part)}" if len(claim.parts) > 1 else str(claim.number)


def _seeds(finding: Finding) -> str:
    if finding.seeds is None:
        return NOTHING
    return "out of reach" if math.isinf(finding.seeds) else f"{int(finding.seeds):,} a cell"
