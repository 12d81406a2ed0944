"""One run of the grid: what identifies it, where its record lies, and where an unfinished one keeps its state."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from glora_lib.runs.language_profile import LanguageProfile
from glora_lib.runs.paths import CACHE
from glora_lib.runs.profile import Profile
from glora_lib.runs.provenance import commit
from glora_lib.runs.record import Record, RecordError, changed_settings, folder
from glora_lib.runs.transfer_profile import TransferProfile


@dataclass(frozen=True)
class Run:
    """One run of the grid. `label` names it in tables where settings differ from the method's own, else it is the method.

    Methods: every name in `METHODS`, with the options that the profile gives it, and those of `stages.STAGES`. `targets` are
    shifted test sets of the task, see `data.shifts`, that the result is measured on besides its own.
    """

    experiment: str
    task: str
    method: str
    profile: Profile | LanguageProfile | TransferProfile
    seed: int = 0
    label: str = ""
    targets: tuple[str, ...] = ()

    @property
    def recipe(self) -> Profile | LanguageProfile | TransferProfile:
        """The profile as the method uses it."""
        return self.profile.for_method(self.method)

    @property
    def id(self) -> str:
        return f"{self.task}--{self.label or self.method}--{self.profile.name}--s{self.seed}"

    @property
    def path(self) -> Path:
        """Where the run's record lies."""
        return folder(self.experiment, self.profile.name) / f"{self.id}.json"

    def exists(self) -> bool:
        """Whether a whole record with these settings and targets exists. One that cannot be read counts as missing."""
        try:
            record = Record.load(self.path)
        except RecordError:
            return False
        settings = record.settings
        if not {f"shift_{target}" for target in self.targets} <= set(record.metrics):
            return False
        return {name: settings.get(name) for name in self.recipe.settings()} == self.recipe.settings()

    @property
    def changed(self) -> dict:
        """Setting -> (there, here) of a record in this run's place that has other settings; {} where there is none."""
        return changed_settings(self.path, self.recipe.settings())

    @property
    def state_folder(self) -> Path:
        """Where an unfinished run keeps its state."""
        return self.state_of(commit())

    def state_of(self, code: tuple[str, bool]) -> Path:
        """Return the folder for this run, with these settings and that code, as `provenance.commit` names it."""
        settings = self.recipe.settings() | {"seed": self.seed, "code": code}
        if self.label == "supernet":  # what the search is set to does not matter to the training
            settings = {key: value for key, value in settings.items() if key not in self.recipe.evolution}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        return CACHE / "runs" / f"{self.task}--{self.label or self.method}--s{self.seed}--{digest}"

    def state(self, name: str) -> Path:
        """Return where an unfinished stage of the run keeps `name`."""
        return self.state_folder / name

    @property
    def supernet(self) -> "Run":
        """The training that this run shares with every other search of the same supernet."""
        return replace(self, label="supernet")
