"""The report's final network: which cells are it, and what the report says that it reaches. No torch."""

from bench.records.rows import Results, Row

VALIDATION, TEST_SECTION_1_7, TEST_SECTION_1_8 = 0.916, 0.904, 0.908
"""Accuracies of one run, as the report prints them."""
TABLE_1_4 = {"model.dropout": 0.5, "model.batch_norm": True, "data.normalize": False, "data.validation_size": 10_000,
             "train.initialization": "torch"}
NOTHING_HELD_OUT = {**TABLE_1_4, "data.validation_size": 0}


def readings(results: Results) -> list[Row]:
    """The final network as Table 1.4 has it, with and without a ReLU between the Linear layers."""
    return results.of("final", lambda row: row.has({**TABLE_1_4, "data.split_seed": 0}))


def on_all_images(results: Results) -> list[Row]:
    """The same, trained with no images held out: what section 1.8 may be of."""
    return results.of("final", lambda row: row.has(NOTHING_HELD_OUT))


def runs(results: Results, *, all_images: bool = False) -> list[Row]:
    """Of both readings, every split and every arithmetic: a run is a run. `all_images`: those without a split, too."""
    tables = [TABLE_1_4, *([NOTHING_HELD_OUT] if all_images else [])]
    return [row for row in results.rows.get("final", ()) if any(row.has(one) for one in tables)]
