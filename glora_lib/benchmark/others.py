"""GLoRA and LoRA of Hugging Face's peft, with the same choices as ours. Only the benchmark and the tests need peft."""

from torch import nn


def peft_glora(backbone: nn.Module, rank: int) -> nn.Module:
    """Return peft's GLoRA: A and B LoRA, C, D and E vectors, in every linear layer but the head, which is trained too."""
    return _wrap(backbone, "GloraConfig", r=rank, config_A_B="lora", config_C="vector", config_D_E="vector")


def peft_lora(backbone: nn.Module, rank: int) -> nn.Module:
    """Return peft's LoRA with scale 1 in every linear layer but the head, which is trained too."""
    return _wrap(backbone, "LoraConfig", r=rank, lora_alpha=rank)


def _wrap(backbone: nn.Module, config: str, **options) -> nn.Module:
    try:
        import peft
    except ImportError as error:
        raise ImportError(f"the comparison needs peft ({error}); install it with: pip install peft==0.21.2") from error
    names = [name for name, module in backbone.named_modules() if type(module) is nn.Linear and name != "head"]
    model = peft.get_peft_model(backbone, getattr(peft, config)(target_modules=names, **options))
    model.base_model.model.head.requires_grad_(True)
    return model
