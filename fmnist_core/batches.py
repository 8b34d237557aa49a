"""How an epoch's images are shared out: into batches, to processes, into parts. No torch."""

import math

from fmnist_core.config import TrainConfig


def check_batches(config: TrainConfig, num_train: int, num_processes: int) -> None:
    """Raise ValueError for a batch that `num_processes` cannot share: a full one, or the smaller one at the end."""
    batch_size, num_parts = config.global_batch_size, config.gradient_accumulation
    last = num_train % batch_size or batch_size
    if last < num_processes:
        raise ValueError(f"train.global_batch_size = {batch_size} leaves a batch of {last} images, "
                         f"too few for {num_processes} processes")
    if not config.sync_batch_norm or num_processes == 1:
        return
    for size in (last, batch_size) if num_train > batch_size else (last,):
        fewest, most = (num_chunks(share, num_parts) for share in shares(size, num_processes))
        if fewest != most:
            # Every pass of synchronized batch normalization waits for the same pass in the other processes.
            raise ValueError(f"train.sync_batch_norm = true needs as many parts of a batch in every process, but "
                             f"train.gradient_accumulation = {num_parts} cuts a batch of {size} images, shared by "
                             f"{num_processes} processes, into {fewest} parts here and {most} there")


def shares(size: int, num_processes: int) -> tuple[int, int]:
    """The smallest and the largest share of a batch in a process, as `Tensor.tensor_split` deals them out."""
    return size // num_processes, math.ceil(size / num_processes)


def num_chunks(size: int, num_parts: int) -> int:
    """How many parts `Tensor.chunk(num_parts)` makes of so many images: all of one size but the last, and no more."""
    return math.ceil(size / math.ceil(size / num_parts))
