"""The report's claims and the verdicts on them as tables. No torch."""

import math
from collections import defaultdict
from collections.abc import Sequence

from bench.claims import DECISIVE, Claim, Judged
from bench.formatting import NOTHING, escape, table
from bench.judging.evidence import Finding

SHORT = 200
"""Characters of evidence that stand in the section of an experiment; more is in the table of parts alone."""


def summary_table(judged: Sequence[Judged]) -> str:
    """One row per claim: its verdict, and which of its parts fared how."""
    rows = [[str(one.claim.number), escape(one.claim.statement), escape(one.claim.reported), f"**{one.verdict}**",
             parts_by_verdict(one)] for one in judged]
    return table(["claim", "the report says", "its evidence", "verdict", "its parts"], rows, text_columns=5)


def parts_by_verdict(judged: Judged) -> str:
    """What decides first; then what networks say that the report does not have."""
    texts = {}
    for beyond in (False, True):
        named = {verdict: [part.statement for part, finding in judged.told
                           if finding.verdict == verdict and part.beyond == beyond]
                 for verdict in (*DECISIVE, "supported")}
        texts[beyond] = ". ".join(f"*{verdict}*: {escape('; '.join(names))}" for verdict, names in named.items()
                                  if names)
    return texts[False] + (f". Beyond the report's networks, {texts[True]}" if texts[True] else "")


def parts_table(judged: Sequence[Judged]) -> str:
    """One row per part: evidence, verdict, and the seeds that would resolve it; then the tests, each once."""
    rows, tests = [], defaultdict(list)
    for claim, findings in judged:
        for i, (part, finding) in enumerate(zip(claim.parts, findings, strict=True)):
            rows.append([_name(claim, i), escape(part.statement), f"**{finding.verdict}**", finding.evidence,
                         _seeds(finding), ", ".join(f"`{one}`" for one in part.experiments)])
            tests[part.test].append(_name(claim, i))
    headers = ["part", "statement", "verdict", "our evidence", "seeds to resolve it", "experiments"]
    lines = [f"- {', '.join(parts)}: {escape(test)}." for test, parts in tests.items()]
    return table(headers, rows, text_columns=len(headers)) + "\n\n**Tests**\n\n" + "\n".join(lines)


def by_experiment(judged: Sequence[Judged]) -> dict[str, list[str]]:
    """For each experiment the parts of claims that it judges, as `3a (in Network 1): contradicted`."""
    found: dict[str, list[str]] = {}
    for claim, findings in judged:
        for i, (part, finding) in enumerate(zip(claim.parts, findings, strict=True)):
            for experiment in part.experiments:
                text = f"{_name(claim, i)} ({escape(part.statement)}): {finding.verdict}"
                if len(finding.evidence) <= SHORT:
                    text += f", {finding.evidence}"
                found.setdefault(experiment, []).append(text)
    return found


def _name(claim: Claim, part: int) -> str:
    return f"{claim.number}{chr(ord('a') + part)}" if len(claim.parts) > 1 else str(claim.number)


def _seeds(finding: Finding) -> str:
    if finding.seeds is None:
        return NOTHING
    return "out of reach" if math.isinf(finding.seeds) else f"{int(finding.seeds):,} a cell"
