"""Tasks that were loaded, as many as there is room for: a grid trains one after another, and measures each again later."""

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps

from torch import Tensor

from glora_lib.data.task import Task

ROOM = 4 * 2**30  # bytes of images: all tasks of the gpu profile, or two folders at 224 pixels
_loaded: OrderedDict[tuple, Task] = OrderedDict()  # by loader and arguments, the one that was asked for last at the end


def stays(load: Callable[..., Task]) -> Callable[..., Task]:
    """Return `load`, whose tasks stay until others that are asked for later need the room; the last one always stays."""

    @wraps(load)
    def loaded(*arguments) -> Task:
        key = (load, *arguments)
        if key not in _loaded:
            _loaded[key] = load(*arguments)
        _loaded.move_to_end(key)
        while len(_loaded) > 1 and sum(map(_size, _loaded.values())) > ROOM:
            _loaded.popitem(last=False)
        return _loaded[key]

    return loaded


def forget() -> None:
    """Let go of all tasks."""
    _loaded.clear()


def _size(task: Task) -> int:
    """Return how many bytes a task's images take in memory; those that stay on disk take none."""
    return sum(split.raw.nbytes for split in (task.train, task.val, task.test) if isinstance(split.raw, Tensor))
