"""Each claim driven to each verdict by records made for it; the judges' arithmetic against hand-computed values."""

import itertools
import math
import re

import msgspec
import pytest

from bench import claims, experiment
from bench.judging import evidence
from bench.judging.findings import ACCURACY, LOSS, Contrast, contrasts, over_fits
from bench.judging.one_run import reaches, standing
from bench.pages import verdicts
from bench.records.rows import collect
from bench.records.side_records import Calibration, Pairs, TimedCell, Turns
from fmnist_core.config import to_dict
from tests.made import CPU, GPU, LABELS, failed, timed, trained

SPREAD = (-0.0005, 0.0, 0.0005)
"""Three seeds with a standard deviation of 0.05 points around the given value."""
LOADED = {name: experiment.load(name) for name in experiment.names()}


def calibration(environment, noise):
    """A machine on which the same cell, timed twice, differs by `noise`, one way and the other."""
    pairs = Pairs(a_s=[0.01, 0.01 * (1 + noise)] * 5, b_s=[0.01 * (1 + noise), 0.01] * 5)
    return Calibration(own_processes=True, environment=environment, started_at="", cell={},
                       metrics={"train_step": pairs})


QUIET = (calibration(CPU, 0.002), calibration(GPU, 0.002))


def verdict(records, part, sides=QUIET):
    """The finding of one part, e.g. `3a`; `9` is a part that stands alone."""
    results = collect(records, list(LOADED.values()), sides)
    number, letter = int(part[0]), part[1:]
    [judged] = [one for one in claims.judge(results) if one.claim.number == number]
    return judged.findings[ord(letter) - ord("a") if letter else 0]


def seeds(name, values, figure="test", spread=SPREAD, **fields):
    """For each cell of an experiment whose label is in `values`: one seed per entry of `spread`, around its value."""
    of = LOADED[name]
    return [trained(of, cell, seed, **{figure: values[cell.label] + each}, **fields)
            for cell in of.cells if cell.label in values for seed, each in enumerate(spread)]


def labels(name, start=""):
    return [cell.label for cell in LOADED[name].cells if cell.label.startswith(start)]


FINAL = ("ReLU after fc1", "nothing after fc1")
RUNS = (*FINAL, "split 1", "split 2")
ALL_IMAGES = "all 60,000 images"


# Judges


def test_contrasts_share_their_level():
    """Alone this pair passes at p = 0.03; among five that show nothing, Holm takes it back."""
    shown = Contrast("shown", [0.900, 0.902, 0.904], [0.906, 0.908, 0.910])
    nothing = Contrast("nothing", [0.90, 0.91, 0.92], [0.901, 0.911, 0.921])
    assert contrasts([shown]).verdict == "supported"
    together = contrasts([shown, *[nothing] * 4])
    assert together.verdict == "not resolved"
    assert "0 of 5 comparisons resolved as claimed" in together.evidence


def test_a_difference_below_a_tenth_of_a_point_is_no_effect():
    tiny = Contrast("tiny", [0.9000, 0.9001, 0.9002], [0.9006, 0.9007, 0.9008])
    assert contrasts([tiny]).verdict == "contradicted"  # resolved, and surely less than 0.1 points
    assert contrasts([tiny], ACCURACY._replace(minimum_effect=0.0005)).verdict == "supported"


def test_seeds_to_resolve_are_those_of_stats_and_more_than_there_are():
    from bench import stats

    pair = Contrast("pair", [0.89, 0.90, 0.91], [0.90, 0.91, 0.92])
    found = contrasts([pair])
    assert found.seeds == stats.seeds_needed(0.01, 0.01, minimum_effect=0.001) > 3
    assert contrasts([Contrast("same", [0.89, 0.91], [0.89, 0.91])]).seeds == math.inf


def test_one_seed_resolves_nothing_and_says_two_are_needed():
    assert contrasts([Contrast("one", [0.9], [0.5])])[::2] == ("not resolved", 2)


def test_contradiction_does_not_wait_for_missing_records():
    reversed_ = Contrast("reversed", [0.95, 0.951, 0.952], [0.9, 0.901, 0.902])
    missing = Contrast("missing", [], [0.9, 0.91])
    right = Contrast("right", [0.9, 0.901, 0.902], [0.95, 0.951, 0.952])
    assert contrasts([reversed_, missing]).verdict == "contradicted"
    assert contrasts([right, missing]).verdict == "waiting"
    assert contrasts([missing]).verdict == contrasts([]).verdict == "waiting"


def test_more_than_two_groups_are_compared_all_together():
    alike, apart = [0.900, 0.901, 0.902, 0.903], [0.950, 0.951, 0.952, 0.953]
    assert evidence.one_way_p([alike, alike, apart]) < 0.05


def test_a_cell_has_learnt_if_each_of_its_seeds_has():
    of = LOADED["loss"]
    learnt = lambda *accuracies: collect([trained(of, of.cells[0], seed, test=accuracy)
                                          for seed, accuracy in enumerate(accuracies)], [of]).of(of.name)[0].learnt
    assert [learnt(0.9, 0.8), learnt(0.9, 0.1), learnt()] == [True, False, False]


@pytest.mark.parametrize(("part", "name", "values", "said"), [
    ("1b", "final", dict.fromkeys(("ReLU after fc1", "nothing after fc1", "split 1"), 0.95), "contradicted"),
    ("8a", "final", {"ReLU after fc1": 0.95}, "supported"),
    ("9a", "input_size", {"input_size 28": 0.90, "input_size 32": 0.91, "input_size 40": 0.92}, "supported")])
