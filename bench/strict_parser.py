"""The parser of every command of the harness: it answers a mistake in one line, with the nearest option. No torch."""

import argparse
import sys
from typing import NoReturn

from fmnist_core.nearest import nearest


class StrictParser(argparse.ArgumentParser):
    """Takes options by their whole names, and shows its description as it is written."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ").split(" ")
        unknown = next((word.split("=")[0] for word in words if word.startswith("--")), "")
        known = [option for option in self._option_string_actions if option.startswith("--")]
        hint = nearest(unknown, known) if message.startswith("unrecognized arguments: ") and unknown else ""
        print(f"{self.prog}: error: {message}{hint}; see --help", file=sys.stderr)
        sys.exit(2)
