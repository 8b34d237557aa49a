"""The report's nine claims: what it says, what it shows, and how each part is judged. No torch.

A part names the experiments that it uses and its test. Its verdict is computed from their records, never typed.
"""

from collections.abc import Sequence
from typing import NamedTuple

from bench.formatting import percent, plural
from bench.judging import kernels
from bench.judging.evidence import Finding, Verdict
from bench.judging.final_network import (
    TABLE_1_4,
    TEST_SECTION_1_7,
    TEST_SECTION_1_8,
    VALIDATION,
    on_all_images,
    readings,
    runs,
)
from bench.judging.findings import ACCURACY, LOSS, Scale, above, contrasts, factors_matter, over_fits, rises
from bench.judging.one_run import figure_of_one_run, num_reaching
from bench.judging.trials import (
    Judge,
    contrast,
    gap_is_wider_in_network_1,
    in_reported_order,
    selected_beats_network_1,
    selected_has_least_loss,
    selected_is_best,
    trials,
)
from bench.rank_tests import NUM_PERMUTATIONS
from bench.records import outcomes
from bench.records.rows import Results, comparable

NON_NEURAL_QUOTED, NON_NEURAL_BEST, LOWEST_CITED_CNN = 0.868, 0.897, 0.9072
"""Test accuracies: the best non-neural model that the report quotes (section 1.7), the best of the data set's own
benchmark (a support vector classifier, which the report leaves out), and the lowest of the CNNs that it cites (1.2)."""
OWN_FAMILY = "kernel_depth"
"""Experiment of networks of this project's own."""
FACTORS = {
    "augmentation": "augmentation", "activation": "activation function", "optimizer": "optimizer and learning rate",
    "loss": "loss", "fc_layers": "number of fully connected layers", "batch_size": "batch size", "stride": "stride",
    "depth": "depth", "feature_maps": "feature maps", "learning_rate": "learning rate", "dropout": "dropout",
    "kernel_size_network1": "kernel size, Network 1", "kernel_size_network2": "kernel size, final network"}
"""Experiment to what it varies."""
DECISIVE: tuple[Verdict, ...] = ("contradicted", "waiting", "not resolved")
"""Verdicts on a part that decide the claim's, the strongest first."""

_KERNEL_TEST = ("Welch, Holm over two: kernels 2 and 3 each above 5, test accuracy, last epoch, each seed's mean over "
                "the depths; the final network at a learning rate of 0.001, since at 0.0001 it needs 30 epochs")
_COUNT_TEST = ("exact count, kernel by kernel. Network 1 does not pad: a larger kernel leaves smaller maps to its "
               "Linear layers")
_STEP_TEST = ("step of kernel 5 over that of kernel 2, in turns, or by the noise between two runs that the machine's "
              "calibration found, Bonferroni, at least 5 % slower; contradicted where faster or surely within 5 %")
_ORDER_TEST = ("Welch, Holm over the table's pairs tested so far: each as the report orders it, validation accuracy, "
               "last epoch")
_ABOVE_TEST = ("95 % interval of last-epoch test accuracy above the figure in both readings and trained on all 60,000 "
               "images; contradicted: below in all")
_ONE_RUN = ("the 95 % prediction interval for one run, last epoch, of some reading or split, by its arithmetic of most "
            "seeds, holds the figure, as it is printed (91.6 % is 91.55 or more), and its runs lie on both sides; "
            "contradicted: every interval lies above or below it")
_WHY_FEWER = {"kernel_size_network1": ", which does not pad: the larger the kernel, the smaller the maps before fc1"}
_SHORT = " (5 epochs)"
_TRAINED = {"augmentation": " (30 epochs)", "depth": " (kernel x depth networks, 10 epochs)",
            "kernel_size_network1": " (15 epochs at 0.0001)", OWN_FAMILY: " (10 epochs)"}
"""What is trained otherwise than for 5 epochs at a learning rate of 0.001."""
_KERNELS = {"kernel_size_network1": "Network 1", "kernel_size_network2": "the final network",
            OWN_FAMILY: "the kernel x depth networks"}


class Part(NamedTuple):
    statement: str
    experiments: tuple[str, ...]
    test: str
    judge: Judge
    is_told_beside: bool = False
    """It asks more than the report claims, and decides nothing; as what is of networks that the report has not."""

    @property
    def decides(self) -> bool:
        return not self.is_told_beside and self.experiments != (OWN_FAMILY,)


class Claim(NamedTuple):
    number: int
    statement: str
    reported: str
    """The report's own evidence."""
    parts: tuple[Part, ...]


