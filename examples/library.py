"""The project as a library: train, evaluate, measure, and read records as a table.

Run it whole (`python examples/library.py`, less than a minute), or cell by cell in an editor that knows `# %%`.
"""

# %% A cell: what `[base]` of an experiment holds. `data.dataset = "fashion-mnist"` is the default.
from bench import frame
from bench.measure import measure
from bench.stats import throughput
from fmnist_core.accelerator import accelerator_for
from fmnist_core.config import CellConfig, DataConfig, KernelDepthCNN, TrainConfig
from fmnist_core.data import load
from fmnist_core.evaluation import evaluate
from fmnist_core.train import Training, fit

cell = CellConfig(
    model=KernelDepthCNN(kernel_size=3, depth=1, width=4),
    data=DataConfig(dataset="synthetic"),
    train=TrainConfig(epochs=1, global_batch_size=128),
)

# %% Train. The data set lies on the device, whole.
device = accelerator_for(cell.train.precision).device
training = Training(cell, seed=0, dataset=load(cell.data, device))
history = fit(training, on_epoch=lambda now: print(f"epoch {now.epoch}: {now.history.test_accuracy[-1]:.2%}"))
print(f"loss {history.train_loss[-1]:.3f}, {history.train_s[-1]:.1f} s")

# %% Evaluate. `training.model` is an ordinary torch module.
test = evaluate(training, training.dataset.test, keep_logits=True)
assert test.logits_NK is not None
print(f"test accuracy {test.accuracy:.2%}, loss {test.loss:.3f}, logits {tuple(test.logits_NK.shape)}")

# %% Measure: raw samples of a fresh model, as a sweep records them. The machine should have nothing else to do.
speed = measure(cell, training.dataset)
rate = throughput(speed.images_per_step, speed.step_s)
print(f"{rate.images_per_s:,.0f} images/s, IQR / median of the steps {rate.iqr_ratio:.1%}, "
      f"{speed.multiply_adds:,} multiply-adds")

# %% Read records, here the published ones, as a pandas DataFrame; `frame.COLUMNS` says what each column holds.
table = frame.load("experiments/results", ["kernel_depth"])
print(table[["cell", "seeds", "test_last_mean", "train_images_per_s"]].to_string(index=False))
