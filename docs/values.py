"""Values on a command line: literals as in a notebook's cell of parameters."""

import argparse
import ast
import math
from collections.abc import Callable


def assignment(text: str) -> tuple[str, object]:
    """Return the name and the value of `name=value`.

    The value is a Python literal, as in a notebook, or a list or mapping in YAML's form (`[x, y]`) of such; `true`, `false` and
    `null` are known too. Everything else is text: nothing is read as a date, a time or an octal number.
    """
    import yaml  # where only runs are computed, it need not be installed

    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"expected name=value, not {text!r}")
    try:
        return name, literal(value)
    except ValueError:
        pass
    try:
        return name, typed(yaml.load(value, yaml.BaseLoader))
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {' '.join(str(error).split())}; quote a text: {name}='\"...\"'") from error


def literal(text: str) -> object:
    """Return the value of a Python literal, tuples as lists; a ValueError for text that is none, or none of JSON's types."""
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return plain(value)


def plain(value: object) -> object:
    """Return a value with tuples as lists; a ValueError for sets, bytes and complex numbers."""
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"{value!r} is no parameter's value")
    return value


def typed(value: object) -> object:
    """Return what YAML read as text with its literals as values."""
    if isinstance(value, list):
        return [typed(entry) for entry in value]
    if isinstance(value, dict):
        return {key: typed(entry) for key, entry in value.items()}
    words = {"true": True, "false": False, "null": None}
    if not isinstance(value, str) or value in words:
        return words.get(value, "")  # nothing at all is the empty text
    try:
        return literal(value)
    except ValueError:
        return value


def above_zero(kind: type) -> Callable[[str], float]:
    """Return a type of argparse's: a finite number of a kind that is above zero."""

    def number(text: str) -> float:
        value = kind(text)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError
        return value

    number.__name__ = f"{kind.__name__} above zero"  # for argparse's message
    return number
