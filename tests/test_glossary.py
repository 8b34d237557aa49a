"""The glossary against the schema that it is made of."""

import pytest

from bench import record
from bench.pages import glossary


@pytest.mark.parametrize("name", glossary.SHOWN)
def test_fields_are_those_of_the_struct_in_order(name):
    assert [field.name for field in glossary.fields(name)] == list(getattr(record, name).__struct_fields__)


def test_every_struct_that_a_record_holds_is_shown():
    structs = {name for name in vars(record) if isinstance(kind := getattr(record, name), type)
               and issubclass(kind, record._Part) and kind.__struct_fields__ and kind.__module__ == record.__name__}
    assert structs == set(glossary.SHOWN)


def test_meanings_are_the_strings_under_the_fields():
    meanings = {field.name: field.meaning for field in glossary.fields("SpeedRecord")}
    assert meanings["block_s"] == "Wall time of the block in which `step_s` and `batch_s` were taken."


@pytest.mark.parametrize("name", glossary.SHOWN)
def test_every_field_says_what_it_means(name):
    assert [field.name for field in glossary.fields(name) if not field.meaning] == []


def test_rendered_as_a_table_per_struct():
    text = glossary.render()
    assert "### `TrainRecord`\n\nWhat one seed of one cell learnt.\n\n| field | type | meaning |" in text
    assert "| `batch_size` | int | Images of a pass. |" in text
    assert "| `reason` | str | Why the status is not `ok`. |" in text
    assert "dict\\[str, Any\\]" in text
