"""Batches that several processes can share, against what torch makes of them."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fmnist_core import batches
from fmnist_core.config import TrainConfig

sizes = st.integers(1, 200)


@given(sizes, st.integers(1, 40))
def test_chunks_are_counted_as_torch_makes_them(size, num_parts):
    assert batches.num_chunks(size, num_parts) == len(torch.empty(size).chunk(num_parts))


@given(sizes, st.integers(1, 8), st.integers(1, 9), sizes)
def test_what_passes_gives_every_process_as_many_parts_of_every_batch(batch_size, num_processes, num_parts, num_train):
    config = TrainConfig(global_batch_size=batch_size, gradient_accumulation=num_parts, sync_batch_norm=True)
    parts_N = [{len(share.chunk(num_parts)) for share in batch.tensor_split(num_processes) if len(share)}
               for batch in torch.empty(num_train).split(batch_size)]
    enough = all(len(batch) >= num_processes for batch in torch.empty(num_train).split(batch_size))
    fits = enough and (num_processes == 1 or all(len(parts) == 1 for parts in parts_N))
    try:
        batches.check_batches(config, num_train, num_processes)
    except ValueError:
        assert not fits
    else:
        assert fits


def test_the_error_names_the_batch_and_its_parts():
    config = TrainConfig(global_batch_size=64, gradient_accumulation=4, sync_batch_norm=True)
    message = ("train.sync_batch_norm = true needs as many parts of a batch in every process, but "
               "train.gradient_accumulation = 4 cuts a batch of 9 images, shared by 2 processes, into 4 parts here and "
               "3 there")
    with pytest.raises(ValueError, match=re.escape(message)):
        batches.check_batches(config, 64 + 9, 2)
    batches.check_batches(config, 64 + 8, 2)
    batches.check_batches(config, 64 + 9, 1)
    batches.check_batches(TrainConfig(global_batch_size=64, gradient_accumulation=4), 64 + 9, 2)


def test_a_batch_too_small_for_the_processes_is_refused():
    config = TrainConfig(global_batch_size=25)
    batches.check_batches(config, 101, 1)
    with pytest.raises(ValueError, match="leaves a batch of 1 images, too few for 2 processes"):
        batches.check_batches(config, 101, 2)
