"""The parser of every command of the harness: it answers a mistake in one line, with the nearest option. No torch."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from fmnist_core.nearest import did_you_mean, nearest


class StrictParser(argparse.ArgumentParser):
    """Takes options by their whole names, and shows its description as it is written."""

    def __init__(self, prog: str, description: str | None,
                 instead_of: Callable[[str], str] = lambda unknown: "") -> None:
        """`instead_of`: what to type in the place of an unknown option; empty: the nearest option is named."""
        super().__init__(prog=prog, description=description, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
        self._instead_of = instead_of

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ").split(" ")
        unknown = next((word.split("=")[0] for word in words if word.startswith("--")), "")
        known = [option for option in self._option_string_actions if option.startswith("--")]
        hint = ""
        if message.startswith("unrecognized arguments: ") and unknown:
            instead = self._instead_of(unknown)
            hint = did_you_mean(instead) if instead else nearest(unknown, known)
        print(f"{self.prog}: error: {message}{hint}; see --help", file=sys.stderr)
        sys.exit(2)


def count_up_to(most: int, least: int = 1) -> Callable[[str], int]:
    """What reads a whole number from `least` to `most`."""

    def read(text: str) -> int:
        if not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {least} to {most}")
        return int(text)

    return read


def folder(text: str) -> str:
    """An option's folder. An empty one comes of a variable that is not set, and would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("'': expected a folder; the current one is .")
    return text
