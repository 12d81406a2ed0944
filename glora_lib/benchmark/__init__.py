"""What training, searching and starting cost, beside what others' code costs: `python -m glora_lib.benchmark`.

Everything that is compared is timed in one run, in turns; what counts is the ratio within a round. See `report`.
"""
