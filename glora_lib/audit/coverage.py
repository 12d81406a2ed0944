"""Every table and figure of both papers: regenerated, checked or not yet, and by which command. The state is computed."""

from dataclasses import dataclass

import pandas as pd

from glora_lib.audit.judge import VERDICTS
from glora_lib.runs.paths import FIGURES, NOTEBOOKS
from glora_lib.runs.record import results

OPEN = ("not run", "not testable", "not testable here", "undecided here")
DECIDED = tuple(verdict for verdict in VERDICTS if verdict not in OPEN)


@dataclass(frozen=True)
class Item:
    """A table or figure, the notebooks that regenerate it, and where else in the paper there are claims about it."""

    place: str  # as in the column `place` of the claims
    content: str
    sources: tuple[str, ...] = ()  # NOTEBOOK, NOTEBOOK:EXPERIMENT or NOTEBOOK:EXPERIMENT:METHOD, whose records it needs;
    # the first that is there counts
    figures: tuple[str, ...] = ()  # one of which, with the notebook's number, must be there
    also: tuple[str, ...] = ()


FEW_SHOT = ("11_few_shot:few_shot", "99_verdict")
ITEMS = (
    Item("GLoRA Table 1", "VTAB-1K, 19 tasks", ("10_vtab1k:vtab1k",)),
    Item("GLoRA Table 2", "language models", ("14_language_models:language_models",), also=("GLoRA Sec. 3.2",)),
    Item(
        "GLoRA Table 3", "domain generalization", ("12_domain_generalization:domain_generalization",), also=("GLoRA Sec. 3.4",)
    ),
    Item("GLoRA Table 4", "inference efficiency", ("13_inference_efficiency:inference",)),
    Item("GLoRA Table 5", "learning rates", also=("GLoRA Sec. 1", "GLoRA v1 Sec. 3")),
    Item("GLoRA Table 6", "Swin-B", ("20_convolutions_and_hierarchical:layers",), also=("GLoRA App. C",)),
    Item("GLoRA Table 7", "manual design choices"),
    Item("GLoRA Fig. 1", "the adapted layer", ("00_start_here",), ("00_layer",)),
    Item("GLoRA Fig. 2", "few-shot, main text", FEW_SHOT, ("11_few_shot", "99_few_shot"), ("GLoRA Sec. 3.3",)),
    Item(
        "GLoRA Fig. 3",
        "parameters by kind of layer",
        ("16_layer_configs:vtab1k:glora",),
        ("16_parameters_by_kind",),
    ),
    Item(
        "GLoRA Fig. 4",
        "configurations by layer",
        ("16_layer_configs:vtab1k:glora", "05_evolutionary_search:search"),
        ("16_found", "05_configuration"),
    ),
    Item("GLoRA Fig. 5", "t-SNE", ("15_tsne",), ("15_tsne",)),
    Item("GLoRA Fig. 6", "few-shot, appendix", FEW_SHOT, ("11_few_shot", "99_few_shot"), ("GLoRA Sec. 3.3",)),
    Item("SuperLoRA Table 1", "settings and methods", ("21_superlora",), also=("SuperLoRA Sec. 3.2", "SuperLoRA Sec. 4.2.2")),
    Item("SuperLoRA Table 2", "notation", ("21_superlora",)),
    Item("SuperLoRA Table 3", "GPT-2 on E2E", ("23_text_generation:text_generation",), also=("SuperLoRA Sec. 4.3.1",)),
    Item("SuperLoRA Fig. 1", "schematic", ("21_superlora",), ("21_*",)),
    Item("SuperLoRA Fig. 2", "grouping", ("21_superlora",), ("21_*",)),
    Item("SuperLoRA Fig. 3", "Fastfood", ("21_superlora",), ("21_*",), ("SuperLoRA Eq. 3",)),
    Item("SuperLoRA Fig. 4", "LoRA, LoKr, LoNKr", ("21_superlora",), ("21_*",)),
    Item(
        "SuperLoRA Fig. 5",
        "ImageNet-21K to CIFAR-100",
        ("21_superlora:superlora_trained_head",),
        ("21_accuracy",),
        ("SuperLoRA Sec. 4.1",),
    ),
    Item("SuperLoRA Fig. 6", "ImageNet-1K to CIFAR-10", ("21_superlora:superlora_frozen_head",), ("21_accuracy",)),
    Item("SuperLoRA Fig. 7", "required parameters", ("21_superlora",), ("21_parameters",)),
    Item("SuperLoRA Fig. 8", "LoNKr, image generation", ("22_image_generation:image_generation",), ("22_*",)),
    Item("SuperLoRA Fig. 9", "weight-wise or group-wise", ("22_image_generation:image_generation",), ("22_*",)),
    Item("SuperLoRA Fig. 10", "BLEU", ("23_text_generation:text_generation",), ("23_*",)),
)


def coverage(verdicts: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Return a row per table and figure: place, content, state, claims (decided of all), command.

    regenerated: a notebook is there with the records and figures that it takes. checked: some claim about it is decided.
    not yet: neither. What is regenerated in the cpu profile has other data than the paper's.
    """
    rows = []
    places = verdicts["place"].str.split("; ")
    for item in ITEMS:
        about = verdicts[places.map(lambda said, item=item: bool({item.place, *item.also} & set(said)))]
        decided = int(about["verdict"].isin(DECIDED).sum())
        state, command = state_of(item, decided, profile)
        rows.append((item.place, item.content, state, f"{decided} of {len(about)}", command))
    return pd.DataFrame(rows, columns=["place", "content", "state", "claims decided", "command"])


def state_of(item: Item, decided: int, profile: str) -> tuple[str, str]:
    """Return the state of a table or figure and the command that gives it; `decided` is the number of its decided claims."""
    for source in item.sources:
        notebook, experiment, method, *_ = (*source.split(":"), "", "")
        table = results(experiment, profile) if experiment else pd.DataFrame({"method": []})
        records = (table["method"] == method).sum() if method else len(table)
        there = (NOTEBOOKS / f"{notebook}.ipynb").exists() and (records or not experiment)
        own = [name for name in item.figures if name.startswith(notebook[:2])]
        if there and (not item.figures or any(path for name in own for path in FIGURES.glob(f"{name}.png"))):
            what = f"regenerated ({profile}, {records} records)" if experiment else "regenerated"
            return what, f'make reproduce ONLY="{notebook[:2]}"'
    return ("checked", "python -m glora_lib.audit") if decided else ("not yet", "none")
