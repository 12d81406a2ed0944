"""Backbones: the packaged one against its own graph, the original release's .npz layout, and every way to lack weights."""

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from glora_lib.backbones import PACKAGED, PACKAGED_LABEL, BackboneError, label, load_backbone, packaged, weights_sha256
from glora_lib.backbones.architecture import create
from glora_lib.glora.adapt import adapt


@pytest.fixture(scope="module")
def graph() -> ReferenceEvaluator:
    """The package's graph up to the backbone's last layer norm, run by onnx's own reference implementation."""
    model = onnx.load(str(packaged.file()))
    output = "/backbone/layernorm/Add_1_output_0"
    needed, nodes = {output}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.insert(0, node)
            needed |= set(node.input)
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    outputs = [onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)]
    cut = onnx.helper.make_graph(nodes, "backbone", list(model.graph.input), outputs, weights)
    return ReferenceEvaluator(onnx.helper.make_model(cut, opset_imports=model.opset_import, ir_version=model.ir_version))


@pytest.mark.parametrize("image_size", [56, 98])
@torch.no_grad()
def test_the_packaged_backbone_s_tokens_are_the_graph_s(graph, image_size):
    x = torch.randn(2, 3, image_size, image_size)
    model = load_backbone(classes=3, image_size=image_size).eval()
    expected = torch.from_numpy(graph.run(None, {"input_image": x.numpy()})[0])
    assert expected.shape == (2, 1 + (image_size // 14) ** 2, 384)
    torch.testing.assert_close(model.forward_features(x), expected, rtol=0, atol=1e-4)


def test_the_packaged_backbone_is_the_same_every_time_but_for_its_head_and_has_48_layers():
    first, other = (load_backbone(PACKAGED, classes=5, image_size=56, seed=seed) for seed in (3, 4))
    others = other.state_dict()
    different = [name for name, tensor in first.state_dict().items() if not torch.equal(tensor, others[name])]
    assert different == ["head.weight"]
    assert first.head.out_features == 5
    assert len(adapt(first).layer_names) == 48


def test_converted_weights_are_kept_checked_and_made_again_when_they_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "CACHE", tmp_path)
    monkeypatch.setattr(packaged, "external_data", lambda: tmp_path / "none")
    expected = {key: torch.from_numpy(value) for key, value in packaged.read_onnx(packaged.file()).items()}

    def converted() -> list[str]:
        state = packaged.converted()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
        return [file.name for file in tmp_path.iterdir()]

    (name,) = converted()
    with monkeypatch.context() as patch:
        patch.setattr(packaged, "read_onnx", lambda path: pytest.fail("converted again"))
        assert converted() == [name]
    damaged = bytearray((tmp_path / name).read_bytes())
    damaged[-5] ^= 1
    (tmp_path / name).write_bytes(damaged)
    assert converted() == [name]
    assert (tmp_path / name).read_bytes() != damaged


def test_weights_are_converted_where_none_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(packaged, "CACHE", tmp_path / "file")
    monkeypatch.setattr(packaged, "external_data", lambda: tmp_path / "none")
    assert len(packaged.converted()) > 100


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    load_backbone("test_vit", classes=3, image_size=32, weights="random")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("size", "nearest"), [(100, 98), (97, 84), (224 + 1, 224)])
def test_an_image_size_that_is_no_multiple_of_14_names_one_that_is(size, nearest):
    with pytest.raises(ValueError, match=f"{size} is no multiple of 14, {nearest} is"):
        load_backbone(classes=3, image_size=size)


def test_a_wrong_checksum_names_both_and_the_mend(monkeypatch):
    monkeypatch.setattr(packaged, "PACKAGED_SHA256", "0" * 64)
    with pytest.raises(BackboneError, match=r"has SHA-256 198644e\w+, expected 0{64}; mend it with: pip install"):
        load_backbone(classes=3)