class Judged(NamedTuple):
    claim: Claim
    findings: list[Finding]

    @property
    def told(self) -> list[tuple[Part, Finding]]:
        return list(zip(self.claim.parts, self.findings, strict=True))

    @property
    def verdict(self) -> Verdict:
        """A claim falls with any of its parts, and stands only with all of them; by the report's own networks."""
        verdicts = [finding.verdict for part, finding in self.told if part.decides]
        return next((verdict for verdict in DECISIVE if verdict in verdicts), "supported")


def judge(results: Results) -> list[Judged]:
    """Every claim with one finding for each of its parts."""
    factors = factors_matter({name: comparable(results.of(name)) for name in FACTORS})
    claims = [*CLAIMS, _everything_affects(factors)]
    return [Judged(claim, [part.judge(results) for part in claim.parts]) for claim in claims]


def _validation_is_reached(results: Results) -> Finding:
    rows = runs(results)
    at_best = num_reaching(rows, (outcomes.validation_best, VALIDATION))
    with_test = num_reaching(rows, (outcomes.validation_last, VALIDATION), (outcomes.test_last, TEST_SECTION_1_7))
    return figure_of_one_run(rows, outcomes.validation_last, VALIDATION, f"; at the best epoch of each {at_best}; with "
                             f"{percent(TEST_SECTION_1_7, 1)} % on test in the same run {with_test}")


def _batch_norm_is_faster(results: Results) -> Finding:
    rows = {row.setting("model.batch_norm"): row for row in results.of("batch_norm")}
    return contrasts([contrast(results, "with batch normalization less without it", rows[False], rows[True],
                               outcomes.early_validation)] if len(rows) == 2 else [])


def _dropout_lowers(what: str, outcome: outcomes.Outcome, scale: Scale, experiments: Sequence[str]) -> Judge:
    """Without dropout it is higher: in the final network, and in the same trained for a short while."""
    def judge_dropout(results: Results) -> Finding:
        pairs = []
        for rows in map(results.of, experiments):
            cells = {row.setting("model.dropout"): row for row in rows
                     if row.has({**TABLE_1_4, "model.dropout": row.setting("model.dropout"),
                                 "model.conv_dropout": 0.0, "model.fc_activation": "relu", "data.split_seed": 0})}
            if {0.0, 0.5} <= cells.keys():
                epochs = plural(rows[0].setting("train.epochs"), "epoch")
                name = f"{what} without dropout less {what} with 0.5, {epochs}"
                pairs.append(contrast(results, name, cells[0.5], cells[0.0], outcome))
        return contrasts(pairs, scale)
    return judge_dropout


def _all_above(figure: float) -> Judge:
    return lambda results: above([*readings(results), *on_all_images(results)], outcomes.test_last, figure)


def _larger_images_win(results: Results) -> Finding:
    return rises([(row.setting("data.input_size"), row) for row in comparable(results.of("input_size"))],
                 outcomes.test_last, "pixels")


def _everything_affects(factors: dict[str, Finding]) -> Claim:
    test = ("Kruskal and Wallis's test by permutation (Welch for two cells) of test accuracy, last epoch, cells that "
            f"learnt; Holm over all factors, so that p, by {NUM_PERMUTATIONS:,} permutations, is "
            f"{len(FACTORS) / (NUM_PERMUTATIONS + 1):.4f} at the least; contradicted where the extremes are surely "
            "less than 0.3 points apart. The final network, at a learning rate of 0.001, where nothing else is said")
    known = lambda finding: lambda results: finding
    parts = [Part(f"effect of {name}{_TRAINED.get(experiment, _SHORT)}", (experiment,), test,
                  known(factors[experiment])) for experiment, name in FACTORS.items()]
    larger = Part(f"larger images improve accuracy{_SHORT}", ("input_size",),
                  "Spearman's test by permutation of test accuracy, last epoch, over the sizes", _larger_images_win)
    return Claim(9, "Larger images improve performance; augmentation and the other choices of section 1.3 affect it",
                 "none: listed as ideas; section 1.8 says feature maps and kernel size matter, from single runs",
                 (larger, *parts))