def test_no_verdict_waits_for_what_failed(part, name, values, said):
    """As it does for what nobody has run."""
    broken = [failed(LOADED[name], cell, 0, "diverged", "at step 3") for cell in LOADED[name].cells
              if cell.label not in values]
    assert verdict(seeds(name, values), part).verdict == "waiting"
    assert verdict([*seeds(name, values), *broken], part).verdict == said


# 1 Final network


@pytest.mark.parametrize(("part", "figure", "value"), [("1a", "validation", 0.916), ("1b", "test", 0.904),
                                                       ("1c", "test", 0.908)])
def test_the_reports_figure_is_one_that_a_run_gives(part, figure, value):
    cells = (*RUNS, ALL_IMAGES) if part == "1c" else RUNS
    judged = lambda around, spread=SPREAD: verdict(seeds("final", dict.fromkeys(cells, around), figure, spread), part)
    # half width of the prediction: 4.302653 x 0.0005 x sqrt(4/3) = 0.00248, and half a digit of the figure: 0.0005
    assert judged(value).verdict == judged(value + 0.0009).verdict == "supported"
    assert judged(value - 0.0009).verdict == "supported"
    assert judged(value + 0.0031).verdict == "contradicted"
    assert judged(value - 0.0031).verdict == "contradicted"
    assert judged(value - 0.1, spread=(-0.01, 0.0, 0.01)).verdict == "contradicted"  # far off, however wide
    assert judged(value, spread=(-0.01, 0.0, 0.01)).verdict == "not resolved"
    one_seed, num = judged(value, spread=(0.0,)), len(cells)
    assert one_seed.verdict == "not resolved"
    assert "; too few seeds or too wide to say: ReLU after fc1, nothing after fc1, split 1" in one_seed.evidence
    assert one_seed.evidence.startswith(
        f"{num} of {num} runs give {100 * value:.1f} % or more (1 of 1: ReLU after fc1; 1 of 1: nothing after fc1; ")
    assert f", the highest run {100 * value:.2f} %" in one_seed.evidence
    assert ("; at the best epoch of each 4; with 90.4 % on test in the same" in one_seed.evidence) == (part == "1a")
    assert verdict([], part).verdict == "waiting"


def test_a_run_is_counted_where_it_prints_as_the_figure():
    """91.55 % prints as 91.6 %."""
    records = seeds("final", dict.fromkeys(RUNS, 0.9155), "validation", spread=(-0.0002, -0.0001, 0.00005))
    told = verdict(records, "1a")
    where = "(1 of 3: ReLU after fc1; 1 of 3: nothing after fc1; 1 of 3: split 1; 1 of 3: split 2)"
    assert told.lead == f"4 of 12 runs give 91.6 % or more {where}, the highest 91.55 %"
    assert told.evidence.startswith(
        f"4 of 12 runs give 91.6 % or more {where}; means 91.54 (ReLU after fc1) to 91.54 (split 2), the highest run "
        "91.55 %; at the best epoch")


def test_both_figures_of_one_run_are_counted_in_one_run():
    of = LOADED["final"]
    cell = next(cell for cell in of.cells if cell.label == FINAL[0])
    both = lambda *pairs: verdict([trained(of, cell, seed, validation=validation, test=test)
                                   for seed, (validation, test) in enumerate(pairs)], "1a").evidence
    assert "; with 90.4 % on test in the same run 0;" in both((0.916, 0.90), (0.91, 0.904))
    assert "; with 90.4 % on test in the same run 1;" in both((0.9156, 0.9036), (0.91, 0.904))


def test_few_seeds_of_another_arithmetic_do_not_stand_beside_many():
    """Their interval would be the wider one, and agree with more. Their runs count."""
    tf32 = msgspec.structs.replace(LABELS, cudnn_tf32=True)
    few = seeds("final", dict.fromkeys(RUNS, 0.902), spread=(-0.0005, 0.0, 0.0021))
    many = seeds("final", dict.fromkeys(RUNS, 0.900), spread=[0.0001 * i for i in range(8)], environment=GPU,
                 labels=tf32)
    assert verdict(few, "1b").verdict == "supported"
    both = verdict(few + many, "1b")
    assert both.verdict == "contradicted"
    assert both.evidence.startswith("4 of 44 runs give 90.4 % or more (1 of 3: ReLU after fc1 (float32); ")
    assert both.lead.startswith("4 of 44 runs give 90.4 % or more (1 of 3: ReLU after fc1 (float32); ")
    assert both.lead.endswith(", the highest 90.41 %")


def test_a_wide_interval_disagrees_with_what_it_leaves_out_and_agrees_with_nothing():
    narrow, wide = [0.900, 0.901, 0.902], [0.88, 0.90, 0.92]
    # 4.302653 x 0.001 x sqrt(4/3) = 0.00497 either way; of the wide one 0.0994
    assert [standing(narrow, one) for one in (0.89, 0.9, 0.91)] == ["higher", "may give it", "lower"]
    assert [standing(wide, one) for one in (0.78, 0.9, 1.0)] == ["higher", "unclear", "lower"]
    assert standing([0.9, 0.9001], 0.5) == "unclear"


@pytest.mark.parametrize("figure", [0.904, 0.908, 0.916])
def test_a_figure_is_reached_from_half_of_its_last_digit_on(figure):
    assert [reaches(round(figure + 0.0001 * images, 4), figure) for images in (-6, -5, 0)] == [False, True, True]


