"""What a run on a language model does: fine-tune on instructions, search, fuse, answer the questions of the benchmarks."""

import random
import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from glora_lib.backbones import language_label, language_sha256, load_language_model, rounded_again
from glora_lib.data import DataError
from glora_lib.data import questions as asked
from glora_lib.data.instructions import Instructions, encode, fitting, load_instructions
from glora_lib.glora.model import fuse
from glora_lib.glora.search import Found, evolve
from glora_lib.glora.space import Space, to_json
from glora_lib.methods import attention, trainable_parameters
from glora_lib.runs.language_profile import LanguageProfile
from glora_lib.runs.provenance import peak_memory, provenance
from glora_lib.runs.record import Record
from glora_lib.runs.run import Run
from glora_lib.training.device import device
from glora_lib.training.language import finetune, mean_loss

# GLoRA -> whether layers without bias gain one, and what selects: validation questions, or reported ones
SEARCHED = {"glora": (True, "val"), "glora_weight": (False, "val")}
SEARCHED |= {f"{name}_oracle": (gains, "test") for name, (gains, _) in SEARCHED.items()}
METHODS = ("base", "agreement", "rounded", "lora", *SEARCHED)
WATCHED = 3  # random subnets whose loss on held-out instructions a recipe is judged by


def language_models(profile: LanguageProfile) -> list[Run]:
    """Return the runs of the experiment "language_models": each method on each set of instructions with every seed.

    The untrained model is one run. The oracles, which select on questions that are reported, belong to the first set.
    """
    runs = [Run("language_models", profile.instructions[0], "base", profile)]
    for name in profile.instructions:
        methods = [method for method in METHODS[3:] if name == profile.instructions[0] or not method.endswith("_oracle")]
        runs += [Run("language_models", name, method, profile, seed) for seed in profile.seeds for method in methods]
    return runs


def checks(profile: LanguageProfile) -> list[Run]:
    """Return three runs of the untrained model in the experiment "language_checks".

    "published" answers questions without examples, as somebody has published it; "agreement" answers 50 a second time with the
    harness' own model class; "rounded" has its weights rounded to 4 bits once more, and no question.
    """
    asked_of = (("base", "published", profile.published), ("agreement", "", profile.agreement), ("rounded", "", {}))
    return [
        Run("language_checks", profile.instructions[0], method, replace(profile, questions=questions, methods={}), label=label)
        for method, label, questions in asked_of
    ]


def recipes(profile: LanguageProfile) -> list[Run]:
    """Return the runs of the experiment "language_recipe": LoRA and GLoRA's supernet at each of the profile's rates.

    They answer no questions. What chose the rates is the loss on held-out instructions, of a supernet's the mean over
    `WATCHED` random subnets; the supernet without biases takes the rate of the other. The label is the method and the rate:
    "lora-0.001".
    """
    runs = []
    for rate in profile.rates:
        for method in ("lora", "glora"):
            changed = profile.methods.get(method, {}) | {"learning_rate": rate, "questions": {}}
            there = replace(profile, methods={method: changed})
            runs.append(Run("language_recipe", profile.instructions[0], method, there, profile.seeds[0], f"{method}-{rate:g}"))
    return runs


def execute(run: Run) -> Record:
    """Do one run and return its record, not yet saved. An unknown method is a ValueError."""
    if run.method not in METHODS:
        raise ValueError(f"method {run.method!r} is not known; valid: {', '.join(METHODS)}")
    recipe: LanguageProfile = run.recipe
    place = device()  # refused before anything is computed where it is not here
    model, tokenizer = load_language_model(recipe.model, dtype=recipe.weights_dtype, checkpointing=recipe.checkpointing)
    model.to(place)
    if recipe.length > (context := model.config.max_position_embeddings):
        raise DataError(f"texts of {recipe.length} tokens are longer than the model's context of {context}; lower `length`")
    records = fitting(load_instructions(run.task), tokenizer, recipe.length)
    train, held_out = _apart(records, recipe, tokenizer)
    questions = asked.load_questions(recipe.questions)
    torch.manual_seed(run.seed)
    plain, parts = _trained(run, recipe, model, train, held_out, questions, tokenizer)
    plain = plain.to(_dtype(recipe.dtype)).eval()
    metrics = {"loss": mean_loss(plain, held_out), "n_train": len(train), "n_held_out": len(held_out)}
    values = {}
    if questions:
        start = time.perf_counter()
        values = _answered(plain, tokenizer, questions, "test", True)
        parts["cost"]["seconds_test"] = time.perf_counter() - start
        metrics |= {"average": float(np.mean([np.mean(items) for items in values.values()]))}
        metrics |= {name: float(np.mean(items)) for name, items in values.items()}
        metrics |= {f"n_{name}": len(items) for name, items in values.items()}
    if run.method == "agreement":
        parts["history"] = {"harness": _answered(plain, tokenizer, questions, "test", True, own=True)}
    settings = recipe.settings() | {
        "weights_sha256": language_sha256(recipe.model),
        "backbone_label": language_label(recipe.model),
        "instructions_sha256": train.sha256,
        "questions_sha256": asked.sha256(questions),
    }
    return Record(
        run.experiment, run.task, run.label or run.method, run.profile.name, run.seed, settings, metrics | parts["metrics"],
        config=parts["config"], selected_on=parts["selected_on"],
        cost=parts["cost"] | {"peak_memory_mb": peak_memory()}, provenance=provenance(recipe.dtype, place),
        history=parts["history"] | {"items": values},
    )  # fmt: skip


