"""How claims about the kernel size are judged, in one network or over several depths. No torch."""

from collections.abc import Callable, Sequence

from bench import stats
from bench.judging.evidence import Finding
from bench.judging.findings import Contrast, contrasts, counts_rise
from bench.judging.step_times import steps_slow_down
from bench.judging.trials import Judge, contrast
from bench.records import outcomes
from bench.records.rows import Results, Row

SMALL, LARGE = (2, 3), 5


def small_ones_win(experiment: str) -> Judge:
    """Over networks of several depths: each seed's mean over them, so that each depth is compared with itself."""
    def judge_accuracies(results: Results) -> Finding:
        networks = _by_kernel(results, experiment)
        return contrasts([_over_networks(results, size, [(rows[LARGE], rows[size]) for rows in networks])
                          for size in SMALL if networks and all({size, LARGE} <= rows.keys() for rows in networks)])
    return judge_accuracies


def count_rises(experiment: str, attribute: Callable[[Row], int]) -> Judge:
    """An exact count, from kernel to kernel of each network."""
    return lambda results: counts_rise([list(rows.values()) for rows in _by_kernel(results, experiment)], attribute)


def large_one_is_slower(experiment: str) -> Judge:
    """Its training step against that of the smallest."""
    return lambda results: steps_slow_down(
        [(f"{rows[LARGE].cell.label} against {min(rows)}", rows[min(rows)], rows[LARGE])
         for rows in _by_kernel(results, experiment) if LARGE in rows], results)


def _by_kernel(results: Results, experiment: str) -> list[dict[int, Row]]:
    """For each network of the experiment (each depth): kernel size to row. Networks with mixed kernels are left out."""
    networks: dict[object, dict[int, Row]] = {}
    for row in results.of(experiment):
        sizes = {row.setting(f"model.{key}") for key in ("kernel_size", "conv1_kernel_size", "conv2_kernel_size")}
        sizes.discard(None)
        if len(sizes) == 1:
            networks.setdefault(row.setting("model.depth"), {})[sizes.pop()] = row
    return [dict(sorted(rows.items())) for rows in networks.values()]


def _over_networks(results: Results, size: int, pairs: Sequence[tuple[Row, Row]]) -> Contrast:
    """Of several networks, of the seeds that each has for both kernels."""
    name = f"kernel size {size} less {LARGE}" + (f", mean over {len(pairs)} depths" if len(pairs) > 1 else "")
    if len(pairs) == 1:
        return contrast(results, name, *pairs[0], outcomes.test_last)
    alike = [pair for large, small in pairs if (pair := results.alike(large, small))]
    if len(alike) < len(pairs):
        return Contrast(name, [], [])
    values = [[{record.seed: accuracy for record in row.trained if (accuracy := outcomes.test_last(record)) is not None}
               for row in pair] for pair in alike]
    seeds = set.intersection(*(set(row) for pair in values for row in pair))
    low, high = ([stats.mean([pair[i][seed] for pair in values]) for seed in sorted(seeds)] for i in (0, 1))
    return Contrast(name, low, high)