def test_one_reading_that_gives_the_figure_is_enough():
    records = seeds("final", {FINAL[0]: 0.904, FINAL[1]: 0.890})
    assert verdict(records, "1b").verdict == "supported"  # the splits, which have no records, cannot change it
    records = seeds("final", {FINAL[0]: 0.895})
    assert verdict(records, "1b").verdict == "waiting"


def test_a_figure_that_only_the_interval_reaches_is_open_until_enough_runs_were_made():
    """Of 0.9064, sd 0.0005, n = 3: |t| = 0.0019 / (0.0005 sqrt(4/3)) = 3.291, of two degrees of freedom; p = 0.0406
    one-sided: ln 0.05 / ln(1 - 0.0406) = 72.3 more runs."""
    for value in (0.9064, 0.9016):
        found = verdict(seeds("final", dict.fromkeys(RUNS, value)), "1b")
        assert (found.verdict, found.seeds) == ("not resolved", 3 + 73)
        assert "intervals that hold it: " in found.evidence
        assert found.evidence.endswith("; none of them has a run on its other side")
    mixed = verdict(seeds("final", dict.fromkeys(RUNS, 0.890) | {FINAL[0]: 0.9064}), "1b")
    assert mixed.verdict == "not resolved"
    assert "; that lie below: 88." in mixed.evidence


def test_validation_figure_is_judged_over_all_splits_and_selections():
    everywhere = dict.fromkeys([*FINAL, "split 1", "split 2"], 0.90)
    assert verdict(seeds("final", everywhere, "validation"), "1a").verdict == "contradicted"
    assert verdict(seeds("final", everywhere | {"split 2": 0.916}, "validation"), "1a").verdict == "supported"
    assert verdict(seeds("final", everywhere | {"dropout 0.25": 0.916}, "validation"), "1a").verdict == "contradicted"


def test_too_wide_an_interval_is_not_resolved_and_says_when_it_would_be():
    found = verdict(seeds("final", dict.fromkeys(RUNS, 0.904), spread=(-0.003, 0.0, 0.003)), "1b")
    assert found.verdict == "not resolved"
    # sd 0.003: t(0.975, n - 1) x sqrt(1 + 1/n) falls below 10/3 at n = 5 (2.776 x 1.095 = 3.04; n = 4: 3.182 x 1.118)
    assert found.seeds == 5


# 2 Order of the trials


def in_order(name, gap):
    """Every trial `gap` above the one that the report puts just below it; equal ones stay equal."""
    cells = [cell for cell in LOADED[name].cells if cell.label in labels(name, "Trial-")]
    ranked = sorted({cell.reported.validation_accuracy for cell in cells})
    return {cell.label: 0.88 + gap * ranked.index(cell.reported.validation_accuracy) for cell in cells}


@pytest.mark.parametrize(("part", "name"), [("2d", "table_1_1"), ("2e", "table_1_2")])
def test_order_of_the_trials(part, name):
    judged = lambda values, **more: verdict(seeds(name, values, "validation", **more), part).verdict
    assert judged(in_order(name, 0.006)) == "supported"
    assert judged(in_order(name, -0.006)) == "contradicted"
    assert judged(in_order(name, 0.002), spread=(-0.01, 0.0, 0.01)) == "not resolved"
    one_gone = {label: value for label, value in in_order(name, 0.006).items() if label != "Trial-3"}
    assert judged(one_gone) == "waiting"
    assert verdict([], part).verdict == "waiting"


def test_best_trial_of_table_1_2():
    others = dict.fromkeys(labels("table_1_2"), 0.90)
    judged = lambda best, **more: verdict(seeds("table_1_2", others | {"Trial-2": best}, "validation", **more),
                                          "2a").verdict
    assert judged(0.91) == "supported"
    assert judged(0.89) == "contradicted"
    assert judged(0.902, spread=(-0.005, 0.0, 0.005)) == "not resolved"


def test_least_validation_loss_of_table_1_2():
    of, low = LOADED["table_1_2"], 0.01
    trials = [cell for cell in of.cells if cell.label in labels("table_1_2", "Trial-")]
    def judged(best, spread=SPREAD):
        return verdict([trained(of, cell, seed, validation_loss=(best if cell.label == "Trial-2" else 0.3) + each)
                        for cell in trials for seed, each in enumerate(spread)], "2b")

    assert judged(0.3 - low).verdict == "supported"
    assert judged(0.3 - low).lead == ("place 1 of 7 by mean validation loss, the least first; 6 of 6 comparisons "
                                      "resolved as claimed, 0 reversed or equal, 0 not resolved")
    assert judged(0.3 - low).evidence.startswith("Trial-1 less Trial-2: +0.0100 [+0.0089, +0.0111], p <")
    assert judged(0.3 + low).verdict == "contradicted"
    assert judged(0.3 + low).lead.startswith("place 7 of 7 ")
    assert judged(0.299, spread=(-0.01, 0.0, 0.01)).verdict == "not resolved"
    assert LOSS.minimum_effect == 0.001
    assert judged(0.2995, spread=(-0.0001, 0.0, 0.0001)).verdict == "contradicted"  # surely less than a thousandth


