"""The methods that are compared: name -> function that adapts a model in place and returns what is trained.

Every function freezes the backbone, leaves its own parameters and the head trainable, and returns a module that is called like
the model, so that a notebook changes one word to change the method.
"""

from glora_lib.methods.glora import glora
from glora_lib.methods.lora import lora
from glora_lib.methods.probes import linear

METHODS = {"linear": linear, "lora": lora, "glora": glora}
