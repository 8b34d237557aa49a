"""Experiments: what a TOML file means, and what is said about a wrong one."""

import sys
import tomllib
from types import ModuleType

import msgspec
import pytest

from bench import experiment
from bench.experiment import load, parse, select
from bench.inputs.dotted import as_written, flatten
from bench.inputs.settings import every_setting, known_keys, value_of
from fmnist_core.config import (
    CellConfig,
    DataConfig,
    KernelDepthCNN,
    Network1,
    Network2,
    TrainConfig,
    quality_key,
    to_dict,
)

CNN = {"model": {"name": "cnn"}}


@pytest.fixture(autouse=True)
def my(monkeypatch):
    """A module of the user's, without a file: `my.nets`."""
    monkeypatch.setitem(sys.modules, "my", ModuleType("my"))



def cells_of(text, **overrides):
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    return parse(tomllib.loads('question = "Why?"\n' + text), name="mine", overrides=overrides).cells


def error_of(text, **overrides):
    with pytest.raises(ValueError, match=r".") as error:
        cells_of(text, **overrides)
    return str(error.value)


# What a file means


def test_a_grid_is_the_product_in_the_order_of_the_file():
    cells = cells_of("""
        base.model.name = "cnn"
        [grid]
        model.kernel_size = [5, 2]
        train.epochs = [1, 7]
    """)
    values = [(cell.config.model.kernel_size, cell.config.train.epochs) for cell in cells]
    assert values == [(5, 1), (5, 7), (2, 1), (2, 7)]
    assert cells[1].label == "kernel_size 5, epochs 7"
    assert cells[1].axes == {"model.kernel_size": 5, "train.epochs": 7}
    assert cells[1].config == CellConfig(model=KernelDepthCNN(kernel_size=5), train=TrainConfig(epochs=7))


def test_tables_of_a_grid_are_labelled_by_what_is_in_them():
    cells = cells_of("""
        base.model = { name = "custom", factory = "my.nets:tiny" }
        grid.model.options = [{ width = 4, norm = true }, { width = 8 }]
    """)
    assert [cell.label for cell in cells] == ["width 4, norm true", "width 8"]


def test_cells_written_out_stand_on_top_of_the_base():
    cells = cells_of("""
        [base]
        model = { name = "network1", dropout = 0.5 }
        train = { epochs = 3, optimizer = "sgd" }
        [[cells]]
        label = "Trial-1"
        note = "as printed"
        reported = { test_accuracy = 0.9, source = "Table 1" }
        train.epochs = 4
        [[cells]]
        model = { dropout = 0.25, fc_sizes = [9, 8] }
        train.optimizer = "adam"
    """)
    assert cells[0].config == CellConfig(model=Network1(dropout=0.5), train=TrainConfig(epochs=4, optimizer="sgd"))
    assert (cells[0].label, cells[0].note, cells[0].reported.test_accuracy) == ("Trial-1", "as printed", 0.9)
    assert cells[0].reported.validation_accuracy is None
    assert cells[1].config == CellConfig(model=Network1(fc_sizes=(9, 8)), train=TrainConfig(epochs=3))


def test_overrides_come_last_and_may_be_of_the_launch():
    chosen = parse({"question": "?", "base": CNN, "grid": {"train": {"epochs": [1]}}}, name="mine",
                   overrides={"train.epochs": 9, "data.dataset": "synthetic", "launch.num_processes": 2})
    assert chosen.cells[0].config.train.epochs == 9
    assert chosen.cells[0].config.data == DataConfig(dataset="synthetic")
    assert (chosen.launch.num_processes, chosen.launch.mode) == (2, "cells")


def test_without_a_grid_the_base_is_the_one_cell():
    chosen = parse({"question": "?", "base": {"model": {"name": "network2"}}}, name="mine")
    assert [cell.config for cell in chosen.cells] == [CellConfig(model=Network2())]
    assert (chosen.name, chosen.title, chosen.timings) == ("mine", "mine", 3)
    assert (chosen.seeds.cpu, chosen.seeds.cuda) == (3, 16)


def test_a_network_of_ones_own_is_named_by_its_factory():
    (cell,) = cells_of('base.model = { name = "my.nets:tiny", width = 3 }')
    assert (cell.config.model.factory, cell.config.model.options) == ("my.nets:tiny", {"width": 3})


def test_a_number_of_seeds_is_that_of_every_device():
    assert parse({"question": "?", "seeds": 5, "base": CNN}, name="e").seeds == experiment.Seeds(cpu=5, cuda=5)


