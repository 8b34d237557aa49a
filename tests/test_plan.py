"""Which tasks there are, in which order, and which are left; and the keys by which records are found again."""

import msgspec
import pytest

from bench.experiment import Experiment, parse
from bench.record import SpeedRecord, TrainRecord
from bench.records.lines import key_of
from bench.sweep.plan import Task, due, missing, outdated, siblings, tasks
from fmnist_core.config import (
    CellConfig,
    DataConfig,
    ExecutionConfig,
    KernelDepthCNN,
    Network2,
    TrainConfig,
    quality_key,
    speed_key,
)

MACHINE = {"device": "cpu", "driver": "", "cpu": "a cpu", "num_cpus": 2, "num_threads": 2, "torch": "2.11.0"}
CELL = CellConfig(model=Network2())


def made(name: str = "one", depths: tuple[int, ...] = (1, 2), **fields: object) -> Experiment:
    content = {"question": "?", "base": {"model": {"name": "cnn"}}, "grid": {"model.depth": list(depths)}, "timings": 1,
               **fields}
    return parse(content, name=name)


def planned(*experiments: Experiment, num_seeds: int | None = 1, num_timings: int | None = None, gpu: bool = False,
            processes: int = 1) -> list[Task]:
    return tasks(experiments, num_seeds=num_seeds, num_timings=num_timings, gpu=gpu, machine=MACHINE,
                 num_processes=processes)


def outline(chosen: list[Task]) -> list[tuple[str, int, int | None]]:
    return [(task.experiment, task.cell.config.model.depth, task.seed) for task in chosen]  # type: ignore[union-attr]


def done(task: Task, **fields: object) -> TrainRecord | SpeedRecord:
    if task.seed is None:
        return SpeedRecord(experiment="one", speed_key=task.key, cell={}, **fields)  # type: ignore[arg-type]
    return TrainRecord(experiment="one", quality_key=task.key, seed=task.seed, cell={}, **fields)  # type: ignore[arg-type]


# Tasks


def test_trainings_come_seed_by_seed_and_then_the_timings():
    assert outline(planned(made(), num_seeds=2)) == [("one", 1, 0), ("one", 2, 0), ("one", 1, 1), ("one", 2, 1),
                                                     ("one", 1, None), ("one", 2, None)]


def test_the_number_of_seeds_is_the_experiments_own_for_the_device_unless_given():
    chosen = made(depths=(1,), seeds={"cpu": 2, "cuda": 5}, timings=0)
    assert [task.seed for task in planned(chosen, num_seeds=None)] == [0, 1]
    assert [task.seed for task in planned(chosen, num_seeds=None, gpu=True)] == [0, 1, 2, 3, 4]
    assert [task.seed for task in planned(chosen, num_seeds=3, gpu=True)] == [0, 1, 2]


def test_a_cell_of_several_experiments_is_one_task_of_the_first():
    chosen = planned(made("one", (1, 2)), made("two", (2, 3)))
    assert outline(chosen) == [("one", 1, 0), ("one", 2, 0), ("two", 3, 0),
                               ("one", 1, None), ("one", 2, None), ("two", 3, None)]
    assert len({task.key for task in chosen}) == 6


def test_timings_go_round_all_cells_as_often_as_each_experiment_asks():
    often, once = made("often", (1, 2), timings=3), made("once", (3,), timings=1)
    timed = [(task.cell.config.model.depth, task.repeat) for task in planned(often, once)
             if task.seed is None]  # type: ignore[union-attr]
    assert timed == [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2), (2, 2)]


def test_each_timing_of_a_cell_has_a_key_of_its_own_and_the_first_that_of_the_cell():
    timed = [task for task in planned(made(depths=(1,)), num_timings=3) if task.seed is None]
    assert len({task.key for task in timed}) == 3
    assert timed[0].key == speed_key(timed[0].cell.config, MACHINE)


def test_nothing_is_timed_where_the_experiment_does_not_ask():
    assert [task.seed for task in planned(made(timings=0))] == [0, 0]
    assert [task.seed for task in planned(made(), num_timings=0)] == [0, 0]


def test_what_is_asked_for_goes_before_the_experiments_own_number():
    assert [task.repeat for task in planned(made(depths=(1,), timings=0), num_timings=2)] == [0, 0, 1]


