"""A file that is written whole or not at all. No torch."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Durable when it returns; raises OSError, and leaves the earlier file. The draft beside it is the process's own:
    one that was killed leaves `drafts_of(path)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def drafts_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.*.draft"))
