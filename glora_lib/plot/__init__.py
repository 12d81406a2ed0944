"""Figures: arrays and tables in, a matplotlib Figure out; `save` writes it to out/, `committed` holds it against figures/."""

from glora_lib.plot.budget import along, curves
from glora_lib.plot.explain import (
    configuration,
    confusion,
    contact_sheet,
    embeddings,
    layer,
    matrices,
    pictures,
    sizes,
    storage,
    tallies,
)
from glora_lib.plot.results import (
    bars,
    differences,
    gains,
    heat_table,
    intervals,
    lines,
    panels,
    ratios,
    shares,
)
from glora_lib.plot.search import beside_random, generations
from glora_lib.plot.style import GREYSAFE, save
from glora_lib.plot.superlora import fronts, groups, spectra, strips, tensors
