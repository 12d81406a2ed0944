"""SuperLoRA's Sec. 4.3: restaurants described by a language model whose queries and values are adapted.

The loss is on the references alone, as in LoRA's recipe, which the paper follows: AdamW, a linear warm-up and decay, smoothed
labels, beams. What differs is the profile's: the model, how many references train it, and how many meaning representations it
answers.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glora_lib.backbones.language import language_label, language_sha256, load_language_model
from glora_lib.data.e2e import load_e2e, prompt
from glora_lib.glora.model import fuse
from glora_lib.methods import trainable_parameters
from glora_lib.runs.provenance import peak_memory, provenance
from glora_lib.runs.record import Record
from glora_lib.runs.run import Run
from glora_lib.runs.transfer_profile import TextProfile
from glora_lib.superlora import PRESETS, queries_and_values
from glora_lib.superlora.model import shapes_of
from glora_lib.training import checkpoint as checkpoints
from glora_lib.training.batch import autocast
from glora_lib.training.device import device
from glora_lib.training.steps import Batches, run_steps
from glora_lib.training.text_scores import text_scores

EXPERIMENT = "text_generation"
FOLD = {"groups": 1, "shape": "fold"}
FASTFOOD = {"groups": 1, "projection": "fastfood", "seed": 0}
SETTINGS: dict[str, tuple[str, dict]] = {
    "FT Wq Wv": ("dense", {}),
    "LoRA r=4": ("lora", {"r": 4}),
    # 2D reshaped, G = 1: on GPT-2 medium 129,024 parameters, the 0.12 of Table 3 in its units of 2^20, and 0.33 of LoRA's; on
    # SmolLM2-135M 0.29
    "SuperLoRA r=9": ("lora", FOLD | {"r": 9}),
    "LoRA r=1": ("lora", {"r": 1}),
    "dense rho=0.1": ("dense", FASTFOOD | {"ratio": 0.1}),
    "dense rho=0.01": ("dense", FASTFOOD | {"ratio": 0.01}),
    "2D fold G=1 r=2": ("lora", FOLD | {"r": 2}),
    "3D r=8": ("lorta", {"r": 8, "order": 3}),
    "5D r=4": ("lorta", {"r": 4, "order": 5}),
    "LoKr r=4": ("lokr", {"r": 4}),
}


class Answers(nn.Module):
    """A causal language model that is called with tokens and labels and returns the loss of the labelled tokens."""

    def __init__(self, causal: nn.Module):
        super().__init__()
        self.causal = causal

    def forward(self, tokens: Tensor, mask: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        asked = labels[:, 1:] != -100
        hidden = self.causal.get_decoder()(tokens, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1][asked]
        logits = self.causal.get_output_embeddings()(hidden).float()
        return F.cross_entropy(logits, labels[:, 1:][asked], label_smoothing=smoothing)


def runs(profile: TextProfile, task: str = "e2e") -> list[Run]:
    """Return the runs of a profile: the model as it is, every setting with the first seed, the repeated with all."""
    first, *others = profile.seeds
    names = profile.names or tuple(SETTINGS)
    found = [Run(EXPERIMENT, task, "base", profile, first), *(run(name, profile, first, task) for name in names)]
    return found + [run(name, profile, seed, task) for seed in others for name in names if name in profile.repeated]


def run(name: str, profile: TextProfile, seed: int = 0, task: str = "e2e") -> Run:
    """Return the run of a setting by its name."""
    preset, options = SETTINGS[name]
    method = f"superlora_{preset}"
    changed = replace(profile, methods=profile.methods | {method: {"options": options}})
    return Run(EXPERIMENT, task, method, changed, seed, label=name.replace(" ", "_"))


def rates(profile: TextProfile, task: str = "e2e", seed: int = 0) -> list[Run]:
    """Return the runs of the experiment "text_recipe": rates that are compared by the loss on held-out references."""
    found = []
    for rate in profile.rates:
        for name in profile.repeated:
            one = run(name, replace(profile, learning_rate=rate, beams={}), seed, task)
            found.append(replace(one, experiment="text_recipe", label=f"{one.label}-rate{rate:g}"))
    return found


def execute(run: Run) -> Record:
    """Fine-tune, answer and score; return the record, not yet saved."""
    recipe, place = run.recipe, device()
    causal, tokenizer = load_language_model(recipe.model)
    causal.to(place)
    data = load_e2e(run.task)
    train, held_out = _drawn(data.train, recipe.train), _drawn(data.dev, recipe.held_out)
    torch.manual_seed(run.seed)
    net, trained, history = Answers(causal).requires_grad_(False), 0, []
    if run.method != "base":
        setting = PRESETS[run.method.removeprefix("superlora_")](**recipe.options)
        adapted = setting.adapt(net, queries_and_values(shapes_of(net)), train=()).to(place)
        history = _finetune(adapted, [encoded(*pair, tokenizer) for pair in train], recipe, run)
        trained, net = trainable_parameters(adapted), fuse(adapted).requires_grad_(False)
    net.eval()
    pairs = [encoded(*pair, tokenizer) for pair in held_out]
    metrics = {"held_out_loss": mean_loss(net, pairs, recipe), "n_held_out": len(pairs), "n_train": len(train)}
    texts, seconds = {}, {}
    for beams, number in recipe.beams.items():
        asked = _drawn(data.test, number)
        start = time.perf_counter()
        texts[beams] = answers(net.causal, tokenizer, [mr for mr, _ in asked], int(beams), recipe)
        seconds[f"seconds_beam_{beams}"] = time.perf_counter() - start
        scored = text_scores(texts[beams], [refs for _, refs in asked], recipe.meteor)
        metrics |= {f"{name}_beam_{beams}": value for name, value in scored.items()} | {f"n_beam_{beams}": len(asked)}
    settings = recipe.settings() | {
        "weights_sha256": language_sha256(recipe.model),
        "backbone_label": language_label(recipe.model),
    }
    cost = {"seconds_train": sum(part["seconds"] for part in history), **seconds}
    cost |= {"trained": trained, "stored": trained, "merged": 0, "head": 0, "peak_memory_mb": peak_memory()}
    return Record(
        run.experiment, run.task, run.label or run.method, run.profile.name, run.seed, settings, metrics, config=None,
        selected_on="nothing", cost=cost, provenance=provenance(recipe.dtype, place),
        history={"train": history, "texts": {str(beams): found for beams, found in texts.items()}},
    )  # fmt: skip


def encoded(mr: str, ref: str, tokenizer) -> tuple[list[int], list[int]]:
    """Return the tokens of a meaning representation and its reference, and labels, which the reference and the end have."""
    asked = tokenizer(prompt(mr), add_special_tokens=False)["input_ids"]
    said = [*tokenizer(f" {ref}", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return asked + said, [-100] * len(asked) + said


def batch(pairs: Sequence[tuple[list[int], list[int]]], padding: int, place: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, their mask and labels, (B, T), padded on the right."""
    length = max(len(tokens) for tokens, _ in pairs)
    rows = [
        (tokens + [padding] * (length - len(tokens)), [1] * len(tokens) + [0] * (length - len(tokens)),
         labels + [-100] * (length - len(tokens)))
        for tokens, labels in pairs
    ]  # fmt: skip
    return tuple(torch.tensor(column, device=place) for column in zip(*rows, strict=True))