def test_a_model_that_takes_no_steps_is_not_timed():
    baseline = parse({"question": "?", "base": {"model": {"name": "baseline"}},
                                 "grid": {"model.estimator": ["gaussian_nb", "sgd"]}}, name="made")
    assert [task.seed for task in planned(baseline)] == [0, 0]


def test_a_task_says_its_name_and_time_limit():
    (training, timing) = planned(made(depths=(1,), launch={"timeout_s": 2.5}))
    assert (training.name, timing.name) == ("one: depth 1, seed 0", "one: depth 1, timing 0")
    assert training.timeout_s == timing.timeout_s == 2.5


def test_processes_count_for_the_key_only_where_they_share_a_cell():
    alone, cells = planned(made()), planned(made(), processes=2)
    ddp = planned(made(launch={"mode": "ddp"}), processes=2)
    assert [task.key for task in cells] == [task.key for task in alone]
    assert not {task.key for task in ddp} & {task.key for task in alone}


def test_what_is_left_is_what_has_no_record():
    first, second, timing, other_timing = chosen = planned(made())
    records = [done(first), done(second, status="oom"), done(timing, status="timeout")]
    latest = {key_of(record): record for record in records}
    assert missing(chosen, {}, {}) == chosen
    assert missing(chosen, latest, {}) == [other_timing]
    assert missing(chosen, latest, outdated(latest, retry_failed=True)) == [second, timing, other_timing]
    assert missing(chosen, latest, outdated(latest, rerun=True)) == chosen
    again = {**latest, second.key: done(second)}
    assert missing(chosen, again, outdated(latest, retry_failed=True)) == [timing, other_timing]


# Half the batch after running out of memory


def halving(*sizes: int, times: int, **launch: object) -> list[Task]:
    return planned(made(depths=(1,), grid={"train.global_batch_size": list(sizes)}, timings=0,
                        launch={"halve_batch_after_oom": times, **launch}))


def batch_sizes(chosen: list[Task]) -> list[int]:
    return [task.cell.config.train.global_batch_size for task in chosen]


def test_a_smaller_batch_follows_only_where_asked_and_only_what_ran_out_of_memory():
    [unasked], [task] = halving(128, times=0), halving(128, times=2)
    assert unasked.smaller is None
    assert task[:5] == unasked[:5]  # the same key
    for status in ("ok", "error", "diverged", "timeout"):
        latest = {task.key: done(task, status=status)}
        assert missing([task], latest, {}) == []
        assert due([task], latest) == [task]
    first = {task.key: done(task, status="oom")}
    [half] = missing([task], first, {})
    assert missing([unasked], first, {}) == []
    assert (batch_sizes([half]), half.cell.label) == ([64], "global_batch_size 128, global_batch_size 64")
    second = {**first, half.key: done(half, status="oom")}
    [quarter] = missing([task], second, {})
    assert batch_sizes(due([task], second)) == [128, 64, 32]
    third = {**second, quarter.key: done(quarter, status="oom")}
    assert missing([task], third, {}) == []  # two times, as asked
    assert len(third) == 3


def test_half_of_a_batch_is_the_cell_that_has_that_batch():
    tasks_ = halving(128, 64, times=1)
    latest = {tasks_[0].key: done(tasks_[0], status="oom")}
    assert [task.key for task in missing(tasks_, latest, {})] == [tasks_[1].key] * 2
    assert batch_sizes(due(tasks_, latest)) == [128, 64]
    assert siblings(tasks_[0]._replace(seed=1, cell=tasks_[1].cell), missing(tasks_, latest, {})) == [tasks_[1]]


def test_outdated_records_bring_no_smaller_batch():
    [task] = halving(128, times=1)
    latest = {task.key: done(task, status="oom")}
    assert batch_sizes(missing([task], latest, outdated(latest, retry_failed=True))) == [128]