def test_an_edited_weight_file_is_refused(tmp_path, monkeypatch):
    data = bytearray(packaged.file().read_bytes())
    data[len(data) // 2] ^= 1
    edited = tmp_path / packaged.PACKAGED_FILE
    edited.write_bytes(data)
    monkeypatch.setattr(packaged, "file", lambda: edited)
    with pytest.raises(BackboneError, match="has SHA-256"):
        load_backbone(classes=3)


def test_a_missing_package_names_the_mend(monkeypatch, tmp_path):
    monkeypatch.setattr(packaged, "CACHE", tmp_path)
    monkeypatch.setattr(packaged, "external_data", lambda: tmp_path)

    def missing(name):
        raise packaged.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packaged.importlib.metadata, "files", missing)
    with pytest.raises(BackboneError, match="not installed; mend it with: pip install"):
        load_backbone(classes=3)
    monkeypatch.setattr(packaged.importlib.metadata, "files", lambda name: [])
    with pytest.raises(BackboneError, match="without vit_s_focus.onnx; mend it with: pip install"):
        load_backbone(classes=3)


def test_an_unknown_name_offers_the_known():
    with pytest.raises(ValueError, match=f"unknown backbone 'vit_smal_patch14'; valid: '{PACKAGED}', .*and every timm model"):
        load_backbone("vit_smal_patch14", classes=3)


@pytest.mark.parametrize("weights", ["random", "mine.pth"])
def test_a_packaged_backbone_takes_no_other_weights(weights):
    with pytest.raises(ValueError, match=f"has the weights of its package and takes no others; got weights='{weights}'"):
        load_backbone(classes=3, weights=weights)


@pytest.mark.parametrize("classes", [0, -1, True])
def test_a_head_needs_a_class(classes):
    with pytest.raises(ValueError, match="classes must be an integer of at least 1"):
        load_backbone("test_vit", classes=classes, weights="random")


def test_weights_that_are_not_there_are_an_error_and_never_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("GLORA_DATA_DIR", str(tmp_path))
    with pytest.raises(BackboneError, match="no weights were named"):
        load_backbone("test_vit", classes=3)
    with pytest.raises(BackboneError, match=rf"'ViT-B_16.npz' is neither in {tmp_path} \(set GLORA_DATA_DIR\)"):
        load_backbone("vit_base_patch16_224.orig_in21k", classes=3, weights="ViT-B_16.npz")


@pytest.mark.parametrize("classes", [2, 7])
def test_a_timm_backbone_with_random_weights_is_fixed_by_its_seed(classes):
    first, again, other = (
        load_backbone("test_vit", classes=classes, image_size=32, weights="random", seed=seed) for seed in (1, 1, 2)
    )
    assert first(torch.zeros(1, 3, 32, 32)).shape == (1, classes)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.blocks[0].attn.qkv.weight, other.blocks[0].attn.qkv.weight)


