"""Tasks by name, few-shot tasks, domain shifts, and a check of your own folders. `data/README.md` says what each is."""

from glora_lib.data.folder import load_folder
from glora_lib.data.inventory import Report, check
from glora_lib.data.shifts import SHIFTS, Shift, load_shift, shifts_of, unavailable_target
from glora_lib.data.task import DataError, DataWarning, Images, Task
from glora_lib.data.tasks import BUILT_IN, load_task, unavailable

__all__ = [
    *(
        "BUILT_IN",
        "DataError",
        "DataWarning",
        "Images",
        "Report",
        "SHIFTS",
        "Shift",
        "Task",
        "check",
        "load_folder",
        "load_shift",
    ),
    *("load_task", "shifts_of", "unavailable", "unavailable_target"),
]
