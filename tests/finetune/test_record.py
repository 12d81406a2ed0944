"""A fine-tuning as a record: where it is kept, what it says of its origin, and records that belong to something else."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from glora_lib.finetune import record as record_module
from glora_lib.finetune.record import recorded
from glora_lib.runs import record as results
from glora_lib.runs.profiles import SMOKE
from glora_lib.runs.provenance import commit
from glora_lib.runs.record import Record, RecordError

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::UserWarning")]
OPTIONS = {"method": "linear", "seed": 0, "backbone": "test_vit", "weights": "random", "image_size": 32, "epochs": 1}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Pictures of one's own, the same as a packaged task's, and a project of its own."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (tmp_path / "own" / name).mkdir(parents=True)
        for index in range(10):
            pixels = rng.normal(level, 50, (20, 20, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / name / f"{index}.png")
    monkeypatch.setattr(record_module, "OUT", tmp_path / "out")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    shutil.copytree(tmp_path / "own", tmp_path / "out" / "packaged")
    return tmp_path


def make(places, pictures: str, compute: str = "missing", profile=SMOKE, **options) -> Record:
    return recorded(places / pictures, places / "made", profile, compute=compute, **OPTIONS | options)


def test_pictures_of_your_own_leave_nothing_among_the_results(places):
    with pytest.raises(RecordError, match="has no report of these pictures"):
        make(places, "own", "none")
    record = make(places, "own")
    assert record.provenance["commit"] == commit()[0]
    assert not list(places.rglob("own--linear--*"))
    Image.new("RGB", (20, 20)).save(places / "own" / "dark" / "new.png")
    shutil.rmtree(places / "made")
    assert make(places, "own").metrics["n_train"] > record.metrics["n_train"]


def test_a_packaged_task_s_record_is_kept_and_one_of_other_settings_is_set_aside(places):
    record = make(places, "out/packaged")
    assert make(places, "out/packaged", "none") == record
    report = places / "made" / "report.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | {"provenance": {"commit": "another"}}))
    assert make(places, "out/packaged") == record  # the one that is there
    shutil.rmtree(places / "made")
    with pytest.raises(RecordError, match=r"is of other settings \(epochs\); say compute="):
        make(places, "out/packaged", epochs=2)
    again = make(places, "out/packaged", "all", epochs=2)
    assert again.settings["epochs"] == 2
    assert len(list(places.rglob("*.other-settings"))) == 1


def test_a_report_that_does_not_say_where_it_comes_from_is_no_record(places):
    make(places, "own")
    report = places / "made" / "report.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | {"provenance": {}}))
    with pytest.raises(RecordError, match="does not say what code it is of"):
        make(places, "own")
