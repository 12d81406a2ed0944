"""Files that are whole or absent: written beside their place, then renamed; what a failed write leaves is removed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder, and rename what was written there to `path` at the end.

    Where the body raises, the temporary is removed and the file of before stays; an OSError then names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch reports a full disk as a RuntimeError
        if isinstance(error, OSError | RuntimeError):
            reason = " ".join(str(error).split())[:200]
            raise OSError(f"{path} could not be written ({reason}); what was there before stays") from error
        raise
