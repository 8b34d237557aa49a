"""What a misspelt word may have meant. No torch."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable

FEW = 2
"""Keys so few are all named."""
CUSTOMARY = {
    "lr": "learning_rate", "bs": "global_batch_size", "batch": "global_batch_size", "batch_size": "global_batch_size",
    "wd": "weight_decay", "opt": "optimizer", "clip": "gradient_clip_norm", "grad_clip": "gradient_clip_norm",
    "accumulation": "gradient_accumulation", "patience": "early_stopping_patience", "amp": "precision",
    "dtype": "precision", "init": "initialization", "scheduler": "schedule", "lr_scheduler": "schedule",
}
"""What others call some of our keys: the spelling does not tell."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message: which of the known words comes nearest; empty where none is near."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return did_you_mean(matches[0]) if matches else ""


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The same for dotted keys, by the last name: `width` may mean `model.width`, and `lr` what is customary."""
    section, _, name = key.rpartition(".")
    # The first of several counts, so those of the section asked for come first.
    keys = sorted(known, key=lambda each: each.rpartition(".")[0] != section)
    names = [each.rpartition(".")[2] for each in keys]
    customary = CUSTOMARY.get(name)
    matches = [customary] if customary in names else difflib.get_close_matches(name, names, n=1)
    return did_you_mean(keys[names.index(matches[0])]) if matches else ""


def nearest_or_all(key: str, known: Iterable[str]) -> str:
    """Where no key comes near, or there are few: all that there are."""
    known = list(known)
    near = nearest_key(key, known) if len(known) > FEW else ""
    return near or (f"; allowed: {', '.join(known)}" if known else "")


def no_module(name: str) -> str:
    """What is said of a module of the user's that is not there."""
    package, dot, _last = name.rpartition(".")
    path = getattr(importlib.import_module(package), "__path__", ()) if package else None
    near = nearest_key(name, [f"{package}{dot}{each.name}" for each in pkgutil.iter_modules(path)])
    return (f"there is no module '{name}'{near}; a module must be installed, or its folder named before the command: "
            "PYTHONPATH=FOLDER")


def did_you_mean(word: str) -> str:
    return f"; did you mean '{word}'?"
