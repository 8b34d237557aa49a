"""Under what conditions a training's seconds are said to be its own."""

import msgspec
import pytest

from bench.records.machines import Conditions, Machine, is_undisturbed, training_was_disturbed
from tests.made import CPU, LABELS, experiment_of, trained

MADE = experiment_of()
CELL = MADE.cells[0]


def of_epochs(*train_s, **labels):
    record = trained(MADE, CELL, labels=msgspec.structs.replace(LABELS, **labels))
    return msgspec.structs.replace(record, epochs=msgspec.structs.replace(record.epochs, train_s=list(train_s)))


@pytest.mark.parametrize(("train_s", "is_disturbed"), [
    ((2.0, 2.0, 2.0, 2.0), False),
    ((9.0, 2.0, 2.0, 2.0), False),  # the first epoch compiles
    ((2.0, 2.0, 2.0, 2.0, 2.0, 4.0), False),  # one slow epoch among many
    ((2.0, 2.0, 3.0, 4.0), True),
    ((2.0, 2.0, 4.0), False),  # two others tell nothing
    ((), False),
])
def test_epochs_that_differ_tell_of_other_work(train_s, is_disturbed):
    assert training_was_disturbed(of_epochs(*train_s)) is is_disturbed


def test_what_was_seen_then_counts_whatever_the_epochs_say():
    assert training_was_disturbed(of_epochs(2.0, 2.0, 2.0, 2.0, machine_shared=True))


def test_of_a_training_that_was_taken_up_again_the_record_knows_the_last_part_alone():
    assert training_was_disturbed(of_epochs(2.0, 2.0, 2.0, 2.0, num_resumes=1))


def test_seconds_of_several_seeds_as_one_module_are_no_seeds_own():
    steady = of_epochs(2.0, 2.0, 2.0, 2.0)
    together = of_epochs(2.0, 2.0, 2.0, 2.0, fused_seeds=16)
    assert (is_undisturbed(steady), is_undisturbed(together)) == (True, False)
    assert not is_undisturbed(of_epochs(2.0, 2.0, 3.0, 4.0))
    assert Conditions.of(together) == (Machine.at(CPU), False, 16)
