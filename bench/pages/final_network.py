"""The final network in detail, and what over-fitting and early stopping come to. No torch."""

from bench import stats
from bench.formatting import NOTHING, escape, estimate, folded, interval_text, percent, plural, points, table
from bench.judging.evidence import ALPHA
from bench.judging.final_network import readings
from bench.pages.classes import mistakes, per_class
from bench.pages.layer_tables import in_closed_form, layer_table
from bench.records import outcomes
from bench.records.rows import Results, Row

ORDER = ("The report's order is convolution, ReLU, pool. The pool comes first here, with the same result: the largest "
         "of four numbers is the same before a rising function as after it.")
OVERFITTING_EXPERIMENTS = ("network1_printed", "table_1_1", "network2_printed", "table_1_2", "final")


def render(results: Results) -> str:
    """Tables 1.3 and 1.4 of the report, accuracy per class, and the most confident mistakes."""
    rows = readings(results)
    parts = []
    for i, row in enumerate(rows):
        listed = f"{layer_table(in_closed_form(row.cell.config))}\n\n{ORDER}"
        parts.append(_first_open(i, f"Layers, {escape(row.label)} (the report's Table 1.3)", listed))
    if rows:
        parts.append(f"**Hyper-parameters** (the report's Table 1.4)\n\n{_hyperparameters(rows[0])}")
    parts.append("**Accuracy per class** (test set, last epoch, %; mean ± sd [95 % interval] over seeds)\n\n"
                 + per_class(rows))
    parts += [folded(f"Most confident mistakes, {escape(row.label)} (test set, last epoch)", mistakes(row))
              for row in rows]
    return "\n\n".join(parts)


def _first_open(i: int, title: str, body: str) -> str:
    """What differs little from reading to reading is shown once."""
    return folded(title, body) if i else f"**{title}**\n\n{body}"


def overfitting(results: Results) -> str:
    """One row per configuration of Networks 1 and 2: gap, rise of the validation loss, and early stopping."""
    headers = ["experiment", "cell", "seeds", "training images", "validation", "gap (points)",
               "rise of validation loss", "best epoch (median)", "test, last epoch", "test, validation-selected",
               "gain by stopping (points)"]
    body = []
    for row in (row for name in OVERFITTING_EXPERIMENTS for row in results.of(name)):
        epochs = row.values(outcomes.best_epoch)
        body.append([f"`{row.experiment.name}`", escape(row.label), str(len(row.trained)) if row.trained else "waiting",
                     _mean(row, outcomes.train_last), _mean(row, outcomes.validation_last),
                     estimate(row.values(outcomes.gap_last), -1.0), _rise(row),
                     f"{stats.median(epochs):g} of {_num_epochs(row)}" if epochs else NOTHING,
                     _mean(row, outcomes.test_last), _mean(row, outcomes.test_selected), _gain(row)])
    return table(headers, body, text_columns=3) + "\n\n" + _stopping_answer(results)


def _stopping_answer(results: Results) -> str:
    learnt = {row.trained[0].quality_key: row for name in OVERFITTING_EXPERIMENTS for row in results.of(name)
              if row.learnt}
    gains = [values for row in learnt.values() if len(values := row.values(outcomes.gain_by_stopping)) > 1]
    intervals = [stats.mean_interval(values, 1 - ALPHA / len(gains)) for values in gains]
    means = [stats.mean(values) for values in gains]
    if not intervals:
        return "**Answer.** No answer yet: no configuration has two seeds."
    mean, (low, high) = stats.mean(means), stats.mean_interval(means)
    better, worse = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
    return (f"**Answer.** Of {plural(len(intervals), 'configuration')} that learnt, with two seeds or more, stopping "
            f"at the epoch with the best validation accuracy changes the test accuracy for the better in {better}, for "
            f"the worse in {worse}, and is not resolved in {len(intervals) - better - worse} (interval of the mean "
            f"difference within a seed, Bonferroni). Over them all it changes it by {points(mean)} points "
            f"[{points(low)}, {points(high)}].")


def _hyperparameters(row: Row) -> str:
    names = {"learning rate": "train.learning_rate", "batch size": "train.global_batch_size", "epochs": "train.epochs",
             "dropout": "model.dropout", "optimizer": "train.optimizer", "loss": "train.loss"}
    rows = [[name, escape(row.setting(key))] for name, key in names.items()]
    return table(["parameter", "value"], [*rows, ["shuffle", "every epoch anew"]])


def _mean(row: Row, outcome: outcomes.Outcome) -> str:
    values = row.values(outcome)
    return percent(stats.mean(values)) if values else NOTHING


def _rise(row: Row) -> str:
    values = row.values(outcomes.validation_loss_rise)
    if not values:
        return NOTHING
    show = lambda rise: f"{rise:+.4f}"
    return f"{show(stats.mean(values))}{interval_text(values, show)}"


def _gain(row: Row) -> str:
    values = row.values(outcomes.gain_by_stopping)
    return f"{points(stats.mean(values))}{interval_text(values, points)}" if values else NOTHING


def _num_epochs(row: Row) -> int:
    return max(len(record.epochs.validation_accuracy) for record in row.trained)
