"""Checks on Tables 4 and 5 and on the settings that the papers state: operations, rates, budgets, what is not said."""

import pandas as pd

from glora_lib.audit.judge import exact, statement, value
from glora_lib.audit.sources import reported, setting
from glora_lib.measures.sizes import VIT_B, formula, supernet_size

PROMPTS = 60  # 9,216 parameters a prompt (12 layers of 768): Table 4's 0.55 M


def table4() -> pd.DataFrame:
    """Return Table 4: a row per method, a column per metric."""
    return reported("table4_inference").pivot(index="method", columns="metric", values="value")


def prompt_flops(prompts: int = PROMPTS) -> float:
    """Return what `prompts` prompts in every block of ViT-B/16 cost, in G multiply-adds an image.

    A block of T tokens of width d with an MLP of h: 4 d^2 T + 2 d h T for its linear layers, 2 d T^2 for attention.
    """

    def blocks(tokens: int) -> int:
        d, h = VIT_B.width, VIT_B.hidden
        return VIT_B.depth * (4 * d * d * tokens + 2 * d * h * tokens + 2 * d * tokens**2)

    return (blocks(VIT_B.tokens + prompts) - blocks(VIT_B.tokens)) / 1e9


def bottleneck_flops(width: int = 8) -> float:
    """Return what a bottleneck in every block of ViT-B/16 costs, in G multiply-adds an image."""
    return VIT_B.depth * 2 * VIT_B.width * width * VIT_B.tokens / 1e9


def table4_agrees(method: str, printed_in_table1: float) -> tuple[bool, str]:
    """Say whether Tables 1 and 4 give a method the same number of parameters, in M."""
    ours = table4().loc[method, "extra_params"]
    return bool(ours == printed_in_table1), f"Table 1 {printed_in_table1}, Table 4 {ours}"


def sizes_agree(method: str, row: str) -> tuple[bool, str]:
    """Say whether a method of Table 4 has the size of its row in Table 1."""
    table1 = reported("table1_vtab1k").query("metric == 'trainable_params_backbone'").set_index("method")["value"]
    return table4_agrees(method, float(table1[row]))


def slower() -> tuple[bool, str]:
    """Say whether VPT and Adapter are slower than full tuning at every batch size of Table 4."""
    speed = table4().filter(like="throughput")
    ratios = speed.loc[["VPT", "Adapter"]] / speed.loc["Full tuning"]
    return bool((ratios < 1).all().all()), ", ".join(
        f"{method} {row.min():.2f} to {row.max():.2f} of the speed" for method, row in ratios.iterrows()
    )


def fused_as_fast() -> tuple[bool, str]:
    """Say whether Table 4 gives fused LoRA and GLoRA no parameter, no operation and the speed of full tuning within 0.1 %."""
    table = table4()
    gap = (table.loc["LoRA / GLoRA"] - table.loc["Full tuning"]).abs()
    speed = (gap.filter(like="throughput") / table.loc["Full tuning"].filter(like="throughput")).max()
    return bool(
        gap["extra_params"] == gap["extra_flops"] == 0 and speed < 1e-3
    ), f"largest difference in speed {100 * speed:.2f} %"


def rates() -> dict[float, int]:
    """Return how many tasks of Table 5 have which learning rate."""
    return reported("table5_learning_rate")["value"].value_counts().to_dict()


def no_manual_tuning() -> tuple[bool, str]:
    """Say whether all tasks of Table 5 share one learning rate."""
    found = ", ".join(f"{tasks} tasks at {rate:g}" for rate, tasks in rates().items())
    return len(rates()) == 1, f"Table 5 has {found}"


def only_ranks() -> tuple[bool, str]:
    """Say whether ranks and settings of the optimiser are all that Tables 5 and 7 have chosen by hand for GLoRA."""
    choices = reported("table7_design_choices").set_index("method")["value"]["GLoRA"]
    found = f"Table 7: {choices}; Table 5: the learning rate, {len(rates())} values, a setting of the optimiser"
    return choices == "LoRA ranks in search space", found


def rate_follows_size() -> tuple[bool, str]:
    """Say whether the rate of Table 5 can follow the size of the training set, which is 1,000 for every task of VTAB-1K."""
    return len(rates()) == 1, f"{len(rates())} rates for training sets of one size, 1,000 images"


def constant_batch() -> tuple[bool, str]:
    """Say whether the batch size is the same for vision and language."""
    vision, language = setting("batch size all"), setting("batch size language")
    return vision == language, f"{vision:g} (Sec. 3), {language:g} for language (App. A)"


def same_ratio() -> tuple[bool, str]:
    """Say whether GLoRA trains the same multiple of LoRA's epochs in vision and language."""
    ratios = [setting(f"glora epochs {what}") / setting(f"lora epochs {what}") for what in ("vision", "language")]
    return ratios[0] == ratios[1], f"{ratios[0]:g} times (vision), {ratios[1]:g} times (language)"


