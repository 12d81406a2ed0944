"""python -m glora_lib.finetune FOLDER --method glora --out DIR: fine-tune a model on a folder of pictures."""

import argparse
import sys

from glora_lib.backbones import PACKAGED, BackboneError
from glora_lib.finetune.pipeline import EPOCHS, FUSABLE, finetune
from glora_lib.training.batch import TrainingError
from glora_lib.training.device import DeviceError


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; return 0, or 2 if the data, the model or the command line is at fault."""
    parser = argparse.ArgumentParser(prog="python -m glora_lib.finetune", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="class folders, a .csv of path and label, or lists as in VTAB")
    parser.add_argument("--method", default="glora", choices=FUSABLE)
    parser.add_argument("--out", help="where everything goes, and from where a killed run goes on; default out/finetune/NAME")
    parser.add_argument("--backbone", default=PACKAGED, help="a timm architecture; default %(default)s")
    parser.add_argument("--weights", default="", help='a file, or "hub" for timm\'s own; nothing for the packaged backbone')
    parser.add_argument("--image-size", type=int, help="pixels a side; default 42, of other backbones their own")
    parser.add_argument("--epochs", type=int, help=f"of training; default {EPOCHS}")
    parser.add_argument("--seed", type=int, default=0)
    args = vars(parser.parse_args(argv))
    try:
        print(finetune(args.pop("folder"), **args))
    except (BackboneError, DeviceError, TrainingError, ValueError, OSError) as error:
        print(f"finetune: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