def test_trial_2_against_network_1():
    network_1 = dict.fromkeys(labels("table_1_1", "Trial-"), 0.90) | {"Trial-7": 0.1}
    lost = [trained(LOADED["table_1_1"], cell, seed, validation=network_1[cell.label], test=network_1[cell.label])
            for cell in LOADED["table_1_1"].cells for seed in range(3)]
    judged = lambda best: verdict([*lost, *seeds("table_1_2", {"Trial-2": best}, "validation")], "2c")
    assert judged(0.91).verdict == "supported"  # what did not learn is no rival, and no gain
    assert "Trial-7" not in judged(0.91).evidence
    assert judged(0.89).verdict == "contradicted"
    assert verdict(lost, "2c").verdict == "waiting"
    broken = [failed(LOADED["table_1_1"], cell, 0, "diverged", "at step 3") for cell in LOADED["table_1_1"].cells
              if cell.label == "Trial-7"]
    learnt = [record for record in lost if record.epochs.test_accuracy[-1] > 0.5]
    best = seeds("table_1_2", {"Trial-2": 0.91}, "validation")
    assert verdict([*learnt, *broken, *best], "2c").verdict == "supported"  # nor does it wait for what failed


# 3 and 4 Kernel sizes


def by_kernel(name, accuracy):
    """Test accuracy from the kernel size, by the label's number; mixed kernels stand at 0.5."""
    of = LOADED[name]
    size = lambda cell: getattr(cell.config.model, "kernel_size", None) or cell.config.model.conv2_kernel_size
    return [trained(of, cell, seed, test=accuracy[size(cell)] + each) for cell in of.cells
            for seed, each in enumerate(SPREAD)]


@pytest.mark.parametrize(("part", "name"), [("3a", "kernel_size_network1"), ("3b", "kernel_size_network2"),
                                            ("3c", "kernel_depth")])
def test_small_kernels_against_large(part, name):
    judged = lambda *values: verdict(by_kernel(name, dict(zip((2, 3, 4, 5), values, strict=True))), part).verdict
    assert judged(0.92, 0.92, 0.90, 0.90) == "supported"
    assert judged(0.92, 0.89, 0.90, 0.90) == "contradicted"
    assert judged(0.92, 0.9006, 0.90, 0.90) == "not resolved"
    assert verdict([], part).verdict == "waiting"


def test_kernels_of_several_depths_are_compared_by_each_seeds_mean_over_them():
    """Seeds that are good or bad at every depth alike would hide a difference that every seed shows."""
    of = LOADED["kernel_depth"]
    accuracy = lambda model: 0.88 + 0.01 * model.depth - (0.02 if (model.kernel_size, model.depth) == (2, 1) else 0.0)
    records = [trained(of, cell, seed, test=accuracy(cell.config.model) + each) for cell in of.cells
               for seed, each in enumerate((*SPREAD, 0.3)) if seed < 3 or cell.config.model.depth == 1]
    found = verdict(records, "3c")
    assert found.verdict == "contradicted"
    assert found.evidence.startswith("kernel size 2 less 5, mean over 4 depths: -0.50 points [")
    assert "n = 3 and 3" in found.evidence, "of the seeds that every depth has"


def test_parameters_and_multiply_adds_are_compared_kernel_by_kernel():
    of = LOADED["kernel_size_network2"]
    counts = lambda *values: [trained(of, cell, num_parameters=value, multiply_adds=value)
                              for cell, value in zip(of.cells, values, strict=False)]
    for part in ("4b", "4e"):
        assert verdict(counts(10, 11, 12, 13), part).verdict == "supported"
        assert verdict(counts(10, 11, 11, 13), part).verdict == "contradicted"
        assert verdict([], part).verdict == "supported"  # closed forms: what can be counted needs no records
    # The printed cell, kernels 3 and 5, is no step of the sequence.
    assert verdict(counts(10, 11, 12, 13, 1), "4b").verdict == "supported"


def test_network_1_as_printed_loses_parameters_with_larger_kernels():
    """Exact counts of the report's own network: without padding, larger kernels leave smaller maps to fc1."""
    from fmnist_core.models import layers, networks

    of = LOADED["kernel_size_network1"]
    exact = lambda cell: layers.num_parameters(networks.layers_of(cell.config.model), (1, 28, 28))
    counted = [trained(of, cell, num_parameters=exact(cell)) for cell in of.cells]
    found = verdict(counted, "4a")
    assert found.verdict == "contradicted"
    # 432 x 120 + 120 into fc1 at kernel 2 and 192 x 120 + 120 at kernel 5, by hand with the other layers:
    # conv 8 (k^2 + 1) + 12 (8 k^2 + 1), fc 7,260 + 2,440 + 410
    assert "62,506" in found.evidence
    assert "35,890" in found.evidence


def test_step_time_of_large_kernels():
    of = LOADED["kernel_size_network2"]
    cells = {cell.label: cell for cell in of.cells}
    wobble = lambda seconds: [seconds * (1 + 0.001 * (i % 3)) for i in range(30)]
    pair = lambda small, large, **more: [timed(of, cells["kernel size 2"], wobble(small), **more),
                                         timed(of, cells["kernel size 5"], wobble(large), **more)]
    assert verdict(pair(0.010, 0.020), "4h").verdict == "supported"
    assert verdict(pair(0.020, 0.010), "4h").verdict == "contradicted"
    assert verdict(pair(0.010, 0.0101), "4h").verdict == "contradicted"  # surely within 5 %
    assert verdict(pair(0.010, 0.013), "4h", [calibration(CPU, 0.16)]).verdict == "supported"  # p = 0.025
    # What two runs differ by in any case, or what nobody knows, resolves nothing, however steady the steps of each.
    noisy = verdict(pair(0.010, 0.012), "4h", [calibration(CPU, 0.2)])
    assert (noisy.verdict, "1.200 [" in noisy.evidence) == ("not resolved", True)
    unknown = verdict(pair(0.010, 0.020), "4h", ())
    assert unknown.verdict == "not resolved"
    assert "neither timings in turns nor a calibration tells how far two runs differ" in unknown.evidence
    assert verdict(pair(0.010, 0.020)[:1], "4h").verdict == "waiting"
    # A machine that is too noisy to tell takes nothing from another.
    both = pair(0.010, 0.012, environment=GPU) + pair(0.010, 0.012)
    found = verdict(both, "4h", [calibration(CPU, 0.2), calibration(GPU, 0.002)])
    assert found.verdict == "supported"
    assert found.evidence.index("slower") < found.evidence.index("not resolved")
    # One machine where it holds and one where it does not.
    assert verdict(pair(0.010, 0.020) + pair(0.010, 0.009, environment=GPU), "4h").verdict == "contradicted"


