"""The model of shared steps by hand, crews of real processes, and what RESULTS.md makes of them."""

import msgspec
import pytest

from bench import scaling
from bench.experiment import load
from bench.pages import scaling_tables, side_tables
from bench.records.rows import collect
from bench.records.side_records import AXES
from bench.timing import scaling_model
from bench.timing.scaling_model import Link, StepCost
from bench.timing.workers import WorkerFailed
from tests import made

LINK = Link("a link", base_s=10.0, hop_s=1.0, bytes_per_s=4.0)


@pytest.mark.parametrize(("n", "seconds"), [(1, 0.0), (2, 10 + 2 * 1 + 8 / 4), (4, 10 + 6 * 1 + 1.5 * 8 / 4)])
def test_a_ring_by_hand(n: int, seconds: float) -> None:
    assert LINK.reduction_s(8, n) == seconds


def test_costs_are_recovered_from_steps_that_follow_the_model() -> None:
    cost = scaling_model.fit_step([10, 90, 1000], [2 + 0.5 * n for n in (10, 90, 1000)])
    assert cost == pytest.approx((2, 0.5))
    assert scaling_model.fit_step([1, 2], [3.0, 2.0]).per_image_s == 0  # never less than nothing


def test_a_link_is_recovered_from_reductions_that_follow_the_model() -> None:
    link = scaling_model.fit_link("fitted", 4, [0, 8, 800], [LINK.reduction_s(size, 4) for size in (0, 8, 800)])
    for size in (8, 80):
        assert link.reduction_s(size, 4) == pytest.approx(LINK.reduction_s(size, 4))


@pytest.mark.parametrize("n", [2, 8, 64])
@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_ddp_pays_exactly_beyond_the_break_even(n: int, factor: float) -> None:
    compute_s = factor * scaling_model.break_even_s(LINK, 8, n)
    cost = StepCost(fixed_s=3.0, per_image_s=compute_s / 100)
    assert (scaling_model.shared_step_s(cost, LINK, 100, 8, n) < cost.step_s(100)) == (factor > 1)


def test_the_least_compute_of_the_final_network() -> None:
    assert scaling_model.least_compute_s(653_072, 90, flops=1e12) == pytest.approx(6 * 653_072 * 90 / 1e12)


def test_the_network_is_the_slow_part_of_a_ring_through_several_nodes() -> None:
    assert scaling_model.link_between(8) is scaling_model.NVLINK
    assert scaling_model.link_between(9) is scaling_model.INFINIBAND


def test_every_axis_is_planned_and_grows_by_what_it_names() -> None:
    cell = load("final").cells[0].config
    plans = [each for axis in scaling.plan(cell, None, num_replicas=3) for each in axis]
    assert {each.axis for each in plans} == set(AXES)
    for each in plans:
        if each.axis == "global_batch_size":
            assert each.cell.train.global_batch_size == each.value
        if each.axis == "width":
            assert (each.cell.model.width, each.cell.model.kernel_size, each.cell.model.depth) == (each.value, 3, 2)
        if each.axis.startswith("processes"):
            assert each.num_processes == each.value <= 3
    assert [each.value for each in plans if each.axis == "processes, ddp"] == [2, 2]
    assert {each.cell.train.global_batch_size for each in plans if each.axis == "processes, ddp"} == {90, 1000}


@pytest.mark.distributed
def test_crews_of_real_processes() -> None:
    """One cell shared by two processes, and one point whose process fails: the other is measured all the same."""
    cell = load("final", {"data.dataset": "synthetic"}).cells[0].config
    broken = msgspec.structs.replace(cell, model=msgspec.structs.replace(cell.model, conv1_kernel_size=11,
                                                                         conv2_kernel_size=11, conv2_stride=4),
                                     data=msgspec.structs.replace(cell.data, input_size=8))
    plans = [[scaling.Plan("processes, ddp", 2, cell, 2), scaling.Plan("global_batch_size", 90, broken)]]
    points, reductions = scaling.measure(plans, {"threads": 1, "data_dir": None, "block_s": 0.01}, rounds=2)
    assert [len(point.step_s) for point in points] == [2, 0]
    assert (points[0].images_per_step, points[0].num_parameters) == (90, 313_346)
    assert "does not fit" in points[1].skipped
    assert [each.num_bytes for each in reductions] == list(scaling.REDUCED_BYTES)
    assert all(each.num_processes == 2 and len(each.seconds) == 2 for each in reductions)


def test_reductions_end_where_a_process_does(capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured until then is kept, and no link is fitted to a single size."""
    class Crew(scaling._Crew):
        def __init__(self) -> None:
            self.asked = scaling.Plan("processes, ddp", 2, load("final").cells[0].config, 2)

        def _ask(self, order: str) -> list[dict[str, float]]:
            if order != str(scaling.REDUCED_BYTES[0]):
                raise WorkerFailed("killed")
            return [{"seconds": 1.0}, {"seconds": 2.0}]

    found = Crew().reductions(rounds=3)
    assert capsys.readouterr().err == "bench.scaling: no more all-reduces of 2 processes: killed\n"
    assert [(each.num_bytes, each.seconds) for each in found] == [(scaling.REDUCED_BYTES[0], [2.0] * 3)]
    assert "| 2 | 1,000 |" not in scaling_tables.render(msgspec.structs.replace(made.scaling(), reductions=found))


def test_the_table_counts_the_images_of_all_processes() -> None:
    _, rows = side_tables.headers_and_rows(made.scaling())
    assert rows[3][6].startswith("33,300")
    assert rows[4][6].startswith("66,700")
    assert rows[4][7].startswith("2.000")
    assert rows[5][7] == "-"  # the first at its batch
    assert "skipped: out of luck" in rows[6]


def test_predicted_and_measured_stand_side_by_side() -> None:
    text = scaling_tables.render(made.scaling())
    row = next(line for line in text.splitlines() if line.startswith("| 2 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["2", "1,000", "8.80", "8.00", "1.10", "12.0", "1.36"]
    assert "Measured steps took 1.10 to 1.10 times as long as predicted: the model leaves out" in text


def test_the_prediction_for_gpus_by_hand() -> None:
    """The final network's gradient is 313,346 numbers; two GPUs, NVLink."""
    row = next(line for line in scaling_tables.render(made.scaling()).splitlines() if line.startswith("| final"))
    reduction_us = 8.4 + 2 * 3.4 + 4 * 313_346 / 450e9 * 1e6
    assert f"| {2 * reduction_us:.1f} |" in row
    assert f"| {6 * 653_072 * 90 / 67e12 * 1e6:.2f} |" in row


def test_the_figure_draws_every_axis() -> None:
    results = collect([], [], [made.scaling()])
    figure = scaling_tables.figure(results)
    assert figure is not None
    labels = [panel.get_xlabel() for panel in figure.axes]
    assert labels == [label for _, label, _ in scaling_tables.PANELS.values()]
    assert len(figure.axes[3].containers) == 2  # a cell each, and DDP at its one batch
    assert scaling_tables.figure(collect([], [])) is None
