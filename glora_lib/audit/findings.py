"""What matters, in plain sentences. Every number is computed from the checks or read from the claims; none is typed."""

from collections.abc import Callable
from math import log10

from glora_lib.audit import equations, protocol, selection, superlora_table3, superset, table1, tables
from glora_lib.audit.sources import claims, setting
from glora_lib.glora.space import Space
from glora_lib.measures.sizes import formula, mean_subnet, supernet_size, vit_b_shapes


def said(identity: str) -> str:
    """Return what a claim reports."""
    return claims().loc[identity, "reported"]


def space() -> str:
    one = Space(vit_b_shapes(), (8,))
    layers = len(one.layer_names)
    return (
        f"The search space has {one.per_layer}^{layers} = 10^{log10(one.count()):.1f} subnets. The paper's "
        f"{said('space/product')} is {one.per_layer} x {layers}. A search scores {protocol.evaluations():,} of them."
    )


def equation() -> str:
    error, fused, choices = equations.largest_errors()
    good = "agree" if max(error, fused) < equations.EXACT else "do not agree"
    return (
        "Eq. 10, 13 and 14 have no defined dimensions as printed. Read elementwise, as the authors' code does, the layer and "
        f"its fused form {good} with the equation within {equations.EXACT:.0e} on all {choices} choices of a layer."
    )


def reductions() -> str:
    outside, named, rank = superset.outside(), len(superset.NAMED), superset.LARGEST_RANK
    return (
        f"GLoRA is no superset of all prior solutions: {named - len(outside)} of {named} are points of its space on linear "
        f"layers if the rank may be any, {len(superset.within(rank))} with the paper's largest, {rank}; "
        f"{', '.join(outside)} are not."
    )


def sizes() -> str:
    ranks = {"0.86": 8, "0.44": 4, "0.29": 2}
    trained = ", ".join(
        f"{supernet_size(rank) / 1e6:.2f} M where {said(f'size/trained-{name}')} is printed" for name, rank in ranks.items()
    )
    above = [100 * (mean_subnet(rank) / 1e6 / float(said(f"size/trained-{name}")) - 1) for name, rank in ranks.items()]
    return (
        f"Table 1's sizes of GLoRA are not what is trained: {trained}. The mean random subnet of one rank is "
        f"{min(above):.0f} to {max(above):.0f} % larger than what is printed; the two ranks that the text gives make it "
        f"{two_ranks()}. "
        f"{len(table1.smaller())} methods of the table have fewer than the smallest GLoRA, against the abstract's words."
    )


def two_ranks() -> str:
    """Return the mean random subnet of the spaces with two ranks that Sec. 3.1 gives, beside what Table 1 prints."""
    means = {"0.86": mean_subnet(8, 4) / 1e6, "0.44": mean_subnet(4, 2) / 1e6}
    return " and ".join(f"{mean:.2f} M for {printed}" for printed, mean in means.items())


def main_table() -> str:
    gain, wins, alone = table1.largest_gains(), table1.tasks_won(), table1.tasks_won_alone()
    return (
        f"By its own entries, Table 1 has GLoRA ahead on {wins} tasks if the best of its three models counts, on {alone} with "
        f"the largest alone ({said('table1/14-of-19')} are claimed), and its largest gain over the best earlier method is "
        f"{gain['average']:.1f} points on average and {gain['group']:.1f} in a group ({said('table1/2.9')} are claimed). Of "
        f"its averages, {tables.averages_hold('GLoRA Table 1')[1]}; other papers print that row with the same entries and "
        "average, so that it is inherited."
    )


def other_tables() -> str:
    adversarial, sketch = tables.domain_gain("a"), tables.domain_gain("sketch")
    return (
        f"Of Table 2's averages, {tables.averages_hold('GLoRA Table 2')[1]}; in {len(tables.llm_losses())} of its cells GLoRA "
        f"is below its base or LoRA. In Table 3 the gains over LoRA are {adversarial:.1f} % and {sketch:.1f} % "
        f"({said('table3/imagenet-a')} % and {said('table3/imagenet-sketch')} % are claimed), beside a gain on the source. "
        f"In Fig. 2 GLoRA is {tables.few_shot_consistently()[1].split(';')[0]}."
    )


def budget() -> str:
    missing = ", ".join(protocol.settings_missing("hours", "memory"))
    return (
        f"GLoRA trains for {setting('glora epochs vision'):g} epochs and scores {protocol.evaluations():,} subnets where LoRA "
        f"has {setting('lora epochs vision'):g} epochs; its rate is chosen by task from {len(protocol.rates())} values. "
        f"Not given: {missing}."
    )


def fusion() -> str:
    swin, llama = sum(equations.swin_without_bias().values()), equations.llama_biases()
    full, apart = formula("full").trained / 1e6, mean_subnet(8) / 1e6
    return (
        f"Fusion costs nothing where layers have a bias. Without one, a bias is added: {swin:,} parameters in Swin-B's "
        f"reductions, {llama:,} in LLaMA-7B's attention if all its maps are adapted. A fused task stores {full:.1f} M, a "
        f"subnet alone about {apart:.2f} M."
    )


def luck() -> str:
    apart, alike = selection.simulate(spread=0.0), selection.simulate(spread=0.0, shared=0.9)
    best = 100 * selection.simulate().found
    return (
        f"On {selection.IMAGES} validation images the best of {protocol.evaluations():,} equally good subnets looks "
        f"{apart.gain:.1f} points better than it is ({alike.gain:.1f} if they agree on 90 % of the images). If they differ by "
        f"1 point (sd), {best:.0f} % of simulated searches find the best one."
    )


def units() -> str:
    qv, lora = superlora_table3.gpt2("qv") / 1e6, superlora_table3.gpt2("lora") / 1e6
    rows, printed = superlora_table3.table3()["bleu"], superlora_table3.elsewhere()
    return (
        f"SuperLoRA's Table 3 mixes units: {said('superlora/table3-qv')}M is {qv:.2f} million and "
        f"{said('superlora/table3-lora')}M is {lora:.3f}. Its rows of earlier work leave out LoRA's own, {printed['LoRA']:g} "
        f"BLEU with 0.35 M, which is ahead of SuperLoRA's {rows['SuperLoRA']:g}; the LoRA in the table has {rows['LoRA']:g}. "
        "Its Table 1 and text differ on LoTR and on LoKr's left factor."
    )


FINDINGS: tuple[Callable[[], str], ...] = (
    *(space, equation, reductions, sizes, main_table, other_tables, budget, fusion, luck, units),
)


def findings() -> list[str]:
    """Return the ten findings that the exact checks give, whatever the records."""
    return [finding() for finding in FINDINGS]