def test_an_edited_network_of_ones_own_is_another_one(tmp_path, monkeypatch):
    """Its records say which code they are of; nothing of it is run to find that out."""
    (tmp_path / "mine").mkdir()
    file, name = tmp_path / "mine" / "nets.py", "mine.nets:make"
    monkeypatch.syspath_prepend(str(tmp_path))
    own = {"question": "?", "base": {"model": {"name": name, "width": 3, "source": 5}}}
    assert parse(own, name="e").cells[0].config.model.source == ""  # it is not there: building it will say so
    configs = []
    for content in ("raise SystemExit", "raise SystemExit  # twice", "raise SystemExit"):
        file.write_text(content)
        configs.append(parse(own, name="e").cells[0].config)
    first, second, again = (quality_key(config, 0) for config in configs)
    assert first == again != second
    assert every_setting(configs[0])["code"] == configs[0].model.source
    assert every_setting(configs[0])["model.source"] == 5  # an argument of the factory
    written = {"question": "?", "base": {"model": to_dict(configs[0].model)}}
    assert parse(written, name="e").cells[0].config == configs[0]
    file.write_text("other")
    with pytest.raises(ValueError, match=f"model.source = '{configs[0].model.source}': the code of {name} has changed"):
        parse(written, name="e")
    file.unlink()
    assert parse(written, name="e").cells[0].config == configs[0]  # building it will say that there is no such module


def test_a_network_of_this_project_has_a_version_instead():
    own = {"question": "?", "base": {"model": {"name": "fmnist_core.models.wide_resnet:wide_resnet"}}}
    assert parse(own, name="e").cells[0].config.model.source == ""


def test_an_argument_of_ones_own_network_goes_by_its_name_everywhere():
    own = 'base.model.name = "my.nets:tiny"\ngrid.model = { width = [4, 8], bias = [true] }'
    chosen = parse(tomllib.loads(f'question = "?"\n{own}'), name="mine")
    (cell,) = select(chosen, {"model.width": [4]}).cells
    assert (cell.label, cell.axes) == ("width 4, bias true", {"model.width": 4, "model.bias": True})
    assert select(chosen, {"model.name": ["my.nets:tiny"], "model.bias": [True]}) == chosen
    assert [key for key in known_keys(cell.config) if "model" in key] == ["model.name", "model.width", "model.bias"]
    with pytest.raises(ValueError, match=r"unknown key 'model.with'; did you mean 'model.width'\?"):
        select(chosen, {"model.with": [4]})
    (one, two) = cells_of(own, model__depth=3, model__bias=False)
    assert (one.config.model.options, one.label) == ({"width": 4, "bias": False, "depth": 3}, "width 4, bias false")
    assert as_written(flatten(to_dict(two.config))) == {
        "model.name": "my.nets:tiny", "model.width": 8, "model.bias": False, "model.depth": 3}


@pytest.mark.parametrize(("overrides", "message"), [
    ({"model__width": 5}, "cells 'width 4' and 'width 8' are the same cell: model.width = 5 overrides in what they "
                          "differ"),
    ({"model__options__width": 5}, "unknown key 'model.options.width': an argument of a network of your own is a key "
                                   "of the model; write model.width"),
    ({"model__widths": [5]}, "model.widths = [5]: expected a number, a string, true or false")])
def test_a_wrong_override_of_ones_own_network(overrides, message):
    assert error_of('base.model.name = "my.nets:tiny"\ngrid.model.width = [4, 8]', **overrides).endswith(message)


def test_every_experiment_that_comes_along_can_be_read():
    assert {"quick", "kernel_depth"} <= set(experiment.names())
    for name in experiment.names():
        chosen = load(name)
        assert chosen.name == name
        assert chosen.cells


def test_the_default_experiment_is_the_sweep_in_small():
    values = [(value_of(cell.config, "model.kernel_size"), value_of(cell.config, "model.depth"))
              for cell in load("quick").cells]
    assert values == [(kernel_size, depth) for kernel_size in (2, 3, 4, 5) for depth in (1, 2, 3)]
    assert load("quick").seeds.cpu == 1
    assert {cell.config.train.epochs for cell in load("quick").cells} == {1}
    assert load("kernel_depth").seeds.cuda == 16