@pytest.mark.parametrize(("size", "parts", "expected"), [(5, 1, [5, 2, 1]), (8, 3, [8, 4]), (1, 1, [1])])
def test_batches_are_halved_while_there_is_an_image_for_each_part(size, parts, expected):
    chosen = made(depths=(1,), base={"model": {"name": "cnn"}, "train": {
        "global_batch_size": size, "gradient_accumulation": parts}}, launch={"halve_batch_after_oom": 20})
    for task in planned(chosen):  # a training and a timing
        found = []
        at: Task | None = task
        while at is not None:
            found.append(at)
            at = at.smaller
        assert batch_sizes(found) == expected
        assert len({each.key for each in found}) == len(expected)


# Keys


@pytest.mark.parametrize(
    ("key", "pinned"),
    [
        (quality_key(CELL, 0), "d638151bcf8e0fb0"),
        (speed_key(CELL, MACHINE), "e13912d31337724f"),
    ],
    ids=["quality", "speed"],
)
def test_the_keys_of_the_default_cell_are_pinned(key, pinned):
    assert key == pinned, (
        "The default cell has another key than before, so every record there is would be run again. If a default "
        "changed by mistake, or an option was added whose default does not mean 'as before', mend that. If the "
        "training code now learns something else, that is what fmnist_core.config.TRAINING_VERSION is for: raise it, "
        "pin the new keys here, and say in the commit that the published records have to be made again."
    )


def test_defaults_written_out_change_no_key():
    explicit = CellConfig(
        model=Network2(conv1_channels=4, fc_sizes=(392,), dropout=0.25), data=DataConfig(normalize=False),
        train=TrainConfig(epochs=10, learning_rate=0.001, optimizer="adam"), execution=ExecutionConfig(capture=False))
    as_in_a_file = msgspec.convert({"model": {"name": "network2", "fc_sizes": [392], "dropout": 0.25}, "data": {},
                                    "train": {"learning_rate": 1e-3, "momentum": 0.0}}, CellConfig)
    for cell in (explicit, as_in_a_file):
        assert quality_key(cell, 0) == quality_key(CELL, 0)
        assert speed_key(cell, MACHINE) == speed_key(CELL, MACHINE)


def test_what_decides_accuracy_decides_the_quality_key_and_nothing_else_does():
    others = [
        quality_key(CELL, 1),
        quality_key(CELL, 0, num_processes=2),
        quality_key(CellConfig(model=Network2(dropout=0.5)), 0),
        quality_key(CellConfig(model=KernelDepthCNN()), 0),
        quality_key(CellConfig(model=Network2(), data=DataConfig(dataset="synthetic")), 0),
        quality_key(CellConfig(model=Network2(), train=TrainConfig(precision="bf16")), 0),
    ]
    assert len({quality_key(CELL, 0), *others}) == 7
    compiled = CellConfig(model=Network2(), execution=ExecutionConfig(compile="default"))
    assert quality_key(compiled, 0) == quality_key(CELL, 0)


def test_what_decides_speed_decides_the_speed_key():
    others = [
        speed_key(CELL, {**MACHINE, "torch": "2.12.0"}),
        speed_key(CELL, MACHINE, num_processes=2),
        speed_key(CellConfig(model=Network2(dropout=0.5)), MACHINE),
        speed_key(CellConfig(model=Network2(), execution=ExecutionConfig(compile="default")), MACHINE),
    ]
    assert len({speed_key(CELL, MACHINE), *others}) == 5
    assert speed_key(CELL, dict(reversed(MACHINE.items()))) == speed_key(CELL, MACHINE)


@pytest.mark.parametrize(("options", "first_version", "same"), [
    ({"normalize": True}, "28efb50385f0e7d2", True), ({"shift": 2}, "04e0a46de067786c", True),
    ({"normalize": True, "shift": 2}, "e417a8ecad2875f5", False),
])
def test_what_is_augmented_and_normalised_is_a_version_ahead(options, first_version, same):
    """Grey moved into those images in the first version."""
    assert (quality_key(CellConfig(model=Network2(), data=DataConfig(**options)), 0) == first_version) == same


def test_a_version_of_the_training_code_is_part_of_every_key(monkeypatch):
    before = quality_key(CELL, 0), speed_key(CELL, MACHINE)
    monkeypatch.setattr("fmnist_core.config.TRAINING_VERSION", 1_000)
    assert not {quality_key(CELL, 0), speed_key(CELL, MACHINE)} & set(before)
