"""What a search can know from a small validation set: how much of the best score is luck. A simulation with fixed seeds."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from glora_lib.audit.judge import statement
from glora_lib.audit.protocol import evaluations

IMAGES = 200  # the validation images of a task of VTAB-1K
TRIALS = 400


@dataclass(frozen=True)
class Luck:
    """What choosing the best of many subnets on few images gives, in points, averaged over simulated searches."""

    gain: float  # best validation score minus the chosen subnet's true accuracy
    regret: float  # the best subnet's true accuracy minus the chosen one's
    found: float  # share of the searches that chose the truly best subnet, or one as good
    ties: float  # subnets that share the best validation score


@cache
def simulate(
    accuracy: float = 0.8,
    spread: float = 0.01,
    shared: float = 0.0,
    subnets: int | None = None,
    images: int = IMAGES,
    seed: int = 0,
) -> Luck:
    """Return the luck of searches that score `subnets` (default: the paper's number) on `images` validation images.

    True accuracies are normal around `accuracy` with deviation `spread`, both fractions. Subnets of one supernet err on the
    same images: a share `shared` of them is answered alike by all, and only the rest is drawn for each subnet.
    """
    rng = np.random.default_rng(seed)
    subnets = subnets or evaluations()
    true = np.clip(rng.normal(accuracy, spread, (TRIALS, subnets)), 0, 1)
    alike = round(shared * images)
    common = rng.binomial(alike, accuracy, (TRIALS, 1))
    scores = common + rng.binomial(images - alike, true)
    best = scores.max(axis=1, keepdims=True)
    ties = (scores == best).sum(axis=1)
    chosen = (scores == best).argmax(axis=1)
    reached = true[np.arange(TRIALS), chosen]
    regret = true.max(axis=1) - reached
    return Luck(
        gain=100 * float((best[:, 0] / images - reached).mean()),
        regret=100 * float(regret.mean()),
        found=float((regret < 1e-9).mean()),
        ties=float(ties.mean()),
    )


def pinpoints() -> tuple[bool, str]:
    """Say whether a search on 200 images finds the best of its subnets more often than not, if they differ by 1 point (sd)."""
    luck = simulate()
    return (
        luck.found > 0.5,
        f"the best in {100 * luck.found:.1f} % of {TRIALS} simulated searches, {luck.regret:.1f} points below it",
    )


def score_is_honest() -> tuple[bool, str]:
    """Say whether the best validation score of equally good subnets lies within one point of their accuracy."""
    apart, alike = simulate(spread=0.0), simulate(spread=0.0, shared=0.9)
    found = (
        f"best of {evaluations():,} equal subnets: {apart.gain:+.1f} points by luck; {alike.gain:+.1f} if they agree on 90 %"
    )
    return apart.gain < 1 and alike.gain < 1, found


CHECKS = {"search/optimal": statement(pinpoints), "search/validation-score": statement(score_is_honest)}