def test_steps_timed_in_turns_tell_what_records_do_not():
    of = LOADED["kernel_size_network2"]
    cells = {cell.label: cell for cell in of.cells}
    drift = [0.010, 0.015, 0.008, 0.011, 0.019, 0.010]

    def in_turns(ratio):
        wobble = [ratio * seconds * (1 + 0.01 * (i % 3)) for i, seconds in enumerate(drift)]
        return Turns(environment=CPU, started_at="", experiment=of.name, cells=[
            TimedCell(label=label, cell=to_dict(cells[label].config), step_s=step_s)
            for label, step_s in (("kernel size 2", drift), ("kernel size 5", wobble))])

    found = verdict([], "4h", [in_turns(1.25)])
    assert (found.verdict, "in turns: 1.262 [" in found.evidence) == ("supported", True)
    alone = msgspec.structs.replace(in_turns(1.25), cells=in_turns(1.25).cells[:1])
    assert verdict([], "4h", [alone]).verdict == "waiting"
    assert verdict([], "4h", [in_turns(0.8)]).verdict == "contradicted"
    assert verdict([], "4h", [in_turns(1.039)]).verdict == "not resolved"
    unsure = [timed(of, cells["kernel size 2"]), timed(of, cells["kernel size 5"], [0.013] * 10)]
    assert verdict(unsure, "4h", [calibration(CPU, 0.5)]).verdict == "not resolved"
    assert verdict(unsure, "4h", [calibration(CPU, 0.5), in_turns(1.25)]).verdict == "supported"


def test_steps_are_slower_only_if_they_are_at_every_depth():
    of = LOADED["kernel_depth"]

    def judged(large_s, noise=0.002):
        """`large_s`: seconds of a step of kernel size 5, by depth."""
        return verdict([timed(of, cell, [0.01 if model.kernel_size == 2 else large_s[model.depth]] * 10)
                        for cell in of.cells for model in [cell.config.model]
                        if model.kernel_size in (2, 5) and model.depth in large_s], "4i",
                       [calibration(CPU, noise)]).verdict

    slow = {cell.config.model.depth: 0.02 for cell in of.cells}
    assert judged(slow) == "supported"
    assert judged(slow | {1: 0.01049}) == "not resolved"
    assert judged(slow | {1: 0.01}) == "contradicted"
    assert judged(dict.fromkeys(slow, 0.013), noise=0.16) == "not resolved"  # p = 0.025 at each of four depths
    del slow[1]
    assert judged(slow) == "waiting"


def test_shared_machines_differing_code_precision_and_memory_format_are_no_evidence_of_time():
    of = LOADED["kernel_size_network2"]
    cells = {cell.label: cell for cell in of.cells}
    shared = msgspec.structs.replace(LABELS, machine_shared=True)
    bf16 = msgspec.structs.replace(LABELS, precision="bfloat16")
    for odd in (shared, bf16, msgspec.structs.replace(LABELS, weight_memory_format="contiguous")):
        records = [timed(of, cells["kernel size 2"]), timed(of, cells["kernel size 5"], [0.02] * 10, labels=odd)]
        assert verdict(records, "4h").verdict == "waiting"
    slow = timed(of, cells["kernel size 5"], [0.02] * 10)
    for environment, found in ((CPU, "supported"), (msgspec.structs.replace(CPU, commit="d" * 40), "waiting")):
        records = [timed(of, cells["kernel size 2"]), msgspec.structs.replace(slow, environment=environment)]
        assert verdict(records, "4h").verdict == found


# 5 Over-fitting


def with_rise(name, rises, accuracy=0.9, wanted=lambda cell: True, spread=SPREAD):
    """Validation loss flat for two thirds of six epochs, then higher by the rise."""
    of = LOADED[name]
    cells = [cell for cell in of.cells if wanted(cell)]
    return [trained(of, cell, seed, validation=accuracy, test=accuracy,
                    validation_loss=[0.4, 0.4, 0.3, 0.3, 0.3 + r, 0.3 + r])
            for cell, rise in zip(cells, itertools.cycle(rises), strict=False) for seed, each in enumerate(spread)
            for r in [rise + each]]


def test_network_1_over_fits_when_most_configurations_do():
    every = lambda rises, **more: verdict(with_rise("table_1_1", rises, **more)
                                          + with_rise("network1_printed", rises, **more), "5a").verdict
    assert every([0.05]) == "supported"
    assert every([-0.05]) == "contradicted"
    half = with_rise("table_1_1", [-0.05, 0.05]) + with_rise("network1_printed", [0.05])
    assert verdict(half, "5a").verdict == "not resolved"  # as many fall as rise
    assert every([0.001], spread=(-0.05, 0.0, 0.05)) == "not resolved"
    assert every([0.05], accuracy=0.1) == "waiting"  # what has not learnt cannot over-fit
    assert verdict(with_rise("network1_printed", [0.05]), "5a").verdict == "waiting"


