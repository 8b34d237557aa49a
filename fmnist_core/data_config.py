"""What the images of a cell are: the data sets, and how their images are split, scaled and augmented. No torch."""

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from fmnist_core.model_config import NUM_CLASSES, Config, Fraction, Natural


class DatasetFacts(NamedTuple):
    channels: int
    num_train: int | None
    """None: known only when they are read."""
    classes: tuple[str, ...] = tuple("0123456789")
    """Their names, in the order of the labels."""


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

DATASETS = {
    "fashion-mnist": DatasetFacts(1, 60_000, _CLOTHES),
    "synthetic": DatasetFacts(1, 60_000),
    "mnist": DatasetFacts(1, 60_000),
    "kmnist": DatasetFacts(1, 60_000, _KANA),
    "emnist-digits": DatasetFacts(1, 240_000),
    "cifar10": DatasetFacts(3, 50_000, _THINGS),
    "idx": DatasetFacts(1, None, tuple(f"class {label}" for label in range(NUM_CLASSES))),
}
"""Ten classes each. `synthetic` needs no files; `idx` is a folder of four IDX files of your own."""


class DataConfig(Config, frozen=True, kw_only=True):
    dataset: Literal[
        "fashion-mnist", "synthetic", "mnist", "kmnist", "emnist-digits", "cifar10", "idx"
    ] = "fashion-mnist"
    """A name of `DATASETS`."""
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of `idx` only, and needed there: the digest of the four files, so that a record says which data it is of."""
    class_names: Annotated[tuple[str, ...], Meta(max_length=NUM_CLASSES)] = ()
    """Of `idx` only: ten names, in the order of the labels, for tables and predictions; none: `class 0` and so on."""
    validation_size: Natural = 10_000
    """Images of the training set that are held out for validation; 0 trains on all of them."""
    split_seed: Natural = 0
    """Of the draw of the validation images; the same for all seeds of a cell."""
    input_size: Annotated[int, Meta(ge=8, le=256)] = 28
    """Height and width in pixels; other than the dataset's own: bilinear resizing, once, before training."""
    normalize: bool = False
    """Subtract the training set's mean and divide by its standard deviation. The report does not."""
    flip: Literal["none", "random", "alternating"] = "none"
    """Horizontal. `alternating` flips each image in every second epoch, starting at random."""
    shift: Annotated[int, Meta(ge=0, le=8)] = 0
    """Largest random translation in pixels in each direction; black moves in."""
    rotation: Annotated[float, Meta(ge=0.0, le=180.0)] = 0.0
    """Largest random rotation in degrees, either way."""
    erasing: Fraction = 0.0
    """Probability that a random square of an image is overwritten by noise."""
    erasing_size: Annotated[int, Meta(ge=1, le=28)] = 8
    """Side of that square in pixels."""
    mixup: Fraction = 0.0
    """Probability that a training image, and its label, is blended with another's (Zhang et al. 2018)."""
    cutmix: Fraction = 0.0
    """Probability that a box of a training image is another's, and as much of its label (Yun et al. 2019)."""
    augment_test: bool = False
    """Apply the training augmentation to the test images too, as one cited system does. Never to be compared."""
    test_views: Literal["one", "flip", "flip_shift"] = "one"
    """Test-time augmentation: mean logits of an image as it is, with its mirror image, or with both of them shifted by
    a pixel too. In every evaluation."""