CLAIMS = (
    Claim(1, "The final network reaches 91.6 % on validation and 90.4 or 90.8 % on test",
          "one run: Table 1.2 Trial-2; sections 1.7 and 1.8", (
              Part("validation 91.6 %", ("final",), _ONE_RUN, _validation_is_reached),
              Part("test 90.4 % (section 1.7)", ("final",), _ONE_RUN,
                   lambda results: figure_of_one_run(runs(results), outcomes.test_last, TEST_SECTION_1_7)),
              Part("test 90.8 % (section 1.8), which may be of a training on all 60,000 images", ("final",), _ONE_RUN,
                   lambda results: figure_of_one_run(runs(results, all_images=True), outcomes.test_last,
                                                     TEST_SECTION_1_8)))),
    Claim(2, "Trial-2 of Table 1.2 is the best of the seven; the trials of both tables come in this order",
          "Tables 1.1 and 1.2, one run each", (
              Part("Trial-2 is the best of Table 1.2", ("table_1_2",),
                   "Welch, Holm over the other six: Trial-2 above each, validation accuracy, last epoch",
                   selected_is_best),
              Part("Trial-2 has the least validation loss of Table 1.2", ("table_1_2",),
                   "Welch, Holm over the other six: each above Trial-2 by 0.001 or more, validation loss, last epoch",
                   selected_has_least_loss),
              Part("Trial-2 is above all trials of Network 1", ("table_1_1", "table_1_2"),
                   "Welch, Holm over those of Table 1.1 that learnt: Trial-2 above each, validation accuracy, last "
                   "epoch",
                   selected_beats_network_1, is_told_beside=True),
              Part("the order of Table 1.1", ("table_1_1",), _ORDER_TEST, in_reported_order("table_1_1")),
              Part("the order of Table 1.2", ("table_1_2",), _ORDER_TEST, in_reported_order("table_1_2")))),
    Claim(3, "Kernel sizes 2 and 3 give higher accuracy than 5", "section 1.8; the tables do not vary it", tuple(
        Part(f"in {network}{_TRAINED.get(experiment, _SHORT)}", (experiment,), _KERNEL_TEST,
             kernels.small_ones_win(experiment))
        for experiment, network in _KERNELS.items())),
    Claim(4, "A larger kernel has more parameters and costs more to compute",
          "section 1.8; the tables do not vary it", (
        *(Part(f"parameters, {network}{_WHY_FEWER.get(experiment, '')}", (experiment,), _COUNT_TEST,
               kernels.count_rises(experiment, lambda row: row.num_parameters))
          for experiment, network in _KERNELS.items()),
        *(Part(f"multiply-adds, {network}", (experiment,), _COUNT_TEST,
               kernels.count_rises(experiment, lambda row: row.multiply_adds))
          for experiment, network in _KERNELS.items()),
        *(Part(f"time of a step, {network}", (experiment,), _STEP_TEST, kernels.large_one_is_slower(experiment))
          for experiment, network in _KERNELS.items()))),
    Claim(5, "Network 1 over-fits; Network 2 does not", "section 1.5, Figure 1.2: the curves of one run", (
        Part("Network 1 over-fits", ("network1_printed", "table_1_1"),
             "validation loss, last third of the epochs less middle third: mean over seeds above 0 in most "
             "configurations that learnt (Bonferroni); second readings of a trial, as with momentum, are left out",
             lambda results: over_fits([*results.of("network1_printed"), *trials(results, "table_1_1")],
                                       expected=True)),
        Part("the final network's validation loss does not rise", ("final",), "the same, below 0 in most readings",
             lambda results: over_fits(readings(results), expected=False)),
        Part("Network 2 does not, over its trials", ("table_1_2",), "the same, below 0 in most trials",
             lambda results: over_fits(trials(results, "table_1_2"), expected=False)),
        Part("Network 1's trials have a wider gap between training and validation accuracy than the final network",
             ("table_1_1", "table_1_2"), "Welch, Holm over the trials of Table 1.1 that learnt: gap at the last epoch",
             gap_is_wider_in_network_1, is_told_beside=True))),
    Claim(6, "Batch normalization speeds up learning", "section 1.5.2, no figure", (
        Part(f"higher validation accuracy over the first {outcomes.EARLY_EPOCHS} epochs, at a learning rate of 0.001; "
             "by epochs and not by seconds",
             ("batch_norm",), "Welch: mean over these epochs, with against without", _batch_norm_is_faster),)),
    Claim(7, "Dropout between the two Linear layers reduces over-fitting", "section 1.6, no figure", (
        Part("a smaller gap between training and validation accuracy with a probability of 0.5", ("dropout", "final"),
             "Welch, Holm: gap at the last epoch, no dropout above 0.5",
             _dropout_lowers("gap", outcomes.gap_last, ACCURACY, ("final", "dropout"))),
        Part("validation loss rises less with a probability of 0.5", ("final",),
             "Welch: validation loss, last third of the epochs less middle third, no dropout above 0.5 by "
             "0.001 or more",
             _dropout_lowers("rise", outcomes.validation_loss_rise, LOSS, ("final",))))),
    Claim(8, "The network beats the non-neural models and is in line with the literature", "section 1.7, one run", (
        Part("above 86.8 %, the best non-neural model that the report quotes", ("final",),
             _ABOVE_TEST, _all_above(NON_NEURAL_QUOTED)),
        Part("above 89.7 %, the best non-neural model of the data set's benchmark", ("final",), _ABOVE_TEST,
             _all_above(NON_NEURAL_BEST)),
        Part("in line with others, read as above 90.72 %, the lowest accuracy that a CNN which it cites was published "
             "with", ("final",), _ABOVE_TEST, _all_above(LOWEST_CITED_CNN)))),
)