def test_the_final_network_does_not_over_fit_when_its_loss_falls():
    assert verdict(with_rise("final", [-0.05]), "5b").verdict == "supported"
    assert verdict(with_rise("final", [0.05]), "5b").verdict == "contradicted"
    assert verdict([], "5b").verdict == "waiting"


def test_network_2_over_its_trials():
    trials = lambda rises: verdict(with_rise("table_1_2", rises), "5c").verdict
    assert trials([-0.05]) == "supported"
    assert trials([0.05]) == "contradicted"
    assert trials([0.05, -0.05]) == "contradicted"  # four of seven rise
    assert verdict(with_rise("table_1_2", [-0.05])[:3], "5c").verdict == "waiting"


def test_configurations_share_the_level_at_which_their_loss_rises():
    """5.8 standard errors: of two degrees of freedom t is 4.3 at 1 - 0.05 / 2, but 11.8 at 1 - 0.05 / 14."""
    of, trial = LOADED["table_1_2"], lambda cell: re.fullmatch(r"Trial-\d", cell.label)
    rows = collect(with_rise(of.name, [0.02], wanted=trial, spread=(-0.006, 0.0, 0.006)), [of]).of(
        of.name, lambda row: row.trained)
    assert len(rows) == 7
    assert over_fits(rows[:1], expected=True).verdict == "supported"
    assert over_fits(rows, expected=True).verdict == "not resolved"


def test_seeds_to_resolve_it_are_those_of_the_trials_that_make_a_majority():
    of, spread = LOADED["table_1_2"], (-0.05, 0.0, 0.05)
    trials = [cell for cell in of.cells if re.fullmatch(r"Trial-\d", cell.label)]
    rises = (0.05, 0.05, 0.05, 0.02, 0.01, -0.001, -0.002)
    records = [trained(of, cell, seed, validation_loss=[0.4, 0.4, 0.3, 0.3, 0.3 + rise + each, 0.3 + rise + each])
               for cell, rise in zip(trials, rises, strict=True)
               for seed, each in enumerate(SPREAD if rise == 0.05 else spread)]
    found = verdict(records, "5c")
    assert (found.verdict, found.evidence.startswith("validation loss rises in 3 of 7")) == ("not resolved", True)
    # One more makes four of seven: the clearest. (z of 0.05 / 14 and of 0.8) x 0.05 / 0.02, squared: 78 and a few.
    assert 78 <= found.seeds <= 85
    apart = [*zip(trials[:6], (0.05, 0.05, 0.05, -0.05, -0.05, -0.05), strict=True), (trials[6], -0.05)]
    mixed = [trained(of, cell, seed, validation_loss=[0.4, 0.4, 0.3, 0.3, 0.3 + rise + each, 0.3 + rise + each])
             for cell, rise in apart for seed, each in enumerate(SPREAD)]
    assert verdict(mixed, "5c").verdict == "supported"
    even = over_fits(collect(mixed[:-3], [of]).of("table_1_2", lambda row: row.trained), expected=False)
    assert (even.verdict, even.seeds) == ("not resolved", None)
    assert even.evidence.endswith("it depends on the configuration, not on seeds")


def test_rise_compares_thirds_and_not_the_least_loss():
    """A noisy but flat loss has a least value below its last; that is no over-fitting."""
    of = LOADED["network1_printed"]
    flat = [trained(of, of.cells[0], seed, validation_loss=[0.3, 0.3, 0.31, 0.29, 0.3 + 0.002 * (seed - 1), 0.3])
            for seed in range(3)]
    found = over_fits(collect(flat, [of]).of("network1_printed"), expected=True)
    assert found.verdict == "not resolved"


def test_network_1_has_the_wider_gap():
    gap = lambda one, other: verdict([
        *seeds("table_1_1", dict.fromkeys(labels("table_1_1"), 0.9 + one), "train"),
        *seeds("table_1_2", {"Trial-2": 0.9 + other}, "train")], "5d").verdict
    assert gap(0.05, 0.02) == "supported"
    assert gap(0.02, 0.05) == "contradicted"
    assert verdict([], "5d").verdict == "waiting"


# 6 and 7


def test_batch_normalization_speeds_up_learning():
    of = LOADED["batch_norm"]
    early = lambda with_, without: [
        trained(of, cell, seed, validation=(with_ if cell.config.model.batch_norm else without) + each)
        for cell in of.cells for seed, each in enumerate(SPREAD)]
    assert verdict(early(0.88, 0.86), "6").verdict == "supported"
    assert verdict(early(0.86, 0.88), "6").verdict == "contradicted"
    assert verdict(early(0.8610, 0.8603), "6").verdict == "not resolved"
    assert verdict(early(0.88, 0.86)[:3], "6").verdict == "waiting"


def test_dropout_narrows_the_gap_in_both_experiments():
    def gaps(dropout, without, names=("dropout", "final")):
        values = {"no dropout": 0.9 + without, "after fc1, 0.5": 0.9 + dropout, "ReLU after fc1": 0.9 + dropout}
        return [record for name in names for record in seeds(name, values, "train")]

    assert verdict(gaps(0.02, 0.06), "7a").verdict == "supported"
    assert verdict(gaps(0.06, 0.02), "7a").verdict == "contradicted"
    assert verdict(gaps(0.0200, 0.0208), "7a").verdict == "not resolved"
    assert verdict(gaps(0.02, 0.06, ["dropout"]), "7a").verdict == "waiting"


