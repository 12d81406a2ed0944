"""GLoRA in small: adapt a model, train a supernet, search a configuration, fuse it away.

import glora_lib as gl

profile = gl.PROFILES["cpu"]
task = gl.load_task("mnist_5k", profile)
model = gl.load_backbone(profile.backbone, classes=task.classes, image_size=profile.image_size)
net = gl.adapt(model, rank=profile.rank, scale_broadcast=profile.scale_broadcast)
space = gl.Space(net.layer_names, ranks=profile.ranks)
gl.train(net, task.train, profile, sample=space.sample, seed=0)
score = lambda config: gl.accuracy(net.use(config), task.val)
found = gl.evolve(space, score=score, shapes=net.shapes, seed=0, **profile.evolution)
plain = gl.fuse(net.use(found.best))
print(gl.accuracy(plain, task.test))
"""

from glora_lib.backbones import BackboneError, load_backbone
from glora_lib.data import DataError, Task, load_task
from glora_lib.finetune.pipeline import finetune
from glora_lib.glora.adapt import adapt
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.model import AdaptedModel, fuse
from glora_lib.glora.search import Found, evolve, random_search
from glora_lib.glora.space import Choice, Config, Space
from glora_lib.glora.supernet import train_supernet
from glora_lib.methods import METHODS, NotFusable, trainable_parameters
from glora_lib.methods.adapter_file import load_adapter, restore, save_adapter
from glora_lib.methods.adapter_format import AdapterError
from glora_lib.methods.exchange import ExchangeError
from glora_lib.methods.from_lycoris import from_lycoris
from glora_lib.methods.from_peft import from_peft
from glora_lib.methods.to_peft import to_peft
from glora_lib.runs.profile import Profile
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.record import Record, RecordError, results
from glora_lib.superlora import SuperLoRA
from glora_lib.training.accuracy import accuracy, predict
from glora_lib.training.batch import TrainingError
from glora_lib.training.loop import train

__all__ = [
    *("AdaptedModel", "AdapterError", "BackboneError", "Choice", "Config", "DataError", "ExchangeError", "Found"),
    *("GLoRALinear", "METHODS", "NotFusable", "PROFILES", "Profile", "Record", "RecordError", "Space", "SuperLoRA", "Task"),
    "TrainingError",
    *("accuracy", "adapt", "evolve", "finetune", "from_lycoris", "from_peft", "fuse", "load_adapter", "load_backbone"),
    *("load_task", "predict", "random_search", "restore", "results", "save_adapter", "to_peft", "train"),
    *("train_supernet", "trainable_parameters"),
]