@torch.no_grad()
def mean_loss(net: nn.Module, pairs: Sequence[tuple[list[int], list[int]]], recipe: TextProfile) -> float:
    """Return the mean cross-entropy of all labelled tokens, without smoothing."""
    total = count = 0.0
    place = next(net.parameters()).device
    for start in range(0, len(pairs), recipe.batch_size):
        tokens, mask, labels = batch(pairs[start : start + recipe.batch_size], 0, place)
        number = int((labels[:, 1:] != -100).sum())
        with autocast(recipe.dtype, place):
            total += float(net(tokens, mask, labels)) * number
        count += number
    return total / count


@torch.no_grad()
def answers(causal: nn.Module, tokenizer, mrs: Sequence[str], beams: int, recipe: TextProfile) -> list[str]:
    """Return a sentence a meaning representation: greedy for one beam, else the best of a beam search."""
    causal = causal.to(torch.bfloat16 if recipe.dtype == "bfloat16" else torch.float32)
    place, found, size = next(causal.parameters()).device, [], max(1, 16 // beams)
    search = {"num_beams": beams, "length_penalty": recipe.length_penalty} if beams > 1 else {"num_beams": 1}
    for start in range(0, len(mrs), size):
        rows = [tokenizer(prompt(mr), add_special_tokens=False)["input_ids"] for mr in mrs[start : start + size]]
        length = max(map(len, rows))
        tokens = torch.tensor([[tokenizer.eos_token_id] * (length - len(row)) + row for row in rows], device=place)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=place)
        out = causal.generate(
            input_ids=tokens, attention_mask=mask, max_new_tokens=recipe.new_tokens, do_sample=False,
            no_repeat_ngram_size=recipe.no_repeat, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
            **search,
        )  # fmt: skip
        found += [tokenizer.decode(row[length:], skip_special_tokens=True).strip() for row in out]
    return found


def _drawn(items: Sequence, number: int | None) -> list:
    """The first items of a shuffle that is always the same; all for None."""
    return random.Random(0).sample(list(items), len(items))[:number]


def _finetune(net: nn.Module, pairs, recipe: TextProfile, run: Run) -> list[dict]:
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / max(1, recipe.warmup), (recipe.steps - step) / max(1, recipe.steps - recipe.warmup)),
    )
    batches, place = Batches(len(pairs), recipe.batch_size, run.seed), next(net.parameters()).device

    def step(number: int) -> float:
        tokens, mask, labels = batch([pairs[index] for index in batches[number]], 0, place)
        with autocast(recipe.dtype, place):
            loss = net(tokens, mask, labels, smoothing=recipe.smoothing)
        loss.backward()
        return loss.item()

    settings = {"steps": recipe.steps, "batch_size": recipe.batch_size, "rate": recipe.learning_rate, "pairs": len(pairs)}
    settings |= {"seed": run.seed, "dtype": recipe.dtype, "smoothing": recipe.smoothing}
    net.train()
    return run_steps(
        trained,
        step,
        optimizer,
        scheduler,
        recipe.steps,
        seed=run.seed,
        checkpoint=run.state("train.pt"),
        settings=settings,
        belongs=checkpoints.belonging(net, repr(pairs)),
        clip=1.0,
    )