def _trained(run: Run, recipe: LanguageProfile, model, train, held_out, questions, tokenizer) -> tuple[nn.Module, dict]:
    """Return the plain model after training and search, and the parts of the record that come with it."""
    before = sum(p.numel() for p in model.parameters())
    parts = {"metrics": {}, "config": None, "selected_on": "nothing", "history": {}, "cost": {}}
    if run.method in ("base", "agreement", "rounded"):
        model = rounded_again(model, run.seed) if run.method == "rounded" else model
        return model, parts | {"cost": {"trained": 0, "stored": 0, "merged": 0}}
    if run.method == "lora":
        net = attention.lora(model, **recipe.options).to(model.device)
        history = finetune(net, train, recipe, seed=run.seed, checkpoint=run.state("train.pt"))
        stored = trainable_parameters(net)
        plain = fuse(net)
    else:
        gains, split = SEARCHED[run.method]
        net = attention.glora(model, recipe.rank, recipe.scale_broadcast, gains).to(model.device)
        space = Space(net.layer_names, recipe.ranks, net.kinds)
        # the search on reported questions is of the same supernet
        checkpoint = run.supernet.state("glora.pt" if gains else "glora_weight.pt")
        history = finetune(net, train, recipe, sample=space.sample, seed=run.seed, checkpoint=checkpoint)
        rng = random.Random(f"watch {run.seed}")
        watched = [space.sample(rng) for _ in range(WATCHED)]
        best = watched[0]
        if not questions:
            losses = [mean_loss(_fused(net, config, recipe), held_out) for config in watched]
            parts["metrics"] = {"random_loss": losses, "n_random": WATCHED}
        if questions:
            found = _search(run, recipe, net, space, questions, tokenizer, split)
            best = found.best
            parts["selected_on"] = "val" if split == "val" else "test (oracle)"
            parts["metrics"] = {"val": found.score, "evaluations": len(found.ranking), "ties": found.ties}
            parts["metrics"]["n_val"] = sum(len(part.val) for part in questions)
            generations = range(1 + max(member.generation for member in found.ranking))
            parts["history"] = {"search": [[member.score for member in found.generation(number)] for number in generations]}
            parts["cost"] = {"seconds_search": found.seconds}
        parts["config"], stored = to_json(best), space.parameters(best, net.shapes)
        plain = fuse(net.use(best))
    parts["history"] |= {"train": history}
    after = sum(p.numel() for p in plain.parameters())
    parts["cost"] |= {"seconds_train": sum(epoch["seconds"] for epoch in history), "merged": after - before}
    parts["cost"] |= {"trained": trainable_parameters(net), "stored": stored}
    return plain, parts


def _search(run: Run, recipe: LanguageProfile, net, space: Space, questions, tokenizer, split: str) -> Found:
    """Evolve on as many questions as are for validation: on those, or on as many of the reported ones."""
    chosen = questions
    if split == "test":
        chosen = [asked.Questions(q.benchmark, q.task, q.examples, q.test[: len(q.val)], q.test) for q in questions]

    def score(config) -> float:
        values = _answered(_fused(net, config, recipe), tokenizer, chosen, "val", recipe.selection_shots)
        return float(np.mean([np.mean(items) for items in values.values()]))

    state = run.state("search.json")
    belongs = f"{split} of {asked.sha256(questions)}, {run.task}"
    settings = recipe.evolution | {"belongs": belongs, "checkpoint": state}
    return evolve(space, score=score, seed=run.seed, shapes=net.shapes, **settings)


def _fused(net, config, recipe: LanguageProfile) -> nn.Module:
    return fuse(net.use(config)).to(_dtype(recipe.dtype)).eval()


def _answered(plain, tokenizer, questions, split: str, shots: bool, own: bool = False) -> dict[str, list[float]]:
    """The harness' values; `own`: by its own class of models."""
    from glora_lib.runs.harness import Likelihoods, answered, of_the_harness  # the harness takes seconds to import

    return answered((of_the_harness if own else Likelihoods)(plain, tokenizer), questions, split, shots)


def _apart(records: list[dict], recipe: LanguageProfile, tokenizer) -> tuple[Instructions, Instructions]:
    """The texts that train, and those behind them whose loss is reported."""
    number, total = max(len(records) - recipe.held_out, 0), 0
    for place, record in enumerate(records[:number] if recipe.tokens else []):
        total += len(encode(record, tokenizer)[0])
        if total >= recipe.tokens:
            number = place + 1
            break
    if not number or (recipe.tokens and total < recipe.tokens):
        raise DataError(
            f"{len(records)} instructions have at most {recipe.length} tokens; they are too few for {recipe.held_out} that are "
            f"held out and {recipe.tokens or 'some'} tokens to train on"
        )
    parts = records[:number], records[number : number + recipe.held_out]
    return tuple(Instructions(part, tokenizer, recipe.length) for part in parts)


def _dtype(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
