"""GLoRA, the first paper's method.

Open `layer` for Eq. 10, `space` for the choices, `model` for whole models (`adapt`, `use`, `fuse`), `search` for the evolution.
"""
