"""Print the verdicts as Markdown, or hold the README's summary current.

python -m glora_lib.audit                         both tallies, then every claim, part by part
python -m glora_lib.audit --source superlora --verdict off
python -m glora_lib.audit --check                 exit 1 if the README is stale
python -m glora_lib.audit --write                 bring the README up to date
"""

import argparse
import sys

from glora_lib.audit.desk import PARTS, part, select, verdicts
from glora_lib.audit.report import MEND, linked, markdown, stale, tallies, write
from glora_lib.runs.profiles import PROFILES


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks for; return 0, 1 for a stale README, or 2 for a filter that fits no claim."""
    parser = argparse.ArgumentParser(prog="python -m glora_lib.audit", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cpu", choices=PROFILES)
    parser.add_argument("--source", default="")
    parser.add_argument("--kind", default="")
    parser.add_argument("--verdict", default="")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="fail if the README's summary is stale")
    action.add_argument("--write", action="store_true", help="write the README's summary")
    args = parser.parse_args(argv)
    if args.check:
        if stale():
            print(f"the verdicts in README.md are stale; run: {MEND}", file=sys.stderr)
            return 1
        print("the verdicts in README.md are current")
    elif args.write:
        write()
        print("README.md is current")
    else:
        table = verdicts(args.profile)
        try:
            chosen = select(table, args.source, args.kind, args.verdict)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        if len(chosen) == len(table):
            print(tallies(table))
        for name, title in PARTS.items():
            if len(rows := part(chosen, name)):
                print(f"\n**{title}**\n\n{markdown(linked(rows, name))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
