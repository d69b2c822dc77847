"""Weights of torchvision and timm, against what PyTorch itself wrote and computed."""

import base64
import io
import json
import os
import pickle
import zipfile
import zlib

import jax
import ml_collections
import numpy as np
import pytest
import weight_references as references

from jaxpt import backbones, models, torch_pickle, weights
from jaxpt.data.augment import to_float
from jaxpt.errors import InputError
from jaxpt.models import inputs
from jaxpt.models.resnet import BasicBlock, Bottleneck, ResNet

STORED = json.loads(references.FILE.read_text())
FILES = [name for name in STORED["files"] if name != "values"]
NETWORKS = {"basic": ResNet(references.BLOCKS, BasicBlock),
            "bottleneck": ResNet(references.BLOCKS, Bottleneck)}


def stored_file(name, folder):
    path = folder / name
    path.write_bytes(zlib.decompress(base64.b64decode(STORED["files"][name])))
    return path


def small_state(kind):
    return {name: references.drawn(name, shape)
            for name, shape in STORED["outputs"][kind]["shapes"].items()}


# Files by hand, in the opcodes of pickle protocol 0.

def tensor(*, kind="FloatStorage", key="0", size=6, offset=0, shape=(2, 3), strides=(3, 1)):
    def whole(values):
        return b"(" + b"".join(b"I%d\n" % v for v in values) + b"t"

    return (b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\n" + kind.encode() + b"\nV"
            + key.encode() + b"\nVcpu\nI%d\ntQI%d\n" % (size, offset) + whole(shape)
            + whole(strides) + b"I00\nNtR")


def state_of(**tensors):
    return b"(d" + b"".join(b"V" + name.encode() + b"\n" + value + b"s"
                            for name, value in tensors.items()) + b"."


