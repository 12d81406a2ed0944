"""Models of one architecture as one: whatever is frozen is shared, whatever is trained gets a leading axis of runs.

The runs' batches are folded into one, (runs * images, ...), so that the frozen parts compute as they always do. Only a module
that owns trained tensors sees the runs apart: `torch.func` maps it over them, so that no layer is written twice. A module may
have a faster form of its own, a method `for_runs`, and the caller may know one (`forms`).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from glora_lib.training.batch import BatchNorm
from glora_lib.training.checkpoint import options_of
from glora_lib.training.joined import join_blocks
from glora_lib.training.noise import Noise, rate, replace_noise

# a module's faster form: (its trained tensors by their names in it, each (runs, ...); x (runs, images, ...)) -> y
Form = Callable[[dict[str, Tensor], Tensor], Tensor]


class Unsuited(ValueError):
    """The models cannot compute as one; the message says why. One by one they can."""


class Stack(nn.Module):
    """The models as one module. `tensors` holds what is trained, (runs, numbers), one run a row; the models keep their own.

    Args:
        models: made alike, on one device. The heads may have different numbers of classes: rows are filled up with zeros, and
            their logits are minus infinity.
        example: images that the models take, to see which modules are called.
        forms: called with a module that owns trained tensors and its name, gives its faster form or None.
        during: called with all trained tensors by their names, (runs, ...), gives the context of a forward pass.
        own_noise: each run's dropout and drop path take masks that are set from outside (`noise`); without it they draw for all
            runs at once, from the device's generator.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        example: Tensor,
        forms: Callable[[nn.Module, str], Form | None] | None = None,
        during: Callable[[dict[str, Tensor]], AbstractContextManager] = nullcontext,
        own_noise: bool = True,
    ):
        super().__init__()
        self.runs, self.during = len(models), during
        self.names = _trained_names(models)
        classes = [_classes(model, example) for model in models]
        shapes = [{name: model.get_parameter(name).shape for name in self.names} for model in models]
        self.own_shapes = shapes
        self.shapes = {name: _common([own[name] for own in shapes], name, classes) for name in self.names}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        _alike(models)
        with torch.no_grad():
            rows = [torch.cat([_padded(m.get_parameter(n), self.shapes[n]).flatten() for n in self.names]) for m in models]
        self.tensors = nn.Parameter(torch.stack(rows))
        valid = torch.full((self.runs, 1, max(classes)), -torch.inf, device=example.device, dtype=self.tensors.dtype)
        for run, number in enumerate(classes):
            valid[run, :, :number] = 0
        self.register_buffer("valid", valid, persistent=False)
        # the template: the first model's modules, its frozen tensors shared, its owners of trained tensors mapped over the runs
        frozen = {id(p): p for p in models[0].parameters() if not p.requires_grad}
        template = copy.deepcopy(models[0], memo=frozen)  # each module in its mode: that of frozen normalisation is its own
        if any(isinstance(module, BatchNorm) and module.training for module in template.modules()):
            raise Unsuited("the models normalise over their batches; train them one by one")
        if own_noise:
            if any(rate(part) for name, part in template.named_modules() if name.endswith("attn_drop")):
                raise Unsuited("dropout inside attention draws for all runs at once; train the models one by one")
            replace_noise(template)
        owners, self.noise = _owners(template, example)
        for name, parts in owners.items():
            module = template.get_submodule(name)
            form = (forms(module, name) if forms else None) or getattr(module, "for_runs", None)
            template.set_submodule(name, _Mapped(module, parts, self.runs, form))
        join_blocks(template)
        self.template = template
        self.mapped = [module for module in template.modules() if isinstance(module, _Mapped)]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (runs, images, classes) of images (runs, images, ...), one batch a run."""
        parts = dict(zip(self.names, self.tensors.split(self.sizes, dim=1), strict=True))
        parts = {name: part.view(self.runs, *self.shapes[name]) for name, part in parts.items()}
        for module in self.mapped:
            module.tensors = {local: parts[name] for local, name in module.parts.items()}
        with self.during(parts):
            out = self.template(images.flatten(0, 1))
        for module in self.mapped:
            module.tensors = {}
        return out.unflatten(0, (self.runs, -1)) + self.valid

    @torch.no_grad()
    def give_back(self, models: Sequence[nn.Module]) -> None:
        """Copy what is trained into the models' own parameters."""
        for run, (model, shapes) in enumerate(zip(models, self.own_shapes, strict=True)):
            for name, part in zip(self.names, self.tensors[run].split(self.sizes), strict=True):
                own = tuple(slice(0, length) for length in shapes[name])
                model.get_parameter(name).copy_(part.view(self.shapes[name])[own])


class _Short(TorchFunctionMode):
    """Lets layers that are mapped compute in autocast's format as a whole: torch would shorten a product and not its bias.

    The sum is long then, and so are all activations behind it.
    """

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        device = next((a.device.type for a in arguments if isinstance(a, Tensor)), "cpu")
        if function not in (F.linear, F.conv2d) or not torch.is_autocast_enabled(device):
            return function(*arguments, **options)
        dtype = torch.get_autocast_dtype(device)
        short = lambda value: value.to(dtype) if isinstance(value, Tensor) else value  # noqa: E731
        with torch.autocast(device, enabled=False):
            return function(*map(short, arguments), **{name: short(value) for name, value in options.items()})


