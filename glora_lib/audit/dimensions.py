"""The dimensions of Eq. 10 to 14: every product attempted on tensors of the shapes that the papers state."""

from functools import cache

import pandas as pd
import torch

from glora_lib.audit.judge import statement

D2, D1 = 6, 4  # outputs and inputs; unequal, as of most layers
# (term, reading) -> shapes of the factors, and what joins them
READINGS = {
    ("W0 A", "ICLR, as printed"): ((D2, D1), "@", (D2, D1)),
    ("C W0", "ICLR, as printed"): ((D2, 1), "@", (D2, D1)),
    ("D b0", "ICLR, as printed"): ((D2, 1), "@", (D2, 1)),
    ("W0 A", "v1, as printed (d x d)"): ((D1, D1), "@", (D1, D1)),
    ("C W0", "v1, as printed (d x d)"): ((D1, 1), "@", (D1, D1)),
    ("D b0", "v1, as printed (d x d)"): ((D1, 1), "@", (D1, 1)),
    ("W0 A", "the code"): ((D2, D1), "*", (D2, D1)),
    ("W0 C", "the code"): ((D2, D1), "@", (D1, 1)),
    ("D b0", "the code"): ((D2, 1), "*", (D2, 1)),
    ("W0 A, a vector", "the code"): ((D2, D1), "*", (D2, 1)),
    ("W0 A, a scalar", "the code"): ((D2, D1), "*", (1, 1)),
    ("W0 A, a vector", "as a product"): ((D2, D1), "@", (D2, 1)),
    ("W0 A, a scalar", "as a product"): ((D2, D1), "@", (1, 1)),
}


def attempt(left: tuple[int, int], sign: str, right: tuple[int, int]) -> tuple[int, ...] | None:
    """Return the shape of the product of two tensors of these shapes, "@" or elementwise "*"; None if it is not defined."""
    a, b = torch.empty(left), torch.empty(right)
    try:
        return tuple((a @ b if sign == "@" else a * b).shape)
    except RuntimeError:
        return None


@cache
def table() -> pd.DataFrame:
    """Return every reading of every term: term, reading, product, the shape that comes out, and whether it fits its sum.

    A term of the weight must be as large as W0, a term of the bias as large as b0.
    """
    rows = []
    for (term, reading), (left, sign, right) in READINGS.items():
        shape = attempt(left, sign, right)
        square = reading.startswith("v1")
        d2, d1 = (D1, D1) if square else (D2, D1)
        wanted = (d2, d1) if "A" in term else (d2, 1)
        product = f"{left[0]}x{left[1]} {sign} {right[0]}x{right[1]}"
        rows.append((term, reading, product, "undefined" if shape is None else f"{shape[0]}x{shape[1]}", shape == wanted))
    return pd.DataFrame(rows, columns=["term", "reading", "product", "result", "fits"])


def fits(reading: str, *terms: str) -> tuple[bool, str]:
    """Say whether all terms of a reading fit (all that start with one of `terms`, or all there are)."""
    rows = table()[table()["reading"].str.startswith(reading)]
    rows = rows[rows["term"].str.startswith(terms)] if terms else rows
    found = "; ".join(f"{r.term}: {r.product} is {r.result}" for r in rows.itertuples())
    return bool(rows["fits"].all()), found


def bias_terms() -> tuple[bool, str]:
    """Say whether the terms of the bias fit as both versions print them."""
    new, old = fits("ICLR", "C W0", "D b0"), fits("v1", "C W0", "D b0")
    return new[0] and old[0], f"{new[1]}; v1: {old[1]}"


def scaling_shapes() -> tuple[bool, str]:
    """Say whether the three shapes that App. F gives A fit W0 elementwise; add how many of them fit as a product."""
    rows = table()[table()["term"].str.startswith("W0 A")]
    elementwise = rows[rows["reading"] == "the code"]["fits"]
    product = rows[rows["reading"].isin(["ICLR, as printed", "as a product"])]["fits"]
    return bool(elementwise.all()), f"{elementwise.sum()} of {len(elementwise)} fit elementwise, {product.sum()} as a product"


def dot_product() -> tuple[bool, str]:
    """Say whether Eq. 6 gives as many outputs as features with a dot product, as Sec. 2.1 calls its sign."""
    scale = features = torch.ones(D1)
    dot, elementwise = torch.dot(scale, features), scale * features
    return dot.numel() == D1, f"a dot product of {D1} features is {dot.numel()} number, elementwise {elementwise.numel()}"


CHECKS = {
    "equation/6": statement(dot_product),
    "equation/10-product": statement(lambda: fits("ICLR", "W0 A")),
    "equation/10-prompt": statement(bias_terms),
    "equation/10-product-v1": statement(lambda: fits("v1", "W0 A")),
    "equation/appendix-f": statement(scaling_shapes),
}