def test_the_control_keeps_its_place_whatever_is_overridden():
    content = {"question": "?", "control": "width 4, epochs 2", "base": CNN,
               "grid": {"model.width": [2, 4, 8], "train.epochs": [2]}}
    assert parse(content, name="mine").control == "width 4, epochs 2"
    changed = parse(content, name="mine", overrides={"train.epochs": 1})
    assert changed.control == changed.cells[1].label == "width 4, epochs 1"


def test_a_cell_without_a_label_is_named_by_its_settings():
    cells = cells_of('base.model.name = "cnn"\ncells = [{ model.width = 4 }, { label = "wide", model.width = 8 }, {}]')
    assert [cell.label for cell in cells] == ["width 4", "wide", "cell"]


def test_selecting_cells():
    cells = load("quick")
    chosen = select(cells, {"model.kernel_size": [4], "model.depth": [2]})
    assert [cell.label for cell in chosen.cells] == ["kernel_size 4, depth 2"]
    assert select(cells, {"label": ["kernel_size 4, depth 2"]}) == chosen
    assert select(cells, {}) == cells
    several = select(cells, {"model.kernel_size": [4, 2], "model.depth": [2]})
    assert [cell.label for cell in several.cells] == ["kernel_size 2, depth 2", "kernel_size 4, depth 2"]
    with pytest.raises(ValueError, match=r"no cell has model\.depth=1, model\.depth=9; values of .*: 1, 2, 3$"):
        select(cells, {"model.depth": [1, 9]})
    with pytest.raises(ValueError, match=r"experiment quick: no cell has model\.name=network1; values of .*: cnn$"):
        select(cells, {"model.name": ["network1"]})
    with pytest.raises(ValueError, match=r"no cell has .*depth=99; values of model\.depth: 1, 2, 3$"):
        select(cells, {"model.kernel_size": [2], "model.depth": [99]})
    many = parse({"question": "?", "base": CNN, "grid": {"train.epochs": list(range(1, 23))}}, name="many")
    with pytest.raises(ValueError, match=r"epochs=0; values of train\.epochs: 1, 2, 3, .*, 20, and 2 more$"):
        select(many, {"train.epochs": [0]})
    with pytest.raises(ValueError, match=r"; each of these values occurs, but not together$"):
        select(many, {"train.epochs": [1], "label": ["epochs 2"]})
    with pytest.raises(ValueError, match=r"unknown key 'width'; did you mean 'model.width'\?"):
        select(cells, {"width": [4]})
    with pytest.raises(ValueError, match=r"unknown key 'model.kernel'; did you mean 'model.kernel_size'\?"):
        select(cells, {"model.kernel": [4]})


def test_a_key_of_some_cells_selects_among_those():
    cells = (*cells_of('base.model.name = "cnn"'), *cells_of('base.model.name = "network1"'))
    both = msgspec.structs.replace(load("quick"), cells=cells)
    names = lambda **filters: [value_of(each.config, "model.name") for each in select(both, filters).cells]
    assert names(**{"model.num_pools": [2]}) == ["cnn", "network1"]
    assert names(**{"model.depth": [2]}) == ["cnn"]


def test_the_value_at_an_unknown_key():
    with pytest.raises(ValueError, match=r"unknown key 'train.epoch'; did you mean 'train.epochs'\?"):
        value_of(CellConfig(model=Network2()), "train.epoch")


