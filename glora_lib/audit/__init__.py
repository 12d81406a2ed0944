"""The reviewer's desk: what the papers claim, checked live or against records, with a verdict for each claim.

`python -m glora_lib.audit` prints the verdict table as Markdown; `--check` fails when the README's summary is stale.

sources: the CSV files · judge: from numbers to verdicts · table1, tables, protocol: the papers' own tables and settings ·
counts: search space and sizes · dimensions, equations, superset: Eq. 10 to 14, fusion, reductions · theorem: Theorem 1 ·
selection: a simulation · superlora, superlora_table3 · intervals, measured, other_models, superlora_runs: our records · desk:
the table of verdicts and its parts · coverage, checklist, findings, report: what a reviewer reads.
"""

from glora_lib.audit import checklist, coverage, dimensions, findings, report, selection, superlora, superset, table1, tables
from glora_lib.audit.desk import CHECKS, PARTS, part, runs, select, tally, verdicts
from glora_lib.audit.judge import AT_SCALE, EXACT, VERDICTS, number
from glora_lib.audit.sources import BASES, KINDS, PAPERS, claims, reported
from glora_lib.measures.sizes import mean_subnet, supernet_size, vit_b_shapes
