"""Figures: arrays and tables in, a matplotlib Figure out; `save` writes it to out/, `committed` holds it against figures/."""

from glora_lib.plot.explain import configuration, contact_sheet, embeddings, matrices, sizes, storage, tally
from glora_lib.plot.results import bars, generations, heat_table, interval_panels, intervals, lines, panels, ratios, shares
from glora_lib.plot.style import GREYSAFE, save
