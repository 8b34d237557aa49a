"""Classify pictures with a trained network.

    python -m fmnist_core.predict --weights runs/weights/KEY.safetensors shoe.jpg
    python -m fmnist_core.predict --weights runs/weights/KEY.safetensors pictures/*.png

Weights are kept by `bench/run.py --keep-weights`.

Fashion-MNIST shows one piece of clothing, light on black, filling a square. A picture with a bright border is taken
to be dark on light and inverted; every picture is made grey, cut to its content, and fitted into the square. For a
network that was trained on colour images a picture is only cut to a square and resized.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fmnist_core.config import class_names
from fmnist_core.weights import load

CONTENT = 13
"""Grey level, of 255, above which a pixel is taken for content."""


def prepare(picture: Image.Image, size: int = 28, *, colour: bool = False) -> Tensor:
    """(1, 1, size, size) in [0, 1], light on black, as the training images are; (1, 3, size, size) in colour."""
    if colour:
        square = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(square, np.float32) / 255).permute(2, 0, 1)[None]
    grey = picture.convert("L")
    if np.median(_border(np.asarray(grey))) > 127:
        grey = ImageOps.invert(grey)
    box = grey.point(lambda level: 255 if level > CONTENT else 0).getbbox()
    fitted = ImageOps.pad(grey.crop(box) if box else grey, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted, np.float32) / 255)[None, None]


def _read(name: str) -> Image.Image:
    """Raises ValueError that names the file and what is wrong with it."""
    try:
        with Image.open(Path(name)) as picture:
            picture.load()
            if picture.mode.startswith(("I", "F")):  # of which nobody says where white is
                raise ValueError(f"it has more than 8 bits a channel (mode {picture.mode}); expected 8")
            return picture
    except FileNotFoundError as error:
        raise ValueError(f"{name}: there is no such file") from error
    except IsADirectoryError as error:
        raise ValueError(f"{name}: a folder, not a picture") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not a picture of a kind that can be read, such as PNG or JPEG") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # as Pillow's plugins raise them
        raise ValueError(f"{name}: the picture cannot be read: {error}") from error


def _border(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints, for each picture, the three likeliest classes. Exit code 2: a file that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m fmnist_core.predict", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, metavar="FILE", help="a .safetensors file of `--keep-weights`")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    options = parser.parse_args(arguments)
    try:
        trained = load(options.weights)
        names, (channels, size, _) = class_names(trained.cell.data), trained.input_shape
        for name in options.images:
            probabilities_K = trained.probabilities(prepare(_read(name), size, colour=channels == 3))[0]
            likeliest = probabilities_K.topk(3)
            print(f"{name}: " + ", ".join(f"{names[int(k)]} {float(p):.1%}"
                                          for p, k in zip(likeliest.values, likeliest.indices, strict=True)))
    except ValueError as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