def zip_of(pickled, *, members=None, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, value in (members or {"data/0": np.arange(6, dtype="<f4").tobytes()}).items():
            archive.writestr(f"archive/{name}", value)
    return file.getvalue()


def legacy_of(pickled, *, magic=0x1950A86A20F9469CFC6C, little=True, size=6):
    head = [pickle.dumps(part, 2) for part in (magic, 1001, {"little_endian": little})]
    return (b"".join(head) + pickled + pickle.dumps(["0"], 2) + np.int64(size).tobytes()
            + np.arange(6, dtype="<f4").tobytes())


def load_bytes(content, folder):
    path = folder / "file.pth"
    path.write_bytes(content)
    return weights.load_torch(path)


@pytest.mark.parametrize("name", FILES)
def test_reads_what_pytorch_wrote(name, tmp_path):
    state = weights.load_torch(stored_file(name, tmp_path))
    wanted = STORED["files"]["values"]
    assert state.keys() == wanted.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(value, wanted[key])
        assert value.dtype.kind == "i" if key == "count" else value.dtype == np.float32
    assert state["view"].shape == (4, 2)


@pytest.mark.parametrize("make", [zip_of, legacy_of])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model", "model_state_dict"])
def test_looks_into_training_checkpoints(make, wrapper, tmp_path):
    inner = state_of(**{"module.a": tensor(), "module.b": tensor(shape=(3,), strides=(2,))})
    pickled = inner if not wrapper else (
        b"(dVepoch\nI3\nsV" + wrapper.encode() + b"\n" + inner[:-1] + b"s.")
    state = load_bytes(make(pickled), tmp_path)
    np.testing.assert_array_equal(state["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(state["b"], [0, 2, 4])


def test_the_prefix_stays_where_not_all_have_it(tmp_path):
    state = load_bytes(zip_of(state_of(**{"module.a": tensor(), "b": tensor()})), tmp_path)
    assert state.keys() == {"module.a", "b"}


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("make", [
    lambda evil: zip_of(pickle.dumps(evil, 2)), lambda evil: legacy_of(pickle.dumps(evil, 2)),
    lambda evil: legacy_of(state_of(a=tensor()), magic=evil), lambda evil: pickle.dumps(evil, 2)])
def test_a_file_that_would_run_a_command_is_refused_and_runs_none(make, tmp_path):
    content = make(Evil(f"touch {tmp_path}/was_run"))
    with pytest.raises(InputError, match=r"refused: it wants to use (posix|nt)\.system"):
        load_bytes(content, tmp_path)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("name", [
    "builtins\neval", "builtins\ngetattr", "torch\nload", "torch.nn\nLinear", "numpy\nload",
    "collections\nnamedtuple", "torch\n_utils", "torch._utils\n_rebuild_device_tensor_from_numpy",
    "jaxpt.torch_pickle\nload", "torch_pickle\n_Tensor"])
def test_every_other_name_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=f"use {name.replace(chr(10), '.')}, which tensors do not"):
        load_bytes(zip_of(b"c" + name.encode() + b"\n(tR."), tmp_path)


def test_a_pickle_changes_no_function_of_ours(tmp_path):
    """The opcode BUILD sets attributes of whatever it finds on the stack."""
    change = b"ctorch._utils\n_rebuild_tensor_v2\n(N(dV__defaults__\n(I1\ntstb0"
    before = vars(torch_pickle._rebuild_tensor).copy(), torch_pickle._rebuild_tensor.__defaults__
    state = load_bytes(zip_of(change + state_of(a=tensor())), tmp_path)
    assert state.keys() == {"a"}
    assert before == (vars(torch_pickle._rebuild_tensor),
                      torch_pickle._rebuild_tensor.__defaults__)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "no whole PyTorch file"),
    (b"not a pickle", "no whole PyTorch file"),
    (zip_of(state_of(a=tensor(size=5))), "storage 0 has 24 bytes instead of 20"),
    (zip_of(state_of(a=tensor(kind="DoubleStorage"))), "24 bytes instead of 48"),
    (zip_of(state_of(a=tensor(key="1"))), "no whole PyTorch file"),
    (zip_of(state_of(a=tensor(offset=1))), r"shape \[2, 3\] does not lie within its 6 numbers"),
    (zip_of(state_of(a=tensor(offset=-1))), "does not lie within"),
    (zip_of(state_of(a=tensor(strides=(4, 1)))), "does not lie within"),
    (zip_of(state_of(a=tensor(strides=(-1, 1)))), "does not lie within"),
    (zip_of(state_of(a=tensor(strides=(1,)))), "does not lie within"),
    (zip_of(state_of(a=tensor(shape=(1 << 40,), strides=(0,)))), "does not lie within"),
    (zip_of(state_of(a=tensor(shape=(1 << 62, 4), strides=(0, 1)))), "does not lie within"),
    (zip_of(state_of(a=tensor(kind="CharTensor"))), r"torch\.CharTensor"),
    (zip_of(state_of(a=b"I3\n")), "holds no state dict"),
    (zip_of(b"(d."), "holds no state dict"),
    (zip_of(b"(dI1\n" + tensor() + b"s."), "holds no state dict"),
    (zip_of(tensor() + b"."), "holds no state dict"),
    (zip_of(b"]p0\ng0\na."), "no whole PyTorch file"),  # a list that holds itself
    (zip_of(state_of(a=tensor()), compression=zipfile.ZIP_DEFLATED), "is compressed"),
    (zip_of(state_of(a=tensor()), members={"data/0": b"0" * 24, "byteorder": b"big"}),
     "big-endian"),
    (zip_of(state_of(a=tensor()), members={"x/data.pkl": b"N.", "data/0": b"0" * 24}),
     "2 members data.pkl"),
    (legacy_of(state_of(a=tensor()), magic=3), "does not begin"),
    (legacy_of(state_of(a=tensor()), little=False), "big-endian"),
    (legacy_of(state_of(a=tensor()), size=5), "storage 0 has 5 numbers"),
    (legacy_of(state_of(a=tensor(size=7)), size=7), "ends within storage 0 of 28 bytes"),
    (legacy_of(state_of(a=tensor(key="1"))), "storage 0 has 6 numbers"),
    (legacy_of(state_of(a=tensor(), b=tensor(key="1"))), "no whole PyTorch file"),
    (legacy_of(state_of(a=tensor(size=1 << 40)), size=1 << 40), "ends within storage 0"),
])
def test_what_does_not_fit_is_refused(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_bytes(content, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_an_input_error_whatever_the_damage(name, tmp_path):
    path = stored_file(name, tmp_path)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError):
            weights.load_torch(path)
    rng = np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            changed[place] = rng.integers(256)
        path.write_bytes(bytes(changed))
        try:
            weights.load_torch(path)  # a number may have changed, and nobody can know
        except InputError:
            pass


@pytest.mark.parametrize(("path", "message"), [
    ("nowhere.pth", "no file 'nowhere.pth'"),
    ("weights.npz", "weights end in one of"),
])
def test_bad_paths_are_named(path, message):
    with pytest.raises(InputError, match=message):
        weights.load_torch(path)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_resnet_computes_what_torchvisions_computes(kind):
    network = NETWORKS[kind]
    imported = weights.import_resnet(small_state(kind), network)
    variables = {"params": imported.params, "batch_stats": imported.batch_stats}
    features, _ = jax.jit(lambda v, x: network.apply(v, x, False))(variables, references.images())
    logits = models.Classifier(references.CLASSES).apply(
        {"params": imported.classifier}, features, False)
    np.testing.assert_allclose(logits, STORED["outputs"][kind]["logits"], atol=1e-4)


@pytest.mark.parametrize("name", references.NETWORKS)
def test_names_and_shapes_of_every_resnet_are_torchvisions_and_timms(name):
    network = models.BACKBONES[name]()
    wanted = jax.eval_shape(lambda: network.init(
        jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), False))
    shapes = {weights._torch_name(path): leaf.shape if leaf.ndim == 1 else
              tuple(leaf.shape[axis] for axis in (3, 2, 0, 1))
              for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
    dim = 512 * network.block.expansion
    shapes |= {"fc.weight": (1000, dim), "fc.bias": (1000,)}
    assert references.digest(shapes) == STORED["shapes"][name]
    assert weights.resnet_name(shapes) == name


@pytest.mark.parametrize("layout", weights.LAYOUTS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_what_was_imported_is_exported_as_it_came(kind, layout):
    state = small_state(kind)
    imported = weights.import_resnet(state, NETWORKS[kind])
    exported = weights.export_state(NETWORKS[kind], *imported, layout=layout)
    assert exported.keys() == state.keys()
    for name, value in exported.items():
        assert value.dtype == np.float32 and value.flags.c_contiguous
        np.testing.assert_array_equal(value, state[name])
    without = weights.export_state(NETWORKS[kind], *imported[:2])
    assert exported.keys() - without.keys() == {"fc.weight", "fc.bias"}


def test_only_known_layouts_and_networks_are_exported():
    with pytest.raises(InputError, match="layout must be one of .* got 'keras'"):
        weights.export_state(NETWORKS["basic"], {}, {}, layout="keras")
    with pytest.raises(InputError, match="got those of SmallCNN"):
        weights.export_state(models.BACKBONES["small_cnn"](), {}, {})


def test_weights_of_no_known_resnet_say_so():
    with pytest.raises(InputError, match=r"of no ResNet .*have \(2, 1, 1, 1\) blocks"):
        weights.resnet_name(small_state("basic"))


def test_every_tensor_that_does_not_fit_is_named_at_once():
    state = small_state("basic")
    del state["bn1.bias"], state["layer4.0.bn2.running_var"]
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:, :32]
    state["extra.weight"] = np.zeros(3, np.float32)
    state["bn1.num_batches_tracked"] = np.array(5)
    with pytest.raises(InputError) as error:
        weights.import_resnet(state, NETWORKS["basic"])
    for part in ("bn1.bias is missing", "layer4.0.bn2.running_var is missing",
                 "layer1.0.conv1.weight has shape [64, 32, 3, 3], which is [3, 3, 32, 64] here, "
                 "instead of [3, 3, 64, 64]", "extra.weight is unexpected"):
        assert part in str(error.value)
    assert str(error.value).count(";") == 3


def test_a_classifier_is_optional():
    state = small_state("basic")
    del state["fc.weight"], state["fc.bias"]
    assert weights.import_resnet(state, NETWORKS["basic"]).classifier is None


def test_a_weight_file_opens_as_a_backbone(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "load_torch", lambda path: small_state("basic"))
    monkeypatch.setitem(models.BACKBONES, "tiny", lambda **kw: ResNet(
        references.BLOCKS, BasicBlock, **kw))
    model = ml_collections.ConfigDict({"name": "tiny", "norm": "batch", "dtype": "float32",
                                       "options": {}, "normalisation": ""})
    opened = backbones.open_backbone(tmp_path / "r18.pth", model=model)
    assert (opened.label, opened.method, opened.seed, opened.step, opened.config) == (
        "r18", "weights", 0, 0, None)
    assert opened.encoder.normalisation == "imagenet"
    grey = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    features = opened.features(grey)
    wanted, _ = opened.encoder.backbone.apply(
        {"params": opened.params["backbone"], "batch_stats": opened.batch_stats["backbone"]},
        ((grey / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32), False)
    np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-4)
    model.normalisation = "unit"
    as_they_are = backbones.open_backbone(f"x={tmp_path}/r18.pth", model=model)
    assert as_they_are.label == "x" and as_they_are.checkpoint == opened.checkpoint
    assert np.abs(as_they_are.features(grey) - features).max() > 1e-3


def test_the_network_of_a_weight_file_may_be_told_by_its_names(monkeypatch):
    shapes = jax.eval_shape(lambda: models.BACKBONES["resnet18"]().init(
        jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), False))
    state = {weights._torch_name(path): np.zeros(
        leaf.shape if leaf.ndim == 1 else [leaf.shape[axis] for axis in (3, 2, 0, 1)], np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    monkeypatch.setattr(weights, "load_torch", lambda path: state)
    for model in None, ml_collections.ConfigDict({"name": ""}):
        opened = backbones.open_backbone("a.pth", model=model)
        assert opened.encoder.backbone.blocks == (2, 2, 2, 2)
        assert opened.encoder.normalisation == "imagenet"


def test_imagenet_normalisation_by_hand():
    images = np.array([[[[0, 128, 255]]]], np.uint8)
    found = inputs.prepare(to_float(jax.numpy.asarray(images)), "imagenet", 3)
    np.testing.assert_allclose(found[0, 0, 0], [
        -0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-5)
    with pytest.raises(InputError, match="normalisation must be one of"):
        inputs.prepare(images, "cifar", None)
