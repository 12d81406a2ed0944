"""SuperLoRA (Chen et al., BMVC 2024): the changes of many weights as a few groups of tensors, Eq. 2 of that paper.

fold: the most cubic shape of a group · grouping: weights into groups and back · units: what a group's tensor is made of ·
projection: from fewer numbers to more · settings: the hyper-parameters of Table 2 and presets by name · counts: parameters by
formula · model: a model whose weights are W0 + dW.
"""

from glora_lib.superlora.grouping import Part, queries_and_values
from glora_lib.superlora.model import SuperLoRAModel
from glora_lib.superlora.settings import PRESETS, SuperLoRA

__all__ = ["PRESETS", "Part", "SuperLoRA", "SuperLoRAModel", "queries_and_values"]
