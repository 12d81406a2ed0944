"""Measure, write the record, print the table.

python -m glora_lib.benchmark                    the cpu profile's backbone at 98 pixels, batch 64: minutes
python -m glora_lib.benchmark --profile smoke --batch 4 --rounds 1 --epochs 1
python -m glora_lib.benchmark --device cuda      steps of ViT-S/14 and ViT-B/16 on a GPU, alone and many at once: minutes
python -m glora_lib.benchmark --device cuda --packed FOLDER     the same where there is no git: the commit is the pack's
"""

import argparse
import sys
from pathlib import Path

import torch

from glora_lib.benchmark import device
from glora_lib.benchmark.report import measure, table
from glora_lib.benchmark.setting import Setting
from glora_lib.runs import pack
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.provenance import line
from glora_lib.runs.record import Record
from glora_lib.training.device import DeviceError
from glora_lib.training.device import device as find
from glora_lib.training.threads import share


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; return 0, or 2 for a device that is not here or a pack that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m glora_lib.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cpu", choices=PROFILES)
    for name, text in (
        ("side", "patches a side; 7 are 98 pixels"),
        ("batch", "images a step"),
        ("rounds", "visits to every step, after one that is not counted"),
        ("epochs", "of the supernet that is searched"),
        ("generations", "of the search"),
        ("seed", ""),
    ):
        parser.add_argument(f"--{name}", type=int, default=Setting.__dataclass_fields__[name].default, help=text)
    parser.add_argument("--threads", type=int, default=share(), help="of torch")
    parser.add_argument("--device", help="cuda, or cpu (the smaller model alone): only single steps there, of random weights")
    parser.add_argument("--packed", type=Path, metavar="FOLDER", help="a pack of this code, as glora_lib.runs.pack makes it")
    options = vars(parser.parse_args(argv))
    packed, wanted = options.pop("packed"), options.pop("device")
    try:
        if packed:
            pack.use(packed)
        place = find(wanted)
    except (DeviceError, pack.PackError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.pop("threads"))
    print(line())
    if wanted:
        models, runs = (device.MODELS, device.RUNS) if place.type == "cuda" else device.ON_A_PROCESSOR
        record = device.measure(
            place, models, batch=options["batch"], rounds=options["rounds"], runs=runs,
            say=lambda name: print(f"  {name} ...", flush=True), keep=Record.save,
        )  # fmt: skip
        print(device.table(record).to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
        print(record.save())
        return 0
    options["profile"] = PROFILES[options["profile"]]
    record = measure(Setting(**options), say=lambda name: print(f"  {name} ...", flush=True))
    path = record.save()
    print(table(record).to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
    print(f"{sum(v for k, v in record.cost.items() if k.startswith('seconds_')):.0f} s; {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
