"""Systems of `bench.peers` that this project does not require: their packages are imported when they are asked for."""

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.timing.peer_work import Span, TorchPeer, Work, timed
from fmnist_core.clock import synchronize
from fmnist_core.models import layers as spec
from fmnist_core.models.networks import layers_of


class Lightning(TorchPeer):
    """lightning.Trainer without logger, checkpoints and bar; images as float tensors in a DataLoader."""

    def train(self, epochs: int) -> list[Span]:
        import lightning

        self.libraries = {"lightning": lightning.__version__}
        work, network, spans = self.work, self.model, list[Span]()

        class Module(lightning.LightningModule):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def training_step(self, batch: list[Tensor], index: int) -> Tensor:
                images, labels = batch
                return F.cross_entropy(self.network(images), labels)

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return work.optimizer(self.network)

        class Watch(lightning.Callback):  # type: ignore[misc]
            def on_train_epoch_start(self, *_: Any) -> None:
                self.start = time.monotonic()

            def on_train_epoch_end(self, *_: Any) -> None:
                synchronize(work.device)
                spans.append((self.start, time.monotonic()))

        images_NCHW, labels_N = work.floats()
        tensors = torch.utils.data.TensorDataset(images_NCHW.cpu(), labels_N.cpu())
        loader = torch.utils.data.DataLoader(tensors, batch_size=work.batch_size, shuffle=True)
        trainer = lightning.Trainer(max_epochs=epochs, devices=1, logger=False, enable_checkpointing=False,
                                    enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch()])
        trainer.fit(Module(), loader)
        return spans


class Keras:
    """keras.Sequential of the same layers, PyTorch's batch-norm constants, compile and fit on arrays."""

    def __init__(self, work: Work) -> None:
        import keras

        keras.utils.set_random_seed(work.seed)
        self.work, self.libraries = work, {"keras": keras.__version__, "backend": keras.backend.backend()}
        network = layers_of(work.cell.model)
        assert network is not None
        channels, height, width = work.dataset.input_shape
        made = [keras.Input((height, width, channels)), *(_keras_layer(keras.layers, layer) for layer in network)]
        self.model = keras.Sequential(made)
        self.model.compile(keras.optimizers.Adam(work.cell.train.learning_rate, epsilon=1e-8),
                           keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        images_NCHW, labels_N = work.floats()
        self.images_NHWC, self.labels_N = _nhwc(images_NCHW), labels_N.cpu().numpy()
        self.num_parameters = sum(int(np.prod(weight.shape)) for weight in self.model.trainable_weights)

    def train(self, epochs: int) -> list[Span]:
        fit = lambda: self.model.fit(self.images_NHWC, self.labels_N, batch_size=self.work.batch_size, verbose=0)
        return [timed(fit, torch.device("cpu")) for _ in range(epochs)]

    def test_accuracies(self) -> list[float]:
        test = self.work.dataset.test
        logits_NK = self.model.predict(_nhwc(test.images_NCHW.float() / 255), batch_size=1000, verbose=0)
        return [float((logits_NK.argmax(1) == test.labels_N.cpu().numpy()).mean())]


def _keras_layer(layers: Any, layer: spec.Layer) -> Any:
    match layer:
        case spec.Pad():
            left, right, top, bottom = layer.padding
            return layers.ZeroPadding2D(((top, bottom), (left, right)))
        case spec.Conv() if not layer.padding or (layer.stride == 1 and 2 * layer.padding == layer.kernel_size - 1):
            padding = "same" if layer.padding else "valid"
            return layers.Conv2D(layer.channels, layer.kernel_size, layer.stride, padding, use_bias=layer.bias)
        case spec.BatchNorm():
            return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
        case spec.Activate(kind="leaky_relu"):
            return layers.LeakyReLU(0.01)  # as in PyTorch; Keras's own slope is 0.2
        case spec.Activate():
            return layers.Activation(layer.kind)
        case spec.MaxPool():
            return layers.MaxPooling2D()
        case spec.Flatten():
            return layers.Flatten()
        case spec.Linear():
            return layers.Dense(layer.features, use_bias=layer.bias)
        case spec.Dropout():
            return layers.Dropout(layer.probability)
    raise ValueError(f"no Keras layer for {layer}")


def _nhwc(images_NCHW: Tensor) -> np.ndarray:
    return np.ascontiguousarray(images_NCHW.cpu().numpy().transpose(0, 2, 3, 1))
