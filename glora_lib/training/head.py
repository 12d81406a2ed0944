"""Which parameters of a model are its head's: the layers behind the features, made anew for a task and trained whole.

Every part of the project that treats the head apart asks here: what `adapt` and the methods leave out and train, the groups of
the optimiser, counts of parameters, adapter files.
"""

from collections import Counter

from torch import nn

# names of heads in models that do not say themselves which theirs is, in the order in which they are looked for: a model that
# has a `head` may have an `fc` before it
ANYWHERE = (
    ("head", "head_dist", "heads", "heads_dist"),
    ("classifier", "cls_classifier", "distillation_classifier"),
    ("qa_outputs",),
)
# deeper inside they name other things
AT_THE_TOP = (
    *(("classification_head",), ("logits_proj",), ("score",), ("fc",), ("last_linear",), ("classif",)),
    ("sequence_summary",),  # a pooler in models that have one of the others
)


def head_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return name in the model -> module, for each part of its head that has parameters; {} for a model without one.

    What the model says itself, by the `get_classifier` of timm's models, counts first: one module, or several where a model has
    two heads. Other models have what lies nearest to the top under a common name: `classifier` in most of transformers' models,
    `fc`, `heads`. A model inside a wrapper has its head there, and a wrapper may have one of its own beside the model.
    The output layer of a language model is none: it is pretrained, and often its embedding.
    """
    declared = _declared(model)
    inside = {id(module) for owner in declared for module in owner.modules()}
    heads = {id(part) for parts in declared.values() for part in parts}
    depths = {name: depth for name, depth in _depths(model).items() if name}
    modules = {name: module for name, module in model.named_modules() if name in depths}
    own = min((depths[name] for name, module in modules.items() if id(module) in heads), default=len(depths))
    for names in (*ANYWHERE, *AT_THE_TOP):
        found = {
            name: depths[name]
            for name, module in modules.items()
            if name.rpartition(".")[2] in names and id(module) not in inside and (names in ANYWHERE or depths[name] == 1)
        }
        if found and min(found.values()) < own:
            heads |= {id(modules[name]) for name, depth in found.items() if depth == min(found.values())}
            break
    names = [name for name, module in modules.items() if id(module) in heads]
    return {name: modules[name] for name in names if not any(name.startswith(f"{other}.") for other in names)}


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of the model's head by their names in the model."""
    found = {id(p) for module in head_of(model).values() for p in module.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) in found}


def _declared(model: nn.Module) -> dict[nn.Module, list[nn.Module]]:
    """Return the outermost modules that say what their head is -> the parts that have parameters."""
    declared: dict[nn.Module, list[nn.Module]] = {}
    inside: set[int] = set()
    for module in model.modules():  # a module comes before those inside it
        if id(module) in inside or not callable(getattr(type(module), "get_classifier", None)):
            continue
        found = module.get_classifier()
        parts = found if isinstance(found, tuple | list | nn.ModuleList) else (found,)
        parts = [part for part in parts if isinstance(part, nn.Module) and list(part.parameters())]
        if parts:
            declared[module] = parts
            inside |= {id(other) for other in module.modules()}
    return declared


def _depths(model: nn.Module) -> dict[str, int]:
    """Return name -> how deep it lies, of every module with parameters; one that holds a single such module does not count."""
    depths, names = {}, [name for name, module in model.named_modules() if next(module.parameters(), None) is not None]
    children = Counter(name.rpartition(".")[0] for name in names if name)
    for name in names:  # a module comes before those inside it
        parent = name.rpartition(".")[0]
        depths[name] = depths[parent] + (children[parent] > 1) if name else 0
    return depths