class _Mapped(nn.Module):
    """A module that owns trained tensors, applied run by run to a folded batch."""

    def __init__(self, module: nn.Module, parts: Mapping[str, str], runs: int, form: Form | None):
        super().__init__()
        self.module, self.parts, self.runs, self.form = module, dict(parts), runs, form
        self.tensors: dict[str, Tensor] = {}
        self.inner = {name: part for name, part in module.named_modules() if isinstance(part, Noise)}
        if hasattr(module, "fast"):
            module.fast = False  # a hand-written backward pass cannot be mapped

    def forward(self, x: Tensor, *arguments) -> Tensor:
        x = x.unflatten(0, (self.runs, -1))
        if self.form is not None:
            return self.form(self.tensors, x).flatten(0, 1)
        noise = {f"{name}.mask" if name else "mask": part.mask for name, part in self.inner.items() if part.mask is not None}
        noise = {name: mask.unflatten(0, (self.runs, -1)) for name, mask in noise.items()}
        call = lambda tensors, x: functional_call(self.module, tensors, (x, *arguments))  # noqa: E731
        with _Short():
            return vmap(call, randomness="different")(self.tensors | noise, x).flatten(0, 1)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:  # what a caller asks of the module in whose place this stands: head.in_features
            return getattr(super().__getattr__("module"), name)


def _trained_names(models: Sequence[nn.Module]) -> list[str]:
    named = [[name for name, parameter in model.named_parameters() if parameter.requires_grad] for model in models]
    if not named[0] or any(names != named[0] for names in named):
        raise Unsuited("the models do not train parameters of the same names; train them one by one")
    return named[0]


@torch.no_grad()
def _classes(model: nn.Module, example: Tensor) -> int:
    modes = [(module, module.training) for module in model.modules()]
    width = model.eval()(example).shape[-1]
    for module, training in modes:
        module.training = training
    return width


def _common(shapes: Sequence[torch.Size], name: str, classes: Sequence[int]) -> torch.Size:
    """Return the shape that holds all of them: they differ in the first axis at most, where that is the number of classes."""
    if len(set(shapes)) == 1:
        return shapes[0]
    if any(shape[1:] != shapes[0][1:] for shape in shapes) or [shape[0] for shape in shapes] != list(classes):
        raise Unsuited(f"{name} has shapes {sorted({tuple(s) for s in shapes})} in these models; train them one by one")
    return max(shapes, key=lambda shape: shape[0])


def _padded(tensor: Tensor, shape: torch.Size) -> Tensor:
    if tensor.shape == shape:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(shape[0] - tensor.shape[0], *shape[1:])])


def _alike(models: Sequence[nn.Module]) -> None:
    if len({options_of(model) for model in models}) > 1:
        raise Unsuited("the models differ in a scale, a rate of dropout or the like; train them one by one")
    first = [parameter for parameter in models[0].parameters() if not parameter.requires_grad] + list(models[0].buffers())
    for model in models[1:]:
        other = [parameter for parameter in model.parameters() if not parameter.requires_grad] + list(model.buffers())
        if len(first) != len(other) or not all(a is b or torch.equal(a, b) for a, b in zip(first, other, strict=True)):
            raise Unsuited("the models do not share their frozen weights; train them one by one")


@torch.no_grad()
def _owners(template: nn.Module, example: Tensor) -> tuple[dict[str, dict[str, str]], list[Noise]]:
    """Return module name -> {name of a trained tensor in it: its name in the model}, for the called modules that own any.

    A module that is called answers for its own tensors and for those of its parts that are never called, such as factors that
    several layers share. Beside it the sources of noise, in the order in which they are asked.
    """
    order: list[nn.Module] = []
    bare: set[int] = set()

    def watch(module: nn.Module, arguments: tuple) -> None:
        order.append(module)
        if not arguments:
            bare.add(id(module))

    hooks = [module.register_forward_pre_hook(watch) for module in template.modules()]
    template(example)
    called = {id(module) for module in order}
    for hook in hooks:
        hook.remove()
    global_name = {id(parameter): name for name, parameter in template.named_parameters() if parameter.requires_grad}

    def owned(module: nn.Module, prefix: str = "") -> dict[str, str]:
        found = {f"{prefix}{n}": global_name[id(p)] for n, p in module.named_parameters(recurse=False) if id(p) in global_name}
        for name, child in module.named_children():
            if id(child) not in called:
                found |= owned(child, f"{prefix}{name}.")
        return found

    owners = {name: parts for name, m in template.named_modules() if id(m) in called and (parts := owned(m))}
    for name in owners:
        inside = [other for other in owners if other != name and (not name or other.startswith(f"{name}."))]
        attention = any(hasattr(part, "fused_attn") for part in template.get_submodule(name).modules())
        if id(template.get_submodule(name)) in bare:
            raise Unsuited(f"{name} owns trained tensors and is called without an input; train the models one by one")
        if not name or inside or attention:
            what = f"contains {inside[0]}, which does, too" if inside else "is or contains a whole block of attention"
            raise Unsuited(f"{name or 'the whole model'} owns trained tensors and {what}; train the models one by one")
    missing = set(global_name.values()) - {full for parts in owners.values() for full in parts.values()}
    if missing:
        raise Unsuited(f"no module that is called owns {sorted(missing)[0]}; train the models one by one")
    noise = [module for module in order if isinstance(module, Noise)]
    if len(set(map(id, noise))) < len(noise):
        raise Unsuited("dropout of one module is asked several times a batch; train the models one by one")
    return owners, noise
