"""Your own pictures: from a folder to a plain timm model, with a report. `gl.finetune`, `python -m glora_lib.finetune`.

Open `pipeline`: it reads from top to bottom.
"""
