"""Any architecture of timm's for images of a size: what it takes is passed on, and what it would lose is refused."""

import re

import torch
from torch import nn

from glora_lib.backbones.files import BackboneError

PATCH = 4  # pixels from which on a stride is that of patches: smaller ones are a ConvNet's, which does without a last row


def create(name: str, classes: int, image_size: int | None, drop_path: float, seed: int) -> nn.Module:
    """Return the architecture with random weights, fixed by `seed`, for square images of `image_size` pixels.

    Raises BackboneError where it has no stochastic depth and some is asked for, and where it cannot take images of this size;
    ValueError for a size of which patches would leave out a part.
    """
    import timm  # slow to import, and the rest of the library does without

    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise ValueError(f"image_size must be a number of pixels, not {image_size!r}")
    options = {"num_classes": classes, "drop_path_rate": drop_path}
    options |= {} if image_size is None else {"img_size": image_size}
    while True:
        torch.manual_seed(seed)
        try:
            model = timm.create_model(name, pretrained=False, **options)
            break
        except TypeError as error:  # ConvNets take images of any size, and some know no stochastic depth
            unknown = re.search(r"unexpected keyword argument.*\b(img_size|drop_path_rate)\b", str(error))
            if unknown is None:
                raise
            if options.pop(unknown[1]) and unknown[1] == "drop_path_rate":
                raise BackboneError(f"{name} has no stochastic depth: drop_path must be 0, not {drop_path}") from error
        except (AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
            raise _unsuited(name, image_size, error) from error
    if image_size is not None:
        refuse_lost_pixels(model, name, image_size)
        _try(model, name, image_size, classes)  # some take the argument, and fail when they are called
    return model


def refuse_lost_pixels(model: nn.Module, name: str, image_size: int) -> None:
    """Raise a ValueError for images that the patches do not divide: what lies beyond the last whole patch would not be seen."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3), None)
    if first is None or getattr(getattr(model, "patch_embed", None), "dynamic_img_pad", False):
        return
    kernel, stride, padding = first.kernel_size[0], first.stride[0], first.padding
    if isinstance(padding, str) or (stride < PATCH and kernel != stride):
        return
    around = padding[0] if isinstance(padding, tuple) else padding
    if (image_size + 2 * around - kernel) % stride > around:
        fits = kernel - 2 * around + max(0, (image_size + 2 * around - kernel) // stride) * stride
        patches = f"{kernel} pixels" if kernel == stride else f"{kernel} pixels, {stride} apart"
        why = f"is no multiple of {kernel}" if kernel == stride else "leaves a border that none of them sees"
        raise ValueError(
            f"{name} has patches of {patches}; {image_size} {why}, {fits} {'is' if kernel == stride else 'does not'}"
        )


@torch.no_grad()
def _try(model: nn.Module, name: str, image_size: int, classes: int) -> None:
    """Raise a BackboneError if the model cannot take an image of this size."""
    training = model.training
    try:
        shape = tuple(model.eval()(torch.zeros(1, 3, image_size, image_size)).shape)
    except (AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise _unsuited(name, image_size, error) from error
    finally:
        model.train(training)
    if shape != (1, classes):
        raise BackboneError(f"{name} gives outputs of shape {shape} for one image of {image_size} pixels, not {(1, classes)}")


def _unsuited(name: str, image_size: int | None, error: Exception) -> BackboneError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return BackboneError(f"{name} cannot take images of {image_size} pixels ({reason}); try its own size, or a multiple of 32")
