"""Modules of torch's that only pass calls on, the names that things have without them, and hooks, which watch calls."""

from torch import nn

INNER = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}  # the last: compile's

HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
)  # torch's names


def hooked(model: nn.Module) -> bool:
    """Return whether the model or any part of it has a hook."""
    return any(getattr(part, name) for name in HOOKS for part in model.modules())


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DataParallel, DistributedDataParallel and `torch.compile`, however nested; else the model."""
    while (inner := inner_name(model)) is not None:
        model = getattr(model, inner)
    return model


def inner_name(model: nn.Module) -> str | None:
    """Return the name under which a wrapper holds its model; None for a module that is no wrapper."""
    if not type(model).__module__.startswith("torch."):
        return None
    return INNER.get(type(model).__name__)


def plain_name(model: nn.Module, name: str) -> str:
    """Return the name that a parameter, buffer or module of `model` has where no wrapper stands around or in it."""
    parts, module = [], model
    for part in name.split("."):
        if module is None or part != inner_name(module):
            parts.append(part)
        module = module._modules.get(part) if module is not None else None
    return ".".join(parts)