def original_layout(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return random weights for that model under the names and in the shapes of the original ViT release (JAX)."""
    rng = np.random.default_rng(0)
    heads, head_width = model.blocks[0].attn.num_heads, model.embed_dim // model.blocks[0].attn.num_heads
    hidden, width = model.blocks[0].mlp.fc1.out_features, model.embed_dim
    patch = model.patch_embed.patch_size[0]
    shapes = {
        "embedding/kernel": (patch, patch, 3, width),
        "embedding/bias": (width,),
        "cls": (1, 1, width),
        "Transformer/posembed_input/pos_embedding": tuple(model.pos_embed.shape),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, 21843),
        "head/bias": (21843,),
    }
    for block in range(len(model.blocks)):
        at = f"Transformer/encoderblock_{block}/"
        attention = f"{at}MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}{part}/kernel": (width, heads, head_width), f"{attention}{part}/bias": (heads, head_width)}
        shapes |= {f"{attention}out/kernel": (heads, head_width, width), f"{attention}out/bias": (width,)}
        shapes |= {f"{at}LayerNorm_{norm}/{kind}": (width,) for norm in (0, 2) for kind in ("scale", "bias")}
        shapes |= {f"{at}MlpBlock_3/Dense_0/kernel": (width, hidden), f"{at}MlpBlock_3/Dense_0/bias": (hidden,)}
        shapes |= {f"{at}MlpBlock_3/Dense_1/kernel": (hidden, width), f"{at}MlpBlock_3/Dense_1/bias": (width,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def npz(tmp_path, monkeypatch):
    """The weights of a small random .npz, which lies in GLORA_DATA_DIR as small.npz."""
    monkeypatch.setenv("GLORA_DATA_DIR", str(tmp_path))
    weights = original_layout(timm.create_model("test_vit", img_size=32))
    np.savez(tmp_path / "small.npz", **weights)
    return weights


def test_every_value_of_an_npz_lands_where_it_should(npz):
    model = load_backbone("test_vit", classes=3, image_size=32, weights="small.npz").eval()
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    expected = {
        "patch_embed.proj.weight": npz["embedding/kernel"].transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": npz["embedding/bias"],
        "cls_token": npz["cls"],
        "pos_embed": npz["Transformer/posembed_input/pos_embedding"],
        "norm.weight": npz["Transformer/encoder_norm/scale"],
        "norm.bias": npz["Transformer/encoder_norm/bias"],
    }
    for block in range(len(model.blocks)):
        ours, at = f"blocks.{block}.", f"Transformer/encoderblock_{block}/"
        attention = f"{at}MultiHeadDotProductAttention_1/"
        qkv = [npz[f"{attention}{part}/kernel"].reshape(64, 64) for part in ("query", "key", "value")]
        expected |= {
            f"{ours}attn.qkv.weight": np.concatenate(qkv, axis=1).T,
            f"{ours}attn.qkv.bias": np.concatenate([npz[f"{attention}{p}/bias"].ravel() for p in ("query", "key", "value")]),
            f"{ours}attn.proj.weight": npz[f"{attention}out/kernel"].reshape(64, 64).T,
            f"{ours}attn.proj.bias": npz[f"{attention}out/bias"],
        }
        for norm, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            expected |= {f"{ours}{norm}.weight": npz[f"{at}{theirs}/scale"], f"{ours}{norm}.bias": npz[f"{at}{theirs}/bias"]}
        for layer, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            expected |= {
                f"{ours}mlp.{layer}.weight": npz[f"{at}MlpBlock_3/{theirs}/kernel"].T,
                f"{ours}mlp.{layer}.bias": npz[f"{at}MlpBlock_3/{theirs}/bias"],
            }
    assert set(state) - set(expected) == {"head.weight", "head.bias"}  # fresh, of the task's width
    for name, values in expected.items():
        np.testing.assert_array_equal(state[name], values, err_msg=name)
    assert state["head.weight"].shape == (3, 64)


def test_attention_of_an_npz_computes_what_the_original_layout_means(npz):
    """One block's attention, written with the release's (width, heads, head width) kernels."""
    model = load_backbone("test_vit", classes=3, image_size=32, weights="small.npz").double().eval()
    attention = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/"
    kernels = {name: torch.from_numpy(npz[attention + name]).double() for name in original_attention()}
    x = 0.1 * torch.randn(2, 5, 64, dtype=torch.float64)
    q, k, v = (
        torch.einsum("btc,chd->bthd", x, kernels[f"{p}/kernel"]) + kernels[f"{p}/bias"] for p in ("query", "key", "value")
    )
    weights = torch.einsum("bthd,bshd->bhts", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
    mixed = torch.einsum("bhts,bshd->bthd", weights, v)
    expected = torch.einsum("bthd,hdc->btc", mixed, kernels["out/kernel"]) + kernels["out/bias"]
    with torch.no_grad():
        torch.testing.assert_close(model.blocks[0].attn(x), expected, rtol=0, atol=1e-10)


def original_attention() -> list[str]:
    return [f"{part}/{kind}" for part in ("query", "key", "value", "out") for kind in ("kernel", "bias")]


def wrong_width(npz):
    return npz | {"Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": np.zeros((65, 192), np.float32)}


def no_last_block(npz):
    return {name: array for name, array in npz.items() if "encoderblock_5" not in name}


@pytest.mark.parametrize("spoil", [wrong_width, no_last_block])
def test_an_npz_of_another_model_is_refused(npz, tmp_path, spoil):
    np.savez(tmp_path / "wrong.npz", **spoil(npz))
    with pytest.raises(BackboneError, match="wrong.npz does not fit 'test_vit'"):
        load_backbone("test_vit", classes=3, image_size=32, weights="wrong.npz")


@pytest.mark.parametrize("cut", [0, 1000, -200])
def test_a_truncated_npz_is_refused(npz, tmp_path, cut):
    (tmp_path / "cut.npz").write_bytes((tmp_path / "small.npz").read_bytes()[:cut])
    with pytest.raises(BackboneError, match="cut.npz does not fit 'test_vit'"):
        load_backbone("test_vit", classes=3, image_size=32, weights="cut.npz")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_of_weights_under_other_names_is_not_taken_for_the_model_s(tmp_path, suffix):
    path, tensors = tmp_path / f"other.{suffix}", {"layer.weight": torch.zeros(3)}
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    with pytest.raises(BackboneError, match=f"other.{suffix} does not fit 'test_vit'"):
        load_backbone("test_vit", classes=3, image_size=32, weights=str(path))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_without_a_head_of_this_width_loads_the_backbone(tmp_path, suffix):
    source = load_backbone("test_vit", classes=3, image_size=32, weights="random", seed=5)
    tensors = {name: tensor.contiguous() for name, tensor in source.state_dict().items() if not name.startswith("head")}
    path = tmp_path / f"backbone.{suffix}"
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    model = load_backbone("test_vit", classes=9, image_size=32, weights=str(path))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in tensors.items())


def test_labels_and_checksums_say_what_was_loaded(npz, tmp_path):
    assert weights_sha256(PACKAGED) == packaged.PACKAGED_SHA256
    assert weights_sha256("test_vit", "random") == "random"
    assert len(weights_sha256("test_vit", "small.npz")) == 64
    assert label("test_vit", "random") == "test_vit, random weights"
    assert label("test_vit", "small.npz") == "test_vit, small.npz"
    assert label(PACKAGED) == PACKAGED_LABEL


# any architecture, any form of file


def same_but_for_the_head(model, source) -> None:
    mine, theirs = model.state_dict(), source.state_dict()
    heads = {name for name in theirs if name.split(".")[0] in ("head", "fc", "classifier", "head_dist")}
    assert heads
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs if name not in heads)


FORMS = {
    "w.pth": lambda state: state,
    "model.pth": lambda state: {"model": state, "epoch": 3},
    "dict.pt": lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    "compiled.bin": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "w.safetensors": lambda state: state,
}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_a_head_of_another_width_and_wrappers_around_it(tmp_path, name, form):
    torch.manual_seed(5)
    source = timm.create_model(name, num_classes=1000)
    state = {key: tensor.contiguous() for key, tensor in FORMS[form](source.state_dict()).items()} if "safe" in form else None
    save_file(state, tmp_path / form) if state else torch.save(FORMS[form](source.state_dict()), tmp_path / form)
    model = load_backbone(name, classes=5, weights=str(tmp_path / form))
    same_but_for_the_head(model, source)
    assert model.get_classifier().out_features == 5
    again = load_backbone(name, classes=1000, weights=str(tmp_path / form))
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_position_embeddings_of_files_are_resampled_as_timm_does(tmp_path, suffix):
    source = timm.create_model("test_vit", num_classes=1000, img_size=64)
    path, state = tmp_path / f"w.{suffix}", {key: t.contiguous() for key, t in source.state_dict().items()}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    model = load_backbone("test_vit", classes=5, image_size=32, weights=str(path))
    expected = resample_abs_pos_embed(source.pos_embed, [2, 2], num_prefix_tokens=source.num_prefix_tokens)
    assert model.pos_embed.shape == (1, 5, 64)
    torch.testing.assert_close(model.pos_embed, expected)
    assert torch.equal(model.blocks[3].mlp.fc1.weight, source.blocks[3].mlp.fc1.weight)


def test_positions_of_an_architecture_that_timm_does_not_convert_are_resampled_too(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("cait_xxs24_224", img_size=64)  # its class token has no position
    torch.save(source.state_dict(), tmp_path / "w.pth")
    model = load_backbone("cait_xxs24_224", classes=5, image_size=32, weights=str(tmp_path / "w.pth"))
    expected = resample_abs_pos_embed(source.pos_embed, [2, 2], num_prefix_tokens=0)
    torch.testing.assert_close(model.pos_embed, expected)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = timm.create_model("test_vit").state_dict()
    state["blocks.2.mlp.fc1.bias"][0] = torch.nan
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"w.pth does not fit 'test_vit': blocks.2.mlp.fc1.bias has NaN or infinity"):
        load_backbone("test_vit", classes=5, weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("change", ["extra", "missing", "shape"])
def test_a_file_that_fits_but_for_one_tensor_is_refused(tmp_path, change):
    state = timm.create_model("test_vit", num_classes=1000, img_size=32).state_dict()
    if change == "extra":
        state["blocks.0.ls1.gamma"] = torch.ones(64)
    elif change == "missing":
        del state["blocks.2.mlp.fc1.bias"]
    else:
        state["blocks.2.mlp.fc1.bias"] = torch.ones(3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"(lacks 1 tensors, such as blocks.(0.ls1.gamma|2.mlp.fc1.bias)|size mismatch)"):
        load_backbone("test_vit", classes=5, image_size=32, weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><title>Quota exceeded</title>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of git-lfs, not weights; .* git lfs pull"),
        (b"", "does not fit"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
def test_what_a_failed_download_leaves_is_named(tmp_path, content, message, suffix):
    (tmp_path / f"w.{suffix}").write_bytes(content)
    with pytest.raises(BackboneError, match=f"w.{suffix} {message}"):
        load_backbone("test_vit", classes=5, image_size=32, weights=str(tmp_path / f"w.{suffix}"))


def test_a_whole_model_in_a_file_is_told_apart(tmp_path):
    torch.save(timm.create_model("test_vit"), tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"holds more than tensors, a whole model perhaps; save its state_dict\(\) alone"):
        load_backbone("test_vit", classes=5, weights=str(tmp_path / "w.pth"))
    (tmp_path / "w.pth").write_text('{"error": "quota"}')
    with pytest.raises(BackboneError, match="does not fit 'test_vit': it is damaged, or no file of weights"):
        load_backbone("test_vit", classes=5, weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 42), ("resnet10t", 33), ("mobilenetv3_small_050", 42)])
def test_convnets_take_any_size_that_they_can(name, size):
    model = load_backbone(name, classes=3, image_size=size, weights="random", drop_path=0.1 if "resnet" in name else 0.0)
    assert model.training
    assert model.eval()(torch.zeros(2, 3, size, size)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "size", "fits"),
    [("vit_tiny_patch16_224", 42, 32), ("test_convnext", 42, 40), ("swin_tiny_patch4_window7_224", 58, 56)],
)
def test_a_size_that_patches_do_not_divide_names_one_that_they_do(name, size, fits):
    with pytest.raises(ValueError, match=f"{size} is no multiple of [0-9]+, {fits} is"):
        load_backbone(name, classes=3, image_size=size, weights="random")


@pytest.mark.parametrize(("name", "size", "fits"), [("pit_ti_224", 50, 48), ("poolformer_s12", 50, 47)])
def test_patches_that_overlap_leave_no_border_either(name, size, fits):
    with pytest.raises(ValueError, match=f"{size} leaves a border that none of them sees, {fits} does not"):
        load_backbone(name, classes=3, image_size=size, weights="random")
    model = load_backbone(name, classes=3, image_size=fits, weights="random")
    x = torch.rand(1, 3, fits, fits, requires_grad=True)
    next(m for m in model.modules() if isinstance(m, nn.Conv2d))(x).sum().backward()
    assert (x.grad != 0).all()


def test_a_size_that_fails_only_when_the_model_is_called_is_found_when_it_is_made():
    with pytest.raises(BackboneError, match="levit_128s cannot take images of 50 pixels"):
        load_backbone("levit_128s", classes=3, image_size=50, weights="random")
    for size in (0, -3, True):
        with pytest.raises(ValueError, match="image_size must be a number of pixels"):
            create("test_resnet", 3, size, 0.0, 0)


def test_what_an_architecture_does_not_have_or_cannot_take_is_a_clear_error():
    with pytest.raises(BackboneError, match="vgg11 has no stochastic depth: drop_path must be 0, not 0.1"):
        load_backbone("vgg11", classes=3, weights="random", drop_path=0.1)
    with pytest.raises(BackboneError, match="inception_v3 cannot take images of 42 pixels"):
        load_backbone("inception_v3", classes=3, weights="random", image_size=42)