def test_dropout_and_the_rise_of_validation_loss():
    rise = lambda dropout, without: verdict([
        *with_rise("final", [dropout], wanted=lambda cell: cell.label == "ReLU after fc1"),
        *with_rise("final", [without], wanted=lambda cell: cell.label == "no dropout")], "7b")
    assert rise(0.0, 0.02).verdict == "supported"
    assert rise(0.0, 0.02).evidence.startswith("rise without dropout less rise with 0.5, 30 epochs: +0.0200 [+0.01")
    assert rise(0.02, 0.0).verdict == "contradicted"
    assert verdict([], "7b").verdict == "waiting"


# 8 Literature


@pytest.mark.parametrize(("part", "figure"), [("8a", 0.868), ("8b", 0.897), ("8c", 0.9072)])
def test_the_network_against_a_quoted_figure(part, figure):
    judged = lambda *values: verdict(seeds("final", dict(zip((*FINAL, ALL_IMAGES), [*values, *values[-1:]],
                                                             strict=False))), part)
    # half width of the interval: 4.302653 x 0.0005 / sqrt(3) = 0.00124
    assert judged(figure + 0.0013, figure + 0.0013).verdict == "supported"
    assert judged(figure - 0.0013, figure - 0.0013).verdict == "contradicted"
    reading = judged(figure - 0.0013, figure + 0.0013)
    assert (reading.verdict, reading.seeds) == ("not resolved", None)
    assert "depends on the reading" in reading.evidence
    assert judged(figure + 0.0012, figure + 0.0013).verdict == "not resolved"
    assert judged(figure + 0.0012, figure + 0.0013).seeds > 3
    assert judged(figure + 0.0013).verdict == "waiting"
    assert judged().verdict == "waiting"


# 9 Factors


def test_larger_images():
    sizes = lambda *values, **more: verdict(seeds("input_size", dict(zip(labels("input_size"), values, strict=True)),
                                                  **more), "9a").verdict
    assert labels("input_size")[0] == "input_size 28"
    assert sizes(0.90, 0.91, 0.92, 0.93) == "supported"
    assert sizes(0.90, 0.89, 0.88, 0.87) == "contradicted"
    assert sizes(0.90, 0.9003, 0.9006, 0.9009) == "not resolved"  # surely, but by less than 0.1 points
    few = dict(zip(labels("input_size")[:3], (0.90, 0.91, 0.92), strict=True))
    assert verdict(seeds("input_size", few), "9a").verdict == "waiting"
    assert sizes(0.90, 0.91, 0.92, 0.89) == "not resolved"
    assert sizes(0.90, 0.91, 0.92, 0.93, spread=(0.0,)) == "not resolved"  # four single seeds
    assert verdict([], "9a").verdict == "waiting"
    found = verdict(seeds("input_size", dict(zip(labels("input_size"), (0.90, 0.91, 0.92, 0.93), strict=True))), "9a")
    means = "90.00 at 28, 91.00 at 32, 92.00 at 40, 93.00 at 56 pixels"
    assert found.evidence.startswith(f"{means}, n = 3, 3, 3, 3, p < 0.001")


@pytest.mark.parametrize("name", claims.FACTORS)
def test_factors(name):
    part = f"9{chr(ord('b') + list(claims.FACTORS).index(name))}"
    own = labels(name)
    apart = {label: 0.88 + 0.004 * i for i, label in enumerate(own)}
    assert verdict(seeds(name, apart), part).verdict == "supported"
    wide = (-0.01, 0.0, 0.01)
    level = dict.fromkeys(own, 0.9)
    assert verdict(seeds(name, level, spread=wide), part).verdict == "not resolved"
    assert verdict(seeds(name, level), part).verdict == "contradicted"  # all surely within 0.3 points
    barely = {label: 0.9 + 0.0008 * i / (len(own) - 1) for i, label in enumerate(own)}
    assert verdict(seeds(name, barely, spread=(-1e-5, 0.0, 1e-5)), part).verdict == "contradicted"  # surely apart
    assert verdict(seeds(name, {own[0]: 0.9}), part).verdict == "waiting"
    assert verdict([], part).verdict == "waiting"


def test_factors_share_their_level():
    """p = 0.02 alone is supported; beside ten factors that show nothing it is not."""
    cells = labels("loss")
    shown = seeds("loss", {cells[0]: 0.90, cells[1]: 0.9045}, spread=(-0.0015, 0.0, 0.0015))
    assert verdict(shown, "9e").verdict == "supported"
    others = [record for name in claims.FACTORS if name not in ("loss", "depth")
              for record in seeds(name, dict.fromkeys(labels(name), 0.9), spread=(-0.01, 0.0, 0.01))]
    # Experiments share cells, and the last record of a cell counts: those of the shown factor come last.
    assert verdict(others + shown, "9e").verdict == "not resolved"


# The tables


def test_nine_claims_each_with_a_verdict_and_known_experiments():
    judged = claims.judge(collect([], list(LOADED.values())))
    assert [claim.number for claim, _ in judged] == list(range(1, 10))
    used = {name for claim, _ in judged for part in claim.parts for name in part.experiments}
    assert used <= set(LOADED)
    assert {one.claim.number: one.verdict for one in judged if one.verdict != "waiting"} == {4: "contradicted"}
    assert verdicts.summary_table(judged).count("**waiting**") == 8


