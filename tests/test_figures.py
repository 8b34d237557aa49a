"""Figures of complete made records: what is written in them, their weight, their bytes."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import msgspec
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench import experiment
from bench.pages import curves, drawing, figures, grids, pareto, reported, scaling_tables
from bench.records.rows import collect
from tests.made import GPU, LABELS, complete, scaling, timed, trained

KERNEL_DEPTH = experiment.load("kernel_depth")


@pytest.fixture(scope="module")
def loaded():
    return [experiment.load(name) for name in experiment.names()]


@pytest.fixture(scope="module")
def drawn(loaded, some_images):
    return figures.draw(collect(complete(), loaded, [scaling()]))


def words(content):
    """The texts of an SVG, one per line."""
    elements = ElementTree.fromstring(content).iter()
    return "\n".join(element.text or "" for element in elements if element.tag.endswith("text"))


def test_every_figure_is_drawn_and_light(drawn):
    assert set(drawn) == {f"{drawing.name}.svg" for drawing in figures.DRAWINGS}
    assert {name: len(content) for name, content in drawn.items() if len(content) >= 100_000} == {}


def test_figures_have_axes_with_units_and_a_white_ground(drawn):
    expected = {
        "kernel_depth_accuracy.svg": ["kernel size (pixels)", "depth (convolutions)", "test accuracy (%), last epoch",
                                      "Mean test accuracy (%), n = 3 seeds",
                                      "Test accuracy, means and 95 % intervals, n = 3 seeds"],
        "kernel_depth_cost.svg": ["trainable parameters", "multiply-adds per image", "training (images/s)", "Size",
                                  "Arithmetic", "Speed: Test CPU, 1 thread"],
        "kernel_depth_pareto.svg": ["training throughput (images/s)", "test accuracy (%), last epoch", "Numbers: depth",
                                    "n = 3 seeds"],
        "kernel_depth_steps.svg": ["training step (ms)", "of 10 steps each. Test CPU, 1 thread"],
        "kernel_depth_limit.svg": ["median step / least possible", "Medians of 10 steps each", "1: the machine's"],
        "kernel_sizes.svg": ["kernel size (pixels)", "3 and 5", "as printed",
                             "Network 1, 15 epochs at a learning rate of 0.0001:"],
        "table_1_1_curves.svg": ["Trial-7, n = 3 seeds", "epoch", "loss (log)", "accuracy (%)"],
        "final_curves.svg": ["training images", "validation", "ReLU after fc1, n = 3 seeds: loss",
                             "Mean, and one sd either way"],
        "final_confusion.svg": ["Ankle boot", "predicted class", "true class", "91.0"],
        "final_images.svg": ["The first 2 test images, ReLU after fc1, seed 0: 1 wrong", "Ankle boot",
                             "\N{MULTIPLICATION X} Dress", "\N{MULTIPLICATION X} T-shirt/top"],
        "accuracy_cost.svg": ["trainable parameters", "multiply-adds per image", "training (s)", "Time on Test CPU",
                              "Means of n = 3 seeds",
                              "the report's", "kernel x depth", "not beaten at its cost"],
        "scaling.svg": ["images of a batch", "processes", "training (images/s)", "one cell, DDP, batch 1,000",
                        "Fused seeds: sum over seeds", "Means over rounds, and one sd either way; Test CPU"],
        "generalisation_gap.svg": ["training less validation accuracy (points)", "Network 1, mean of n = 3 seeds",
                                   "Network 2, mean of n = 3 seeds", "printed, ReLU after fc1"],
    }
    for name, labels in expected.items():
        assert [label for label in labels if label not in words(drawn[name])] == [], name
        assert re.search(rb'<path d="[^"]*" style="fill: #ffffff"', drawn[name]), name


def test_heat_map_shows_the_means(drawn):
    # Cell 5 of the grid (kernel 3, depth 2): 0.88 + 0.001 x 5 + mean of 0, 0.0005, 0.001
    assert "88.55" in words(drawn["kernel_depth_accuracy.svg"])


def test_bars_show_the_distance_to_the_limit(drawn):
    # Median step 10 ms at the first cell, floor 5 ms.
    assert "2.0" in words(drawn["kernel_depth_limit.svg"]).splitlines()


@pytest.mark.parametrize("name", ["kernel_depth_steps.svg", "kernel_depth_limit.svg"])
def test_bars_stand_in_a_group_for_each_depth(drawn, name):
    written = words(drawn[name]).splitlines()
    assert [text for text in written if text.startswith("depth ")] == [f"depth {depth}" for depth in (1, 2, 3, 4)]
    assert [text for text in written if text in ("2", "3", "4", "5")][:16] == ["2", "3", "4", "5"] * 4


@pytest.mark.parametrize(("low", "high"), [(6e4, 1e5), (6e4, 3e5), (1e3, 1e5), (1.0, 1e7)])
def test_numbers_of_a_logarithmic_axis_have_room(low, high):
    axes = Figure().subplots()
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    drawing.number_axis(axes.xaxis, logarithmic=True)
    assert 1 <= len([place for place in axes.get_xticks() if low <= place <= high]) <= 8


def test_the_front_is_a_staircase_that_no_cell_lies_beyond(loaded):
    results = collect(complete(), loaded)
    [axes] = grids.pareto(results).axes
    [line] = [line for line in axes.get_lines() if line.get_label() == "not beaten in both"]
    rates, accuracies = line.get_data()
    assert line.get_drawstyle() == "steps-post"  # at the accuracy of the faster cell, on to the next slower one
    assert list(rates) == sorted(rates, reverse=True)
    assert list(accuracies) == sorted(accuracies)
    assert len(rates) == 16  # every cell of the made records is slower and better than the next


def test_networks_on_the_front_are_named_and_those_left_out_counted(loaded):
    cells = KERNEL_DEPTH.cells
    seeds = lambda i, test, **more: [trained(KERNEL_DEPTH, cells[i], seed, test=test, **more) for seed in range(2)]
    records = [*seeds(0, 0.89, num_parameters=10), *seeds(1, 0.5), *seeds(2, 0.88, num_parameters=20),
               *seeds(3, 0.9, num_parameters=30)]
    records.append(trained(KERNEL_DEPTH, cells[4], test=0.99, num_parameters=5))  # one seed may be luck
    written = words(figures.draw(collect(records, loaded))["accuracy_cost.svg"])
    assert "1 kernel_depth: kernel_size 2, depth 1\n2 kernel_depth: kernel_size 2, depth 4\n" in written
    assert "kernel_size 2, depth 3" not in written
    assert "1 below 70 % are left out" in written
    assert re.search(r"5 of \d+ cells have records", written)


def test_every_network_of_every_experiment_is_drawn_and_light(loaded):
    results = collect(complete([one.name for one in loaded]), loaded)
    with matplotlib.rc_context(figures.STYLE):
        content = figures.svg(pareto.figure(results))
    assert len(content) < 100_000
    assert all(kind in words(content) for kind in pareto.KINDS)
    assert "have records" not in words(content)


def test_the_first_look_of_one_epoch_is_not_set_beside_the_others(loaded):
    quick = next(one for one in loaded if one.name == "quick")
    records = [trained(quick, quick.cells[0]), trained(KERNEL_DEPTH, KERNEL_DEPTH.cells[0])]
    assert [point.name for point in pareto.points_of(collect(records, loaded))] == [
        "kernel_depth: kernel_size 2, depth 1"]


def test_labels_cover_neither_points_nor_each_other():
    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    points = [(x / 20, y / 20) for x in range(3) for y in range(3)]
    axes.plot(*zip(*points, (1, 1), strict=True), "o", markersize=4)
    drawing.label_points(axes, [(x, y, f"{i:02}") for i, (x, y) in enumerate(points)], points)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text).expanded(1, 0.7) for text in axes.texts]  # digits have no descenders
    assert len(boxes) == 9
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    assert not any(box.contains(*axes.transData.transform(point)) for box in boxes for point in points)


def test_labels_of_lines_keep_their_order_and_a_distance():
    axes = Figure().subplots()
    axes.set_ylim(0, 10)
    drawing.label_ends(axes, [(1, 5.1, "c", "red"), (1, 5, "b", "red"), (1, 5, "a", "red"), (1, 9, "d", "red")])
    places = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert places["d"] == pytest.approx(9)
    assert np.diff([places[name] for name in ("b", "a", "c")]) == pytest.approx(0.45)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.5, "0.5"), (999, "999"), (20_000, "20,000"),
                                             (300_000, "300,000"), (1_500_000, "1.5 M"), (2e9, "2 G")])
def test_numbers_are_written_alike(value, text):
    assert drawing.number(value) == text


def test_no_figure_is_wider_than_the_page_nor_writes_numbers_otherwise(drawn):
    for name, content in drawn.items():
        assert float(ElementTree.fromstring(content).get("width").removesuffix("pt")) <= 620, name  # 830 pixels
        assert re.findall(r"(?<![\d.,])\d{4,}|\d%", words(content)) == [], name


def test_bytes_repeat_and_tell_no_date(drawn, loaded):
    some = {drawing for drawing in figures.DRAWINGS if drawing.name in ("kernel_depth_accuracy", "kernel_sizes")}
    results = collect(complete()[::-1], loaded)
    with matplotlib.rc_context(figures.STYLE):
        assert all(figures.svg(drawing.draw(results)) == drawn[f"{drawing.name}.svg"] for drawing in some)
    assert not any(re.search(rb"<dc:date>|Matplotlib v|20\d\d-\d\d-\d\d", content) for content in drawn.values())


def test_no_records_no_figures(loaded):
    assert figures.draw(collect([], loaded)) == {}


def test_part_of_the_records_still_draws(loaded):
    some = [trained(KERNEL_DEPTH, KERNEL_DEPTH.cells[0], 0), timed(KERNEL_DEPTH, KERNEL_DEPTH.cells[3])]
    drawn = figures.draw(collect(some, loaded))
    assert "waiting" in words(drawn["kernel_depth_accuracy.svg"])
    assert "n = 1 seed, no intervals" in words(drawn["kernel_depth_accuracy.svg"])
    assert all("1 of 16 cells has timings" in words(drawn[f"kernel_depth_{name}.svg"]).replace("\n", " ")
               for name in ("cost", "steps", "limit"))
    assert "kernel_depth_pareto.svg" not in drawn  # no cell has both


def test_labels_are_drawn_as_they_are(loaded):
    of = next(one for one in loaded if one.name == "table_1_1")
    odd = msgspec.structs.replace(of.cells[0], label="Trial $x_1$ <&>")
    changed = msgspec.structs.replace(of, cells=[odd])
    with matplotlib.rc_context(figures.STYLE):
        content = figures.svg(curves.trials(collect([trained(changed, odd)], [changed]), "table_1_1"))
    assert "Trial $x_1$ <&>" in words(content)


def test_times_come_from_one_machine_that_was_alone(loaded):
    shared = msgspec.structs.replace(LABELS, machine_shared=True)
    cells = KERNEL_DEPTH.cells
    records = [timed(KERNEL_DEPTH, cells[0], environment=GPU), *(timed(KERNEL_DEPTH, cell) for cell in cells[1:3]),
               *(timed(KERNEL_DEPTH, cell, environment=GPU, labels=shared) for cell in cells[3:9])]
    results = collect(records, loaded)
    assert grids.main_machine(results, results.of("kernel_depth")).cpu == "Test CPU"
    assert grids.main_machine(collect([], loaded), []) is None


def test_curves_average_over_the_seeds_that_reached_an_epoch():
    mean, sd = curves.mean_and_sd([[1.0, 2.0, 4.0], [3.0, 6.0]])
    assert mean.tolist() == [2.0, 4.0, 4.0]
    assert sd.tolist() == pytest.approx([np.sqrt(2), np.sqrt(8), 0.0])


def test_figures_of_a_part_of_the_cells_say_so(drawn, loaded):
    of = next(one for one in loaded if one.name == "table_1_2")
    some = figures.draw(collect([trained(of, cell) for cell in of.cells[:6]], loaded))
    assert "6 of 7 trials have records" in words(some["table_1_2_curves.svg"])
    assert "6 of 9 trainings have records" in words(some["generalisation_gap.svg"])
    assert "have records" not in words(drawn["table_1_2_curves.svg"])


def test_readings_are_drawn_to_one_scale(loaded):
    of = next(one for one in loaded if one.name == "final")
    axes = curves.final(collect([trained(of, of.cells[0]), trained(of, of.cells[1], validation=0.5)], loaded)).axes
    assert [one.get_ylim() for one in axes[:2]] == [one.get_ylim() for one in axes[2:]]
    assert axes[1].get_ylim()[0] < 50


def test_trials_are_wrapped_to_three_columns(loaded):
    axes = curves.trials(collect(complete(), loaded), "table_1_2").axes
    assert len(axes) == 2 * 7
    assert len({round(one.get_subplotspec().colspan.start) for one in axes}) == 3


def test_what_did_not_learn_has_no_gap_and_is_named(loaded):
    of = next(one for one in loaded if one.name == "table_1_1")
    accuracies = [0.1 if cell.label in ("Trial-6", "Trial-7") else 0.9 for cell in of.cells]
    records = [trained(of, cell, test=each) for cell, each in zip(of.cells, accuracies, strict=True)]
    written = words(figures.draw(collect(records, loaded))["generalisation_gap.svg"])
    assert "left out, as a seed's test accuracy ends below 50 %: Trial-6; Trial-7" in written.replace("\n", " ")
    assert "Trial-6" not in written.splitlines()
    assert {"Trial-5", "Trial-6, momentum 0.9"} <= set(written.splitlines())


def test_no_line_is_drawn_between_counts_of_processes(loaded):
    panels = scaling_tables.figure(collect([], loaded, [scaling()])).axes
    styles = [{container.lines[0].get_linestyle() for container in panel.containers} for panel in panels]
    assert styles[0] == {"-"}
    assert styles[3] == {"None"}
    assert [text.get_text() for text in panels[1].texts] == ["not measured"]


def test_several_machines_are_told_apart(loaded):
    other = msgspec.structs.replace(scaling(), environment=GPU)
    written = words(figures.draw(collect([], loaded, [scaling(), other]))["scaling.svg"])
    assert {"Test CPU: a cell each", "Test GPU: a cell each"} <= set(written.splitlines())


def test_a_panel_without_records_says_so(loaded):
    of = next(one for one in loaded if one.name == "kernel_size_network2")
    drawn = figures.draw(collect([trained(of, cell, seed) for cell in of.cells for seed in range(2)], loaded))
    assert words(drawn["kernel_sizes.svg"]).splitlines().count("waiting for records") == 1
    complete_figures = figures.draw(collect(complete(), loaded, [scaling()]))
    assert not any("waiting for records" in words(content) for content in complete_figures.values())


def test_without_timings_no_machine_is_named(loaded):
    written = words(figures.draw(collect([trained(KERNEL_DEPTH, KERNEL_DEPTH.cells[0])], loaded))
                    ["kernel_depth_cost.svg"])
    assert "0 of 16 cells have timings" in written.splitlines()
    assert "waiting for records" in written


def test_a_kernel_size_without_record_is_named(loaded):
    of = next(one for one in loaded if one.name == "kernel_size_network1")
    drawn = figures.draw(collect([trained(of, cell, seed) for cell in of.cells[:3] for seed in range(2)], loaded))
    written = words(drawn["kernel_sizes.svg"]).splitlines()
    assert written.count("no record") == 1
    assert "5" in written


def test_a_legend_is_drawn_once_for_panels_that_share_it(drawn):
    assert words(drawn["kernel_depth_cost.svg"]).splitlines().count("kernel size 3") == 1


def test_a_cell_far_below_the_axis_is_written_and_the_reports_mark_stays(loaded):
    of = experiment.load("table_1_1")
    cell = next(cell for cell in of.cells if cell.label == "Trial-7")
    records = [trained(of, cell, seed, validation=0.1) for seed in range(3)]
    [panel] = reported.figure(collect(records, loaded)).axes
    marks = {line.get_label(): line.get_xdata().tolist() for line in panel.lines}
    assert marks == {"mean over seeds here": [], "the report, one run": [87.9]}
    assert [text.get_text() for text in panel.texts] == ["here 10.0"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["Trial-7, n = 3"]