def baseline_policy() -> tuple[bool, str]:
    """Say whether what differs from the policy that is followed "strictly" is what the appendix excepts: rate and epochs."""
    pairs = {"epochs": ("glora epochs vision", "baseline code epochs")}
    pairs |= {
        "rate": ("learning rate high", "baseline code learning rate"),
        "batch": ("batch size all", "baseline code batch size"),
    }
    pairs |= {"weight decay": ("weight decay", "baseline code weight decay")}
    values = {name: [setting(side) for side in sides] for name, sides in pairs.items()}
    differ = [name for name, (ours, theirs) in values.items() if ours != theirs]
    found = ", ".join(f"{name} {ours:g} against {theirs:g}" for name, (ours, theirs) in values.items())
    return set(differ) <= {"epochs", "rate"}, f"{found}; excepted in App. A: the rate and the epochs"


def evaluations(what: str = "vision") -> int:
    """Return how many subnets a search scores: the random start and a population for every generation."""
    return int(setting("search start") + setting(f"search generations {what}") * setting("search generation size"))


def searched(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold the number of subnets that a search scores against App. B; a step that is each of three kinds gives another."""
    thrice = int(setting("search start") + 3 * setting("search generations vision") * setting("search generation size"))
    found = f"{evaluations():,}; {thrice:,} if random picks, crossovers and mutations are 50 each, which the code has not"
    return found, exact(int(claim["reported"].replace(",", "")), evaluations())


def settings_missing(*words: str) -> list[str]:
    """Return the settings of which neither version gives a value, those with one of `words` in their name."""
    table = reported("settings")
    names = table[(table["value"] == "") & table["source"].str.startswith("not given")]["name"]
    return [name for name in names if any(word in name for word in words)]


def search_underspecified() -> tuple[bool, str]:
    """Say whether the paper leaves out settings that a rerun of the search needs (the objection holds if it does)."""
    missing = settings_missing("search")
    return bool(missing), f"not given: {', '.join(missing)}"


def costs_missing() -> tuple[bool, str]:
    """Say whether the paper leaves out hours and memory (the objection holds if it does)."""
    missing = settings_missing("hours", "memory")
    return bool(missing), f"not given: {', '.join(missing)}"


def more_budget() -> tuple[bool, str]:
    """Say whether GLoRA's budget is larger than LoRA's (the objection holds if it is), in epochs and evaluations."""
    ours, lora = setting("glora epochs vision"), setting("lora epochs vision")
    return ours > lora, f"{ours:g} epochs and {evaluations():,} evaluations against {lora:g} epochs and none"


def cheaper() -> tuple[bool, str]:
    """Say whether fine-tuning by GLoRA takes fewer parameters and fewer epochs than by LoRA, which it enhances."""
    ours, lora = supernet_size(2), formula("lora", placement="qkv").trained
    full, largest = formula("full").trained, supernet_size(8)
    dear, found = more_budget()
    sizes = f"trained {ours / 1e6:.2f} to {largest / 1e6:.2f} M against {lora / 1e6:.2f} (LoRA), {full / 1e6:.1f} (Full)"
    return ours < lora and not dear, f"{found}; {sizes}"


def ablations() -> tuple[bool, str]:
    """Say whether a table or figure of the paper leaves a component of GLoRA out."""
    missing = settings_missing("ablation")
    return not missing, "no table, figure or appendix leaves a support tensor or the search out" if missing else "there are"


CHECKS = {
    "table4/vpt-flops": value(prompt_flops, "{:.3f} G for 60 prompts"),
    "table4/adapter-flops": value(bottleneck_flops, "{:.3f} G for a bottleneck of 8"),
    "table4/noah-params": statement(lambda: sizes_agree("NOAH", "NOAH")),
    "table4/vpt-params": statement(lambda: sizes_agree("VPT", "VPT-Deep")),
    "table4/slower": statement(slower),
    "table4/glora-free": statement(fused_as_fast),
    "table5/no-manual-tuning": statement(no_manual_tuning),
    "table5/larger-datasets-v1": statement(rate_follows_size),
    "table7/only-ranks": statement(only_ranks),
    "budget/constant-batch": statement(constant_batch),
    "budget/in-line": statement(same_ratio),
    "budget/strictly-adhere": statement(baseline_policy),
    "budget/cheaper": statement(cheaper),
    "conclusion/ablations": statement(ablations),
    "search/evaluations": searched,
    "objection/search-details": statement(search_underspecified),
    "objection/time-and-memory": statement(costs_missing),
    "objection/huge-time": statement(more_budget),
}