def test_a_claim_falls_with_one_part_and_stands_only_with_all():
    judged = claims.judge(collect([], list(LOADED.values())))[4]
    finding = judged.findings[0]
    with_ = lambda *verdicts: claims.Judged(judged.claim, [finding._replace(verdict=one) for one in verdicts])
    assert [part.decides for part in judged.claim.parts] == [True, True, True, False]
    assert with_("supported", "supported", "supported", "contradicted").verdict == "supported"  # told beside
    assert with_("supported", "waiting", "contradicted", "supported").verdict == "contradicted"
    assert with_("supported", "waiting", "not resolved", "supported").verdict == "waiting"
    assert with_("supported", "not resolved", "supported", "supported").verdict == "not resolved"
    assert with_("supported", "supported", "supported", "supported").verdict == "supported"


def test_what_the_reports_networks_do_not_say_is_told_and_decides_nothing():
    judged = claims.judge(collect([], list(LOADED.values())))[2]
    assert [part.decides for part in judged.claim.parts] == [True, True, False]
    finding = judged.findings[0]
    with_ = lambda *verdicts: claims.Judged(judged.claim, [finding._replace(verdict=one) for one in verdicts])
    assert with_("supported", "supported", "contradicted").verdict == "supported"
    assert with_("supported", "not resolved", "contradicted").verdict == "not resolved"
    assert verdicts.why(with_("supported", "not resolved", "contradicted")) == (
        "*in the final network (5 epochs)*: no records yet.<br>1 other part: supported.")
    parts = verdicts.parts_table([with_("supported", "not resolved", "contradicted")])
    assert "| in the kernel x depth networks (10 epochs) | **contradicted**, beside |" in parts
    assert "| in the final network (5 epochs) | **not resolved** |" in parts


def test_the_summary_gives_the_evidence_that_decides_and_how_the_other_parts_fared():
    judged = claims.judge(collect([], list(LOADED.values())))[3]
    assert verdicts.why(judged) == (
        "*parameters, Network 1, which does not pad: the larger the kernel, the smaller the maps before fc1*: exact "
        "counts, smallest kernel first: 62,506, 47,186, 34,954, 35,890.<br>3 other parts: supported.<br>2 other parts: "
        "waiting.")
    told = [evidence.Finding("supported", "told and more", lead="told"), evidence.Finding("supported", "all")]
    several = judged._replace(findings=[*told, *told[:1] * (len(judged.findings) - 2)])
    assert verdicts.why(several).split("<br>") == [
        "*parameters, Network 1, which does not pad: the larger the kernel, the smaller the maps before fc1*: told.",
        "*parameters, the final network*: all.", "*multiply-adds, Network 1*: told.", "3 other parts: supported."]
    assert verdicts.verdict_text(several) == "**supported** (6 of 6 parts)"
    assert verdicts.verdict_text(judged) == "**contradicted** (1 of 6 parts)"


def test_what_decides_is_told_in_short_and_the_place_of_trial_2():
    cells = {cell.label: cell for cell in LOADED["table_1_2"].cells}
    accuracies = {label: 0.90 + 0.01 * i for i, label in enumerate(cells)}
    found = [trained(LOADED["table_1_2"], cells[label], seed, validation=value + spread)
             for label, value in accuracies.items() for seed, spread in enumerate(SPREAD)]
    assert verdict(found, "2a").lead == ("place 6 of 7 by mean validation accuracy; 1 of 6 comparisons resolved as "
                                         "claimed, 5 reversed or equal, 0 not resolved")
    lost = [record for record in found if record.cell != found[-1].cell]
    lost += [trained(LOADED["table_1_2"], cells["Trial-7"], seed, validation=0.1, test=0.1) for seed in range(3)]
    assert verdict(lost, "2e").lead.startswith("not learnt at all: Trial-7; ")


def test_parts_name_verdict_evidence_and_seeds():
    found = seeds("final", dict.fromkeys(RUNS, 0.95))
    judged = claims.judge(collect(found, list(LOADED.values())))
    rows = {row.split("|")[1].strip(): row for row in verdicts.parts_table(judged).splitlines() if row.startswith("|")}
    assert "**contradicted**" in rows["1b"]
    assert "that lie above: 94.75 to 95.25 (ReLU after fc1), 94.75 to 95.25 (nothing after fc1), 94." in rows["1b"]
    assert "`final`" in rows["1b"]
    of_part = verdicts.by_experiment(judged)["final"][1]
    assert of_part == ("1b (test 90.4 % (section 1.7)): **contradicted**, 12 of 12 runs give 90.4 % or more (3 of 3: "
                       "ReLU after fc1; 3 of 3: nothing after fc1; 3 of 3: split 1; 3 of 3: split 2), the highest "
                       "95.05 %")


def test_each_test_of_the_parts_is_told_once():
    text = verdicts.parts_table(claims.judge(collect([], list(LOADED.values()))))
    assert text.count("exact count, kernel by kernel") == 1
    assert "\n- 4a, 4b, 4c, 4d, 4e, 4f: exact count, kernel by kernel." in text


def test_arithmetic_that_differs_is_left_out_of_the_evidence():
    tf32 = msgspec.structs.replace(LABELS, cudnn_tf32=True)
    good = seeds("final", dict.fromkeys(FINAL, 0.904))
    other = [trained(LOADED["final"], LOADED["final"].cells[0], seed, test=0.5, environment=GPU, labels=tf32)
             for seed in range(3, 6)]
    assert verdict(good + other, "1b").verdict == "supported"