# What is said about a wrong one: key, value, what is allowed


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seed = 3", ["unknown key 'seed'", "did you mean 'seeds'?"]),
        ("seeds = { gpu = 3 }", ["unknown key 'seeds.gpu'"]),
        ("seeds = { cpu = 0 }", ["seeds.cpu = 0", ">= 1"]),
        ('seeds = "3"', ["seeds = '3'", "expected a whole number, or a table of cpu and cuda"]),
        ('base.model.name = "mine.nets:tiny"', [
            "model.name = 'mine.nets:tiny' cannot be used: there is no module 'mine'", "PYTHONPATH=FOLDER"]),
        ("seeds = 2.5", ["seeds = 2.5", "expected a whole number, or a table of cpu and cuda"]),
        ('control = "width 3"', ["control = 'width 3': no cell has this label"]),
        ("targets = [90]", ["targets[0] = 90", "< 1.0"]),
        ("targets = [0.9, 0.8]", ["targets = [0.9, 0.8]", "expected rising fractions, each once"]),
        ("targets = [0.9, 0.9]", ["expected rising fractions, each once"]),
        ('launch.mode = "dpp"', ["launch.mode = 'dpp'", "did you mean 'ddp'?; allowed: cells, ddp"]),
        ("launch.timeout_s = -1.0", ["launch.timeout_s = -1.0", ">= 0.0"]),
        ("grid.train.epochs = []", ["[grid] train.epochs = []", "an empty list leaves no cell"]),
        ("grid.train.epochs = 3", ["[grid] train.epochs = 3", "expected a list"]),
        ("grid.train.epochs = [3, 3]", ["'epochs 3' and 'epochs 3'", "same cell"]),
        ("grid.train.epochs = [1, 10]\ncells = [{}]", ["[grid]", "[[cells]]", "only one of them"]),
        ("grid.train.epochs = [1, 0]", ["cell 'epochs 0'", "train.epochs = 0", ">= 1"]),
        ("cells = [{}, {}]", ["same cell"]),
        ("cells = [{ train.epochs = 10 }, {}]", ["same cell"]),  # 10 is the default
        ("cells = [{ lable = 'a' }]", ["unknown key 'cells[0].lable'", "did you mean 'label'?"]),
        ("cells = [{ label = 'a' }, { label = 'a', train.epochs = 2 }]", ["label = 'a': 2 cells have it"]),
        ("grid.seeds = [1, 2]", ["unknown key 'seeds' of a cell", "top of the experiment's file, or in --seeds N"]),
        ("base.label = 'a'", ["unknown key 'label' of a cell: it stands in one of [[cells]]"]),
        ("cells = [{ label = 3 }]", ["cells[0].label = 3", "expected a string"]),
        ("cells = [{ reported = { accuracy = 0.9 } }]", ["unknown key 'cells[0].reported.accuracy'"]),
        ("cells = [{ reported = 3 }]", ["cells[0].reported"]),
        ("base.train.epoch = 3", ["unknown key 'train.epoch'", "did you mean 'train.epochs'?"]),
        ("base.trane.epochs = 3", ["unknown key 'trane'", "did you mean 'train'?"]),
        ("base.train.xyz = 3", ["unknown key 'train.xyz'; allowed: train.epochs, train.global_batch_size, "]),
        ("base.train.lr = 3", ["unknown key 'train.lr'; did you mean 'train.learning_rate'?"]),
        ("seeds = { gpu = 3 }", ["unknown key 'seeds.gpu'; allowed: seeds.cpu, seeds.cuda"]),
        ("base.epochs = 3", ["unknown key 'epochs'; did you mean 'train.epochs'?"]),
        ("base = { model.name = 'cnn', width = 3 }", ["unknown key 'width'; did you mean 'model.width'?"]),
        ("base = { model = 3, width = 3 }", ["model = 3", "expected a table"]),
        ("base.train.epochs = 3.5", ["train.epochs = 3.5", "expected `int`"]),
        ("base.train.epochs = true", ["train.epochs = True", "expected `int`"]),
        ("base.train.learning_rate = nan", ["train.learning_rate = nan", "> 0.0"]),
        ("base.train.learning_rate = inf", ["train.learning_rate = inf", "<= 1000000.0"]),
        ('base.train.optimizer = "adm"', ["train.optimizer = 'adm'", "did you mean 'adam'?; allowed: adam, adamw"]),
        ('base.model.name = "cnnn"',
         ["model.name = 'cnnn'", "did you mean 'cnn'?; allowed: ", "network1", "package.module:factory"]),
        ("base.model = { name = 'network2', zzz = 3 }", ["unknown key 'model.zzz' of network2; allowed: model.conv1_"]),
        ("base.model.kernel_sise = 3", ["unknown key 'model.kernel_sise' of cnn", "did you mean 'model.kernel_size'?"]),
        ("base.model.kernel_size = 12", ["model.kernel_size = 12", "<= 11"]),
        ("base.model.fc_sizes = [3, 0]", ["model.fc_sizes[1] = 0", ">= 1"]),
        ("base.model = 3", ["model = 3", "expected a table"]),
        ("base = { data.input_size = 8, model = { name = 'cnn', num_pools = 4, depth = 4 } }",
         ["maxpool4: a 2 x 2 pool does not fit a map of 1 x 1"]),
        ("base.train.momentum = 0.9", ["train.momentum = 0.9", "no effect", "'adam'", "allowed with 'sgd'"]),
        ("base.train.other_learning_rate = 0.1", ["train.other_learning_rate = 0.1", "allowed with 'muon'"]),
        ("base.train = { optimizer = 'muon', precision = 'fp16' }", ["train.optimizer = 'muon'", "'fp16'", "'bf16'"]),
        ("base.train.nesterov = true", ["train.nesterov = true", "no effect", "'adam'", "allowed with 'sgd', 'muon'"]),
        ("base.train = { optimizer = 'sgd', nesterov = true }", ["train.nesterov = true", "train.momentum above 0"]),
        ("base.train.warmup = 0.5", ["train.warmup = 0.5", "no effect", "'constant'", "allowed with 'one_cycle'"]),
        ("base.data.erasing_size = 4", ["data.erasing_size = 4", "no effect", "data.erasing above 0"]),
        ("base.data.augment_test = true", ["data.augment_test = true", "no effect", "data.flip"]),
        ("base.execution = { deterministic = true, compile = 'auto' }", ["execution.deterministic", "'auto'"]),
        ("base.train.schedule = 'step'", ["train.steps = []", "'step' needs steps"]),
        ("base.train.steps = [[0.5, 0.1]]", ["train.schedule = 'constant'", "only it has them"]),
        ("base.train = { schedule = 'step', steps = [[0.5, 0.1], [0.5, 0.01]] }", ["expected fractions that rise"]),
        ("base.data = { mixup = 0.6, cutmix = 0.6 }", ["data.mixup = 0.6", "data.cutmix = 0.6", "at most 1"]),
        ("base = { data.mixup = 0.6, train.loss = 'squared_hinge', model.name = 'cnn' }", ["data.mixup", "'mse'"]),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(text, parts):
    has_model = "model.name" in text or "model = " in text
    message = error_of(text if has_model else f'base.model.name = "cnn"\n{text}')
    for part in parts:
        assert part in message


