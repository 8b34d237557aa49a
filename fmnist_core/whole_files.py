"""A file that is written whole or not at all. No torch."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Synced to disk before it takes the place of the earlier file, which stays where this raises (OSError).

    The draft beside it is the process's own: one that was killed leaves it, see `remove_drafts`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def remove_drafts(path: Path) -> None:
    """What killed processes left of it; nobody may be writing it."""
    for draft in path.parent.glob(f"{path.stem}.[0-9]*.draft"):
        draft.unlink(missing_ok=True)
