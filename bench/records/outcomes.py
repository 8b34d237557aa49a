"""What one finished training came to: one number per seed, which `stats` then summarizes over seeds. No torch.

Each takes a train record and gives a fraction (accuracies), seconds or epochs; None where the record has no such value,
for instance without a validation set. Epochs count from 1.
"""

from collections.abc import Callable, Sequence

from bench.record import TrainRecord

Outcome = Callable[[TrainRecord], float | None]

LEARNT = 0.5
"""Test accuracy at the last epoch above which a network is said to have learnt at all: only then can it over-fit."""
EARLY_EPOCHS = 5
"""The span in which the speed of learning is judged."""


def validation_last(record: TrainRecord) -> float | None:
    return _last(record.epochs.validation_accuracy)


def validation_best(record: TrainRecord) -> float | None:
    """The highest over the epochs: a maximum of noisy values, so it lies above what that epoch is worth."""
    return max(record.epochs.validation_accuracy, default=None)


def validation_loss_last(record: TrainRecord) -> float | None:
    return _last(record.epochs.validation_loss)


def test_last(record: TrainRecord) -> float | None:
    return _last(record.epochs.test_accuracy)


def test_selected(record: TrainRecord) -> float | None:
    """At the first epoch with the highest validation accuracy: what stopping there would have given."""
    epoch = best_epoch(record)
    return None if epoch is None else record.epochs.test_accuracy[epoch - 1]


def test_best(record: TrainRecord) -> float | None:
    """The highest over the epochs, chosen by the test set itself: too high by construction."""
    return max(record.epochs.test_accuracy, default=None)


def test_by_sign(record: TrainRecord) -> float | None:
    """At the last epoch, of an SVM: by the sign of the logits, where ties go to the lowest class, as Agarap counts."""
    return record.extra.get("sign_argmax_accuracy")


def gain_by_stopping(record: TrainRecord) -> float | None:
    """Test accuracy at the validation-selected epoch less that at the last."""
    selected, last = test_selected(record), test_last(record)
    return None if selected is None or last is None else selected - last


def train_last(record: TrainRecord) -> float | None:
    """On the first 10,000 training images, in evaluation mode."""
    return _last(record.epochs.train_subset_accuracy)


def gap_last(record: TrainRecord) -> float | None:
    """Generalisation gap: accuracy on training images less accuracy on validation images, at the last epoch."""
    train, validation = train_last(record), validation_last(record)
    return None if train is None or validation is None else train - validation


def best_epoch(record: TrainRecord) -> int | None:
    accuracies = record.epochs.validation_accuracy
    if not accuracies or len(accuracies) > len(record.epochs.test_accuracy):
        return None
    return accuracies.index(max(accuracies)) + 1


def early_validation(record: TrainRecord) -> float | None:
    """Mean validation accuracy over the first epochs: higher means that learning got there faster."""
    accuracies = record.epochs.validation_accuracy[:EARLY_EPOCHS]
    return _mean(accuracies) if len(accuracies) == EARLY_EPOCHS else None


def validation_loss_rise(record: TrainRecord) -> float | None:
    """Mean validation loss of the last third of the epochs less that of the middle third; above 0: over-fitting.

    Thirds and not single epochs, because the least of many noisy losses lies below the last one even where nothing
    rises. None below 6 epochs.
    """
    losses = record.epochs.validation_loss
    third = len(losses) // 3
    return _mean(losses[-third:]) - _mean(losses[-2 * third : -third]) if third >= 2 else None


def train_s(record: TrainRecord) -> float | None:
    return sum(record.epochs.train_s) if record.epochs.train_s else None


def _last(values: Sequence[float]) -> float | None:
    return values[-1] if values else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