def test_a_kernel_that_does_not_fit_is_named_with_its_layer_and_map():
    message = error_of('base.model = { name = "network1", conv1_kernel_size = 11, conv2_kernel_size = 11 }')
    assert message == "conv2: a kernel of 11 does not fit a map of 9 x 9"  # (28 - 11 + 1) / 2 = 9


def test_a_missing_question_or_model():
    with pytest.raises(ValueError, match="missing key 'question'"):
        parse({}, name="mine")
    assert error_of("base.train.epochs = 1") == "missing key 'model'"
    assert error_of("base.model.depth = 1") == "missing key 'model.name'"
    assert error_of('base.model.nam = "cnn"') == "unknown key 'model.nam'; did you mean 'model.name'?"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train__epochs": "x"}, "train.epochs = 'x': expected `int`"),
        ({"train": 3}, "train = 3: expected a table"),
        ({"launch": 3}, "launch = 3: expected a table"),
        ({"launch__mode": 3}, "launch.mode = 3"),
        ({"launch__modes": "ddp"}, "unknown key 'launch.modes'; did you mean 'launch.mode'?"),
        ({"title": "x"}, "unknown key 'title' of a cell: it stands at the top of the experiment's file"),
        ({"": 1}, "key '': expected names"),
        ({"train__": 1}, "key 'train.': expected names with single dots between them, e.g. train.epochs"),
        ({"train": 1, "train__epochs": 1}, "key 'train.epochs': 'train' is a value, not a table"),
    ],
)
def test_a_wrong_override(overrides, message):
    assert message in error_of('base.model.name = "cnn"', **overrides)


def test_a_grid_that_would_never_end_is_refused():
    axes = [f"{key} = {list(range(1, 101))}" for key in ("train.epochs", "train.global_batch_size", "model.width")]
    message = error_of('base.model.name = "cnn"\n[grid]\n' + "\n".join(axes))
    assert message == "[grid] makes 1000000 cells; allowed: up to 100000"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"question = ", "not TOML"),
        (b"\xff", "not TOML"),
        (b"question = " + b"[" * 5000, "not TOML"),
        (b'question = "?"\n[base.train]\nepochs = 0\n[base.model]\nname = "cnn"', "train.epochs = 0"),
    ],
)
def test_an_error_names_the_file(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"experiment .*mine\.toml: ") as error:
        load(str(path))
    assert message in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.toml: No such file or directory"):
        load(str(tmp_path / "nowhere.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ValueError, match=r"folder\.toml: Is a directory"):
        load(str(tmp_path / "folder.toml"))


def test_an_unknown_name_tells_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown experiment 'quik'; did you mean 'quick'\?; .*kernel_depth"):
        load("quik")
    with pytest.raises(ValueError, match=r"or the path of a \.toml file"):
        load("../quick")
