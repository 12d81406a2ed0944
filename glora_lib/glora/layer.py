"""The GLoRA layer: a frozen linear layer and five support tensors (Eq. 10 and 11).

    W = W0 + W0 * A + B        b = b0 + b0 * D + E + W0 @ C        y = x W^T + b

with W0 (d2, d1) and b0 (d2). This is what the authors' code computes; as printed, Eq. 10 has no dimensions that fit: "W0 A" is
elementwise, with A (d2, d1); C is (d1, 1) and stands behind W0; D scales b0 elementwise.

The tensors are entangled: a scalar, a vector and LoRA of every rank share one storage. A and B are stored as Xd (d2, R) and
Xu (R, d1), C as Cd (d1, R) and Cu (R, 1); LoRA of rank r is Xd[:, :r] @ Xu[:r], the vector is Xd[:, :1], the scalar Xd[0, 0].
"""

from dataclasses import asdict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.glora.fast_linear import scaled_rows_linear
from glora_lib.glora.fusable import StandIn, copy_hooks
from glora_lib.glora.space import KINDS, Choice, lora_rank

SUPPORT = ("Ad", "Au", "Bd", "Bu", "Cd", "Cu", "D", "E")  # the names of the tensors' storage


class GLoRALinear(StandIn):
    """A linear layer whose weight and bias are GLoRA's; `use` chooses the form of the support tensors.

    Args:
        linear: the pretrained layer; its weight and bias are shared, not copied, and frozen.
        rank: the largest LoRA rank R that the storage holds.
        scale_broadcast: divide the vector and scalar forms of B by d1. They add the same number to a whole row of W, that is
            b * sum(x) to an output, so that their effective step is d1 times a single weight's. The functions that can be
            reached, and fusion, stay the same; the paper does not scale.
        gain_bias: whether a layer without bias gains one where C or E is chosen. If not, it has A and B alone.

    Raises ValueError for a rank that is no positive integer.
    Set the attribute `fast` to False to train the plain formula as it stands.
    """

    fast = True
    kind = "linear"
    without_bias = "weight"  # the kind of a layer that has none and gains none

    def __init__(self, linear: nn.Linear, rank: int = 8, scale_broadcast: bool = False, gain_bias: bool = True):
        super().__init__(linear)
        check_whole(rank, "rank")
        d2, d1 = linear.weight.shape
        self.rank, self.scale_broadcast = rank, scale_broadcast
        if linear.bias is None and not gain_bias:
            self.kind = self.without_bias
        self.W0, self.b0 = linear.weight, linear.bias
        self.W0.requires_grad_(False)
        if self.b0 is not None:
            self.b0.requires_grad_(False)
        self.formed: tuple[Tensor, Tensor | None] | None = None  # what `effective` returned, for as long as it is kept

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(self.W0.new_zeros(shape))

        # Xd = 0 makes every choice an exact no-op at the start; Xu as in the authors' code
        self.Ad, self.Au = zeros(d2, rank), zeros(rank, d1)
        self.Bd, self.Bu = zeros(d2, rank), zeros(rank, d1)
        self.Cd, self.Cu = zeros(d1, rank), zeros(rank, 1)
        self.D, self.E = zeros(d2), zeros(d2)
        for up in (self.Au, self.Bu, self.Cu):
            nn.init.xavier_uniform_(up)
        if self.kind == self.without_bias:  # never chosen
            for unused in (self.Cd, self.Cu, self.D, self.E):
                unused.requires_grad_(False)
        self.choice = Choice()

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether a module is a plain linear layer: a class derived from it may compute something else."""
        return type(module) is nn.Linear

    def use(self, choice: Choice) -> "GLoRALinear":
        """Choose the form of the five support tensors; return the layer.

        A rank above the stored one, and a tensor that a layer without bias does not have, is a ValueError.
        """
        for tensor, form in asdict(choice).items():
            if lora_rank(form) > self.rank:
                raise ValueError(f"unknown choice {form!r} for {tensor}; valid ranks of this layer: 1 to {self.rank}")
            if form != "none" and tensor not in KINDS[self.kind]:
                raise ValueError(
                    f"{tensor} cannot be {form!r} here: the layer has no bias and gains none; sample from "
                    "Space(net.layer_names, ranks, net.kinds)"
                )
        self.choice = choice
        return self

    def effective(self) -> tuple[Float[Tensor, "d2 d1"], Float[Tensor, " d2"] | None]:
        """Return the weight W and the bias b of the chosen subnet (Eq. 10); b is None if b0 is and nothing adds one."""
        W0, A, B = self.W0, self._tensor("A"), self._tensor("B")
        W = W0 if A is None else torch.addcmul(W0, W0, A)  # W0 + W0 * A, in one pass
        W = W if B is None else W + B
        return W, self._bias()

    def _bias(self) -> Float[Tensor, " d2"] | None:
        W0, b0 = self.W0, self.b0
        C, D, E = (self._tensor(tensor) for tensor in "CDE")
        terms = [b0, b0 * D if D is not None and b0 is not None else None, E, (W0 @ C).squeeze(-1) if C is not None else None]
        terms = [term for term in terms if term is not None]  # a layer without bias has no b0 * D, and gains E + W0 @ C
        return sum(terms[1:], terms[0]).expand(self.out_features) if terms else None

    def _tensor(self, tensor: str) -> Tensor | None:
        """Return a support tensor in its chosen form, broadcastable against W0 or b0; None where the form is none.

        Support tensors may be float32 beside frozen weights of lower precision, in which small steps would be lost.
        """
        found = self._form(tensor, getattr(self.choice, tensor))
        return found if found is None or self.W0.dtype == torch.float32 else found.to(self.W0.dtype)

    def _form(self, tensor: str, form: str) -> Tensor | None:
        if form == "none":
            return None
        if tensor in "DE":
            return getattr(self, tensor) if form == "vector" else getattr(self, tensor)[:1]
        down, up = getattr(self, f"{tensor}d"), getattr(self, f"{tensor}u")
        if rank := lora_rank(form):
            return down[:, :rank] @ up[:rank]
        broadcast = down[:, :1] if form == "vector" else down[:1, :1]
        return broadcast / self.in_features if tensor == "B" and self.scale_broadcast else broadcast

    def forward(self, input: Float[Tensor, "*batch d1"]) -> Float[Tensor, "*batch d2"]:
        self._felt()
        if self.formed is not None:
            return F.linear(input, *self.formed)
        if not (self.fast and torch.is_grad_enabled()):
            return F.linear(input, *self.effective())
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.W0.dtype
        with torch.autocast(device, enabled=False):  # every part is cast here, each time: nothing kept can be out of date
            return self._forward_fast(input, dtype)

    def _forward_fast(self, x: Float[Tensor, "*batch d1"], dtype: torch.dtype) -> Float[Tensor, "*batch d2"]:
        """Return the same as the plain formula, computed in `dtype`, with a hand-written backward pass (see `fast_linear`)."""
        down = up = None
        if rank := lora_rank(self.choice.B):
            down, up = self.Bd[:, :rank], self.Bu[:rank]
        elif self.choice.B != "none":
            down, up = self._tensor("B").expand(self.out_features, 1), torch.ones_like(self.W0[:1])
        W0, bias = self.W0.to(dtype), self._bias()
        x, down, up, bias = (None if part is None else part.to(dtype) for part in (x, down, up, bias))
        if rank := lora_rank(self.choice.A):  # needs the dense gradient of W, so that nothing is left to save
            W = torch.addcmul(W0, W0, self.Ad[:, :rank].to(dtype) @ self.Au[:rank].to(dtype))
            return F.linear(x, W if down is None else torch.addmm(W, down, up), bias)
        A = self._tensor("A")
        return scaled_rows_linear(x, W0, None if A is None else (1 + A).squeeze(1).to(dtype), down, up, bias)

    @torch.no_grad()
    def fuse(self) -> nn.Linear:
        """Return a plain linear layer that computes the chosen subnet, in the weights' own dtype; this layer stays as it is.

        A layer without bias gains one if C or E is in use.
        """
        W, b = self.effective()
        # on the meta device until it has its own values: drawing others would move the global generator
        fused = nn.Linear(self.in_features, self.out_features, bias=b is not None, device="meta", dtype=W.dtype)
        fused.weight = nn.Parameter(W.clone() if W is self.W0 else W)
        if b is not None:
            fused.bias = nn.Parameter(b.to(W.dtype, copy=True))
        copy_hooks(self, fused)
        return fused.train(self.training)

    def stored(self) -> dict[str, Tensor]:
        """Return the slices of the storage that the chosen subnet needs, by parameter name."""
        slices = {}
        for tensor, form in asdict(self.choice).items():
            if form != "none" and tensor in "DE":
                slices[tensor] = getattr(self, tensor)[: None if form == "vector" else 1]
            elif rank := lora_rank(form):
                slices[f"{tensor}d"], slices[f"{tensor}u"] = (
                    getattr(self, f"{tensor}d")[:, :rank],
                    getattr(self, f"{tensor}u")[:rank],
                )
            elif form != "none":
                slices[f"{tensor}d"] = getattr(self, f"{tensor}d")[: None if form == "vector" else 1, :1]
        return slices

    def extra_repr(self) -> str:
        forms = ", ".join(f"{tensor}={form}" for tensor, form in asdict(self.choice).items() if form != "none")
        return f"{self.in_features} -> {self.out_features}, rank={self.rank}, {forms or 'all none'}"


def check_whole(value, what: str, least: int | None = 1) -> None:
    """Raise a ValueError unless a value, called `what`, is an integer, of at least `least` if that is given."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{what} must be an integer, not {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{what} must be at least {least}, not {value}")
