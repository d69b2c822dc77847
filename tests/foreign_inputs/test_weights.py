"""Weight files as other programs write them, through the command line.

Networks are of two blocks and files are written here in PyTorch's own format, without PyTorch.
"""

import functools
import io
import json
import pathlib
import re
import zipfile

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from jaxpt import backbones, cli, models, pretrain, records, weights
from jaxpt.cli import config_files
from jaxpt.models.resnet import BasicBlock, ResNet
from jaxpt.models.vit import SIZES
from jaxpt.train import checkpoint
from jaxpt.weights import preparation, resnet

pytestmark = pytest.mark.usefixtures("unoptimised")

VIT = {"patch": 4, "image_size": 8}
CLIP = ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])
CLIP_NAME = "0.48,0.46,0.41/0.27,0.26,0.28"
SMALL = ["--config.duration=1 steps", "--config.knn_every=0 steps", "--config.devices=1"]
PRETRAIN = [
    "pretrain",
    "--workdir=run",
    "--config=pretrain/digits.py:cross_entropy,smoke",
    *SMALL,
    "--config.model.name=vit_test",
    "--config.model.options.patch=4",
    "--config.model.options.image_size=8",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder; a tiny ViT and a tiny ResNet are known by their tensors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SIZES, "vit_test", (16, 2, 2))
    monkeypatch.setitem(
        models.BACKBONES, "vit_test", functools.partial(models.ViT, width=16, depth=2, heads=2)
    )
    monkeypatch.setitem(resnet._KNOWN, ((1, 1, 1, 1), 0), "resnet_test")
    monkeypatch.setitem(
        models.BACKBONES,
        "resnet_test",
        functools.partial(ResNet, (1, 1, 1, 1), BasicBlock, width=32),
    )
    for name, alike in ("vit_test", "vit_s16"), ("resnet_test", "resnet18"):
        known = preparation.ARCHITECTURES
        monkeypatch.setitem(known, name, known[alike])
    return tmp_path


@functools.cache
def shapes(kind, layout="timm"):
    if kind == "vit":
        network = models.ViT(width=16, depth=2, heads=2, **VIT)
    else:
        norm = "group32" if kind == "resnet_gn" else "batch"
        network = ResNet((1, 1, 1, 1), BasicBlock, width=32, norm=norm)
    return weights.state_shapes(network, layout)


def drawn(kind="vit", seed=0, *, layout="timm", prefix="", dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        prefix + name: rng.uniform(0.1, 0.2, shape).astype(dtype)
        for name, shape in shapes(kind, layout).items()
    }


def torch_file(tree) -> bytes:
    """What ``torch.save`` writes of dicts, numbers, arrays and an argparse.Namespace (a set)."""
    kinds = {"float16": "Half", "float32": "Float", "float64": "Double", "int64": "Long"}
    storages = []

    def pickled(value):
        if isinstance(value, set):
            return b"cargparse\nNamespace\n)\x81" + pickled(dict.fromkeys(value, 1)) + b"b"
        if isinstance(value, dict):
            items = (pickled(name) + pickled(part) + b"s" for name, part in value.items())
            return b"(d" + b"".join(items)
        if isinstance(value, str):
            return b"V" + value.encode() + b"\n"
        if isinstance(value, int):
            return b"I%d\n" % value
        storages.append(np.ascontiguousarray(value))
        strides = [step // value.itemsize for step in storages[-1].strides]
        whole = [b"(" + b"".join(map(pickled, n)) + b"t" for n in (value.shape, strides)]
        kind = "BFloat16" if value.dtype == jnp.bfloat16 else kinds[value.dtype.name]
        return (
            b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\n"
            + f"{kind}Storage\nV{len(storages) - 1}\nVcpu\nI{value.size}\ntQI0\n".encode()
            + b"".join(whole)
            + b"I00\nNtR"
        )

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(tree) + b".")
        for number, array in enumerate(storages):
            archive.writestr(f"archive/data/{number}", array.tobytes())
    return file.getvalue()


def write(files):
    for name, content in files.items():
        path = pathlib.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict) and name.endswith(".json"):
            content = json.dumps(content).encode()
        elif isinstance(content, dict):
            content = torch_file(content)
        path.write_bytes(content)


TIMM = {"architecture": "vit_small_patch4_8", "num_classes": 0}
STATED = {"mean": CLIP[0], "std": CLIP[1], "crop_pct": 0.9, "interpolation": "bicubic"}
MANY = {"epoch": 3, "args": {"lr"}, "optimizer": {"state": {}, "param_groups": {"lr": 1}}}
# Files of which the first is opened, flags, wanted normalisation, what is said. The tensors that
# are wanted are those of seed 0.
TAKEN = {
    "timm's ViT, nothing stated": (
        {"w.pth": drawn()},
        [],
        "unit",
        ["normalisation unit .mean 0.5, std 0.5., assumed", "imagenet and have the same shapes"],
    ),
    "torchvision's ViT": (
        {"w.pth": drawn(layout="torchvision")},
        [],
        "imagenet",
        ["normalisation imagenet .*assumed, as torchvision uses it"],
    ),
    "a ResNet": ({"w.pth": drawn("resnet")}, [], "imagenet", ["imagenet .*assumed"]),
    "config.json of the hub": (
        {"w/model.safetensors": save(drawn()), "w/config.json": TIMM | {"pretrained_cfg": STATED}},
        [],
        CLIP_NAME,
        [
            "normalisation 0.48.*from config.json next to it",
            "crop_pct 0.9, interpolation bicubic: crop_pct and interpolation apply",
        ],
    ),
    "config.json of the hub, a .bin": (
        {"w/pytorch_model.bin": drawn(), "w/config.json": TIMM | {"pretrained_cfg": STATED}},
        [],
        CLIP_NAME,
        ["from config.json"],
    ),
    "an older, flat config.json": (
        {"w.safetensors": save(drawn()), "config.json": TIMM | STATED},
        [],
        CLIP_NAME,
        ["from config.json"],
    ),
    "ImageNet's values by number": (
        {
            "w.pth": drawn(),
            "config.json": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        },
        [],
        "imagenet",
        ["from config.json"],
    ),
    "config.json of another network": (
        {"w.pth": drawn("resnet"), "config.json": TIMM | STATED},
        [],
        "imagenet",
        ["config.json next to it is for vit_small_patch4_8 and is not used", "assumed"],
    ),
    "the header": (
        {"w.safetensors": save(drawn(), {"mean": json.dumps(CLIP[0]), "std": json.dumps(CLIP[1])})},
        [],
        CLIP_NAME,
        ["from its header"],
    ),
    "a flag": (
        {"w.pth": drawn(), "config.json": TIMM | STATED},
        ["--normalisation=imagenet"],
        "imagenet",
        ["normalisation imagenet .*as given"],
    ),
    "a flag with numbers": (
        {"w.pth": drawn()},
        ["--normalisation=0.5,0.5,0.5/0.25,0.25,0.25"],
        "0.5,0.5,0.5/0.25,0.25,0.25",
        ["as given"],
    ),
    "heads are assumed": (
        {"w.pth": drawn()},
        [],
        "unit",
        ["heads=2 is assumed, since shapes do not"],
    ),
    "averaged weights first, as timm": (
        {"w.pth": MANY | {"state_dict": drawn(seed=1), "state_dict_ema": drawn()}},
        [],
        "unit",
        ["using state state_dict_ema .also present: state_dict; choose with --state."],
    ),
    "model_ema": (
        {"w.pth": MANY | {"model": drawn(seed=1), "model_ema": drawn()}},
        [],
        "unit",
        ["using state model_ema .also present: model;"],
    ),
    "DINO's teacher": (
        {
            "w.pth": MANY
            | {
                "student": drawn(seed=1, prefix="module.backbone."),
                "teacher": drawn(prefix="backbone.")
                | {"head.mlp.0.weight": np.ones((3, 16), np.float32)},
                "dino_loss": {"center": np.zeros((1, 3), np.float32)},
            }
        },
        [],
        "imagenet",
        [
            "assumed, as DINO and MoCo use it",
            "using state teacher .also present: student, dino_loss",
            "prefix backbone. is removed",
            "without that prefix are dropped: head.mlp.0.weight",
        ],
    ),
    "DINO's student": (
        {"w.pth": {"teacher": drawn(seed=1), "student": drawn(prefix="module.backbone.")}},
        ["--state=student"],
        "imagenet",
        ["using state student", "prefix module.backbone. is removed"],
    ),
    "an average one level down": (
        {"w.ckpt": {"ema": {"decay": 1, "shadow": drawn()}, "model": drawn(seed=1)}},
        [],
        "unit",
        ["using state ema/shadow"],
    ),
    "MoCo's queries": (
        {
            "w.pth.tar": {
                "epoch": 3,
                "state_dict": drawn("resnet", 1, prefix="module.encoder_k.")
                | drawn("resnet", prefix="module.encoder_q.")
                | {
                    "module.encoder_q.fc.0.weight": np.ones((9, 256), np.float32),
                    "module.encoder_q.fc.2.weight": np.ones((4, 9), np.float32),
                    "module.queue": np.ones((4, 8), np.float32),
                },
            }
        },
        [],
        "imagenet",
        [
            "prefix module.encoder_q. is removed .also present: module.encoder_k.;",
            "projector in the classifier's place .fc.*. is dropped",
        ],
    ),
    "MoCo's keys": (
        {
            "w": drawn("resnet", prefix="module.encoder_k.")
            | drawn("resnet", 1, prefix="module.encoder_q.")
        },
        ["--state=encoder_k"],
        "imagenet",
        ["prefix module.encoder_k. is removed"],
    ),
    "a compiled, wrapped module": (
        {"w.pt": drawn(prefix="_orig_mod.module.model.")},
        [],
        "unit",
        ["prefix _orig_mod.module.model. is removed"],
    ),
    "safetensors called .pth": ({"w.pth": save(drawn())}, [], "unit", []),
    "PyTorch's called .safetensors": ({"w.safetensors": drawn()}, [], "unit", []),
    "no ending": ({"w": drawn()}, [], "unit", []),
    "half precision": ({"w.pth": drawn(dtype=np.float16)}, [], "unit", []),
    "bfloat16": ({"w.pth": drawn(dtype=jnp.bfloat16)}, [], "unit", []),
    **{
        f"config.json of {other}": (
            {"w.pth": drawn(kind), "config.json": stated | {"architecture": other} | STATED},
            [],
            "imagenet" if kind == "resnet" else "unit",
            [f"config.json next to it is for {other} and is not used", "assumed"],
        )
        for kind, other, stated in (
            ("resnet", "resnet101", {}),
            ("resnet", "resnetblur18", {}),
            ("resnet", "resnet18d.ra2_in1k", {}),
            ("resnet", "resnet18_gn", {}),
            ("vit", "vit_small_patch16_224", {}),
            ("vit", "vit_small_patch4_quickgelu_8", {}),
            ("vit", "vit_small", {"model_args": {"num_heads": 4}}),
        )
    },
    **{
        f"config.json of {same}": (
            {"w.pth": drawn(kind), "config.json": args | {"architecture": same} | STATED},
            [],
            CLIP_NAME,
            ["from config.json"],
        )
        for kind, same, args in (
            ("resnet", "resnet18", {}),
            ("resnet", "resnet18.a1_in1k", {}),
            ("vit", "deit_small_patch4_8.fb_in1k", {}),
            ("vit", "vit_small_patch16_224", {"model_args": {"patch_size": 4}}),
        )
    },
    "the header of another network": (
        {
            "w.safetensors": save(
                drawn("resnet"),
                {n: json.dumps(v) for n, v in (STATED | {"architecture": "resnet101"}).items()},
            )
        },
        [],
        "imagenet",
        ["its header is for resnet101 and is not used"],
    ),
    "arguments that are not applied": (
        {
            "w.pth": drawn(),
            "config.json": TIMM | STATED | {"model_args": {"act_layer": "quick_gelu", "depth": 2}},
        },
        [],
        CLIP_NAME,
        ["config.json next to it also states act_layer=quick_gelu: not applied, so features may"],
    ),
    "another pooling": (
        {"w.pth": drawn(), "config.json": TIMM | STATED | {"global_pool": "avg"}},
        [],
        CLIP_NAME,
        ["also states global_pool=avg: not applied"],
    ),
    "a preprocessor of transformers": (
        {
            "w/model.safetensors": save(drawn()),
            "w/preprocessor_config.json": {"image_mean": CLIP[0], "image_std": CLIP[1]},
        },
        [],
        CLIP_NAME,
        ["normalisation 0.48.*from preprocessor_config.json next to it"],
    ),
    "a preprocessor beside a config without statistics": (
        {
            "w/model.safetensors": save(drawn()),
            "w/config.json": {"model_type": "vit"},
            "w/preprocessor_config.json": {"image_mean": CLIP[0], "image_std": CLIP[1]},
        },
        [],
        CLIP_NAME,
        ["from config.json with preprocessor_config.json next to it"],
    ),
    "a preprocessor beside a config of another network": (
        {
            "w.pth": drawn("resnet"),
            "config.json": {"architecture": "resnet101"},
            "preprocessor_config.json": {"image_mean": CLIP[0], "image_std": CLIP[1]},
        },
        [],
        "imagenet",
        ["is for resnet101 and is not used"],
    ),
    "entries that are no tensors": (
        {"w.pth": drawn() | {"version": 3, "args": {"lr"}, "config": {"lr": 1}}},
        [],
        "unit",
        [],
    ),
    "a tensor next to a state": (
        {"w.pth": {"model": drawn(), "scale": np.ones(1, np.float32)}},
        [],
        "unit",
        ["using state model"],
    ),
    **{
        f"--state={state}": (
            {
                "w.pth": {
                    "model": drawn("resnet", 1, prefix="encoder_q.")
                    | drawn("resnet", prefix="encoder_k."),
                    "ema": drawn("resnet", 2),
                }
            },
            [f"--state={state}"],
            "imagenet",
            [
                "using state model .also present: ema;",
                "prefix encoder_k. is removed .also present: encoder_q.;",
            ],
        )
        for state in ("encoder_k", "model.encoder_k", "model/encoder_k", "model.encoder_k.")
    },
    "an average one level down, with a dot": (
        {"w.ckpt": {"ema": {"decay": 1, "shadow": drawn()}, "model": drawn(seed=1)}},
        ["--state=ema.shadow"],
        "unit",
        ["using state ema/shadow"],
    ),
    "NaN in what is left behind": (
        {
            "w.pth": drawn("resnet", prefix="module.encoder_q.")
            | {
                "module.queue": np.full((4, 8), np.nan, np.float32),
                "module.encoder_q.fc.0.weight": np.full((9, 256), np.nan, np.float32),
            }
        },
        [],
        "imagenet",
        ["are dropped: module.queue"],
    ),
    "a folder with one weight file": (
        {"w/mine.safetensors": save(drawn()), "w/config.json": TIMM | STATED, "w/README.md": b""},
        [],
        CLIP_NAME,
        ["from config.json"],
    ),
    "a folder of open_clip": (
        {"w/open_clip_pytorch_model.bin": drawn(), "w/open_clip_config.json": {}},
        [],
        "unit",
        [],
    ),
    "a norm for a ViT": (
        {"w.pth": drawn()},
        ["--norm=group"],
        "unit",
        ["norm=group is not used, since a ViT has LayerNorm"],
    ),
    "a classifier of other classes": (
        {
            "w.pth": drawn()
            | {"head.weight": np.ones((7, 16), np.float32), "head.bias": np.ones(7, np.float32)}
        },
        [],
        "unit",
        [],
    ),
}


def header():
    """What an export says of itself."""
    with safe_open("out/model.safetensors", framework="numpy") as file:
        return json.loads(file.metadata()["jaxpt"])


def fingerprint(state, model):
    """Of the variables that a state dict makes of a network."""
    network = models.make_backbone(ml_collections.ConfigDict(model))
    params, stats, *_ = weights.import_state(state, network)
    return backbones.fingerprint(({"backbone": params}, {"backbone": stats}))


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_is_right_and_said(name, capsys):
    files, flags, normalisation, said = TAKEN[name]
    write(files)
    source = next(iter(files)).partition("/")[0]
    assert cli.main(["export", source, "--out=out", *flags]) == 0
    err, found = capsys.readouterr().err, header()
    assert found["normalisation"] == normalisation
    kind = "resnet" if found["model"]["name"] == "resnet_test" else "vit"
    layout = "torchvision" if "torchvision's ViT" in name else "timm"
    dtype = {"half precision": np.float16, "bfloat16": jnp.bfloat16}.get(name, np.float32)
    wanted = drawn(kind, layout=layout, dtype=dtype)
    wanted = {name: value.astype(np.float32) for name, value in wanted.items()}
    assert found["fingerprint"] == fingerprint(wanted, found["model"])
    for sentence in said:
        assert re.search(f"jaxpt: {re.escape(source)}: .*{sentence}", err), err


@pytest.mark.parametrize(
    ("kind", "flags", "wanted", "said"),
    [
        ("vit", [], {}, "heads=2 is assumed"),
        ("vit", ["--option=heads=4"], {"heads": 4}, ""),
        ("vit", ["--option", "heads=4", "--option", "positions=learnt"], {"heads": 4}, ""),
        ("fixed", [], {}, "fixed sines and cosines, but are loaded as learnt .--option"),
        ("fixed", ["--option=positions=sincos"], {"positions": "sincos"}, "heads=2 is assumed"),
        ("stated", [], {"heads": 4}, ""),
        ("resnet_gn", [], {"norm": "group32"}, "norm=group32 .*is assumed"),
        ("resnet_gn", ["--norm=group16"], {"norm": "group16"}, ""),
        ("resnet_gn", ["--option=standardised=True"], {"standardised": True}, "norm=group32 is"),
    ],
)
def test_what_shapes_cannot_tell_is_an_option_and_said_if_assumed(
    kind, flags, wanted, said, capsys
):
    state = drawn("resnet_gn" if kind == "resnet_gn" else "vit")
    if kind == "fixed":
        network = models.ViT(width=16, depth=2, heads=2, **VIT)
        state["pos_embed"] = network.fixed_positions((2, 2), 1)
    write({"w.pth": state})
    if kind == "stated":
        write({"config.json": TIMM | STATED | {"model_args": {"num_heads": 4}}})
    assert cli.main(["export", "w.pth", "--out=out", *flags]) == 0
    err, model = capsys.readouterr().err, header()["model"]
    found = model["options"] | {"norm": model["norm"]}
    assert {name: found.get(name) for name in wanted} == wanted
    assert re.search(said, err) if said else "is assumed" not in err


def not_finite(kind="vit", bad=np.nan):
    state = drawn(kind)
    name = next(name for name, value in state.items() if value.ndim > 1)
    state[name].flat[:3] = bad
    return state


HEAVY = "w.pth' is refused: .* holds 3 values of .* that are NaN or infinite"
# Files of which the first is opened, flags, what is said.
REFUSED = {
    "NaN": ({"w.pth": not_finite()}, [], HEAVY),
    "infinity": ({"w.pth": not_finite("resnet", np.inf)}, [], HEAVY),
    "NaN in safetensors": (
        {"w.safetensors": save(not_finite())},
        [],
        "holds 3 values of .* that are NaN",
    ),
    "beyond float32": (
        {"w.pth": drawn() | {"norm.bias": np.full(16, 1e300)}},
        [],
        "norm.bias holds 16 values of 16 that are NaN or infinite",
    ),
    "NaN in the state that is chosen": (
        {"w.pth": {"model": not_finite(), "ema": drawn()}},
        ["--state=model"],
        HEAVY,
    ),
    "unknown state": (
        {"w.pth": {"model": drawn(), "model_ema": drawn()}},
        ["--state=teacher"],
        "w.pth' has no state 'teacher': choose one of model, model_ema",
    ),
    "a state of a plain file": (
        {"w.pth": drawn()},
        ["--state=teacher"],
        "no state 'teacher': it has one, omit --state",
    ),
    "states of no rule": (
        {"w.pth": {"net_a": drawn(), "net_b": drawn()}},
        [],
        "several states: choose one of net_a, net_b with --state",
    ),
    "prefixes of no rule": (
        {"w.pth": drawn(prefix="left.") | drawn(prefix="right.")},
        [],
        "several networks: choose one of left., right. with --state",
    ),
    "a prefix that does not fit exactly": (
        {"w.pth": {k: v for k, v in drawn(prefix="module.").items() if "norm.bias" not in k}},
        [],
        "w.pth', below module.: the weights do not fit the network: norm.bias is missing",
    ),
    "a mean of 0 … 255": (
        {"w.pth": drawn(), "config.json": {"mean": [123.7] * 3, "std": [58.4] * 3}},
        [],
        "config.json next to it states mean .*123.7.*--normalisation",
    ),
    "a mean alone": (
        {"w.pth": drawn(), "config.json": {"mean": [0.5] * 3}},
        [],
        "config.json next to it states mean .* and std None",
    ),
    "a broken config.json": (
        {"w.pth": drawn(), "config.json": b"{"},
        [],
        "config.json' cannot be parsed .*: fix or remove it",
    ),
    "a bad normalisation": (
        {"w.pth": drawn()},
        ["--normalisation=cifar"],
        "normalisation must be one of .*MEAN/STD.* got 'cifar'",
    ),
    "a bad option": ({"w.pth": drawn()}, ["--option=heads"], "must be NAME=VALUE, got 'heads'"),
    "an option of no network": ({"w.pth": drawn()}, ["--option=ears=2"], "ears"),
    "heads that do not divide": ({"w.pth": drawn()}, ["--option=heads=3"], "heads must divide"),
    **{
        f"--option={option}": ({"w.pth": drawn()}, [f"--option={option}"], said)
        for option, said in (
            *(
                (f"heads={x}", "heads must be a whole number, at least 1, got ")
                for x in ("four", "0", "-3", "3.0", "True", "(2,)")
            ),
            ("width=x", "width must be a whole number, at least 1, got 'x'"),
            ("image_size=big", "image_size must be a whole number, at least 1, got 'big'"),
            ("drop_path=x", "drop_path must be a number, got 'x'"),
            ("pool=3", "pool must be a word, got 3"),
            ("name=x", "'name' is none of width, depth, heads"),
        )
    },
    "a flag in words": (
        {"w.pth": drawn("resnet_gn")},
        ["--option=standardised=maybe"],
        "standardised must be True or False, got 'maybe'",
    ),
    **{
        f"num_heads {heads!r}": (
            {"w.pth": drawn(), "config.json": TIMM | STATED | {"model_args": {"num_heads": heads}}},
            [],
            "config.json next to it states num_heads .*not a whole number of at least 1: fix it",
        )
        for heads in ("4", 0, 2.5, True, [2])
    },
    "a deviation alone": (
        {"w.pth": drawn(), "config.json": {"std": [0.5] * 3}},
        [],
        "config.json next to it states mean None and std",
    ),
    "an image mean alone": (
        {"w.pth": drawn(), "preprocessor_config.json": {"image_mean": [0.5] * 3}},
        [],
        "preprocessor_config.json next to it states mean .* and std None",
    ),
    "images in -1 … 1 without statistics": (
        {
            "w.pth": drawn(),
            "preprocessor_config.json": {
                "image_mean": CLIP[0],
                "image_std": CLIP[1],
                "do_normalize": False,
            },
        },
        [],
        "another image preparation than .*set --normalisation",
    ),
    "a prefix of no state": (
        {
            "w.pth": {
                "model": drawn(prefix="encoder_q.") | drawn(prefix="encoder_k."),
                "ema": drawn(),
            }
        },
        ["--state=teacher"],
        "no state 'teacher': choose one of model, ema, model.encoder_q., model.encoder_k.",
    ),
    "prefixes of no rule in a state": (
        {"w.pth": {"model": drawn(prefix="left.") | drawn(prefix="right.")}},
        [],
        "several networks: choose one of model.left., model.right. with --state",
    ),
    "many tensors of another network": (
        {"w.pth": drawn() | {f"extra{i}": np.ones(1, np.float32) for i in range(9)}},
        [],
        "extra0 is unexpected; .*extra4 is unexpected; and 4 more",
    ),
    "many entries without tensors": (
        {"w.pth": {f"entry{i}": i for i in range(9)}},
        [],
        "it has entry0, entry1, entry2, entry3, entry4 and 4 more: save",
    ),
    "a folder with several weight files": (
        {"w/a.safetensors": save(drawn()), "w/b.pth": drawn()},
        [],
        "'w' holds several weight files: name one of w/a.safetensors, w/b.pth",
    ),
    "quantised weights": (
        {"w.safetensors": save(drawn() | {"norm.bias": np.ones(16, np.int8)})},
        [],
        "norm.bias is int8: quantised weights are not supported",
    ),
    "an optimizer alone": (
        {"w.pth": {"state": {}, "param_groups": {"lr": 1}}},
        [],
        "no state dict of named tensors except that of an optimizer",
    ),
    "a LoRA adapter": (
        {
            "w.safetensors": save(
                {
                    f"base_model.model.blocks.0.attn.qkv.lora_{x}.weight": np.ones((4, 4), "f4")
                    for x in "AB"
                }
            )
        },
        [],
        "none of the known networks.*they have base_model.model.blocks.0.attn.qkv.lora_A.weight",
    ),
    "a convolutional patch embedding": (
        {"w.pth": {"module.base_encoder.patch_embed.proj.0.weight": np.ones((2, 3, 3, 3), "f4")}},
        [],
        "a ViT with a convolutional patch embedding is not supported",
    ),
    "an empty file": ({"w.pth": b""}, [], "w.pth' is not a weight file: it is empty"),
    "a git-LFS pointer": (
        {"w/model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"},
        [],
        "it is a git-LFS pointer, not the file itself: run git lfs pull",
    ),
    "a web page": ({"w.pth": b"<!DOCTYPE html><html></html>"}, [], "it is a web page"),
    "an index of shards": (
        {"w/model.safetensors.index.json": {"weight_map": {"norm.bias": "1.safetensors"}}},
        [],
        "an index of shards, .*: merge the shards into one file",
    ),
    "gzip": ({"w.pth": b"\x1f\x8b\x08\x00\x00\x00"}, [], "compressed .gzip.: unpack it"),
    "Keras": ({"w.h5": b"\x89HDF\r\n\x1a\n"}, [], "HDF5, as Keras writes it"),
    "text": ({"w.txt": b"hello"}, [], "neither safetensors nor PyTorch's"),
    "NumPy's archive": (
        {"w.npz": None},
        [],
        "0 members data.pkl instead of one: it was not written",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(name, capsys, folder):
    files, flags, said = REFUSED[name]
    if name == "NumPy's archive":
        np.savez("w.npz", a=np.ones(3))
    else:
        write(files)
    source = next(iter(files)).partition("/")[0]
    before = sorted(folder.rglob("*"))
    assert cli.main(["export", source, "--out=out", *flags]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if "export: " in line]
    assert re.search(said, sentence), sentence
    assert sorted(folder.rglob("*")) == before


EVALUATE = ["--data=digits", "--image_size=8", "--limit=60", "--suite=knn", "--cache="]
COMMANDS = {
    "evaluate": ["evaluate", "w.pth", "--out=new.jsonl", *EVALUATE],
    "transfer": ["transfer", "w.pth", "--out=new.jsonl", "--config.data.source=digits"],
    "export": ["export", "w.pth", "--out=new"],
    "pretrain": [*PRETRAIN, "--config.model.weights=w.pth"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("state", "flags", "said"),
    [
        (not_finite(), [], HEAVY),
        (drawn(), ["--state=teacher"], "no state 'teacher'"),
        (drawn(), ["--normalisation=0.5/0"], "normalisation must be one of .* got '0.5/0'"),
        (drawn(), ["--option=heads=3"], "heads must divide"),
    ],
    ids=["NaN", "state", "normalisation", "heads"],
)
def test_every_command_that_opens_weights_has_the_flags_and_refuses_alike(
    command, state, flags, said, capsys
):
    write({"w.pth": state})
    assert cli.main([*COMMANDS[command], *flags]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not pathlib.Path("new.jsonl").exists() and not pathlib.Path("run").exists()


def test_features_and_keys_change_with_what_belongs_to_the_weights():
    """A record of the wrong normalisation, or of other heads, is never taken for the right one."""
    write({"w.pth": drawn()})
    rng = np.random.default_rng(0)
    write({"w.pth": {k: rng.normal(size=v.shape).astype("f4") for k, v in drawn().items()}})
    for flags in [], ["--normalisation=imagenet"], ["--option=heads=4"]:
        for _ in range(2):  # the second finds the record of the first
            assert cli.main([*COMMANDS["evaluate"], *flags]) == 0
    found = records.read("new.jsonl")
    assert len(found) == len({record["key"] for record in found}) == 3
    assert len({record["checkpoint"] for record in found}) == 1
    transfer = [*COMMANDS["transfer"], "--config.finetune=False", "--config.data.image_size=8"]
    for flags in [], ["--normalisation=imagenet"], ["--config.model.options.heads=4"], []:
        assert cli.main([*transfer, "--config.data.limit=200", *flags]) == 0
    found = [record for record in records.read("new.jsonl") if record["evaluator"] == "frozen"]
    assert [record["model"]["normalisation"] for record in found] == ["unit", "imagenet", "unit"]
    assert len({json.dumps(record["values"]) for record in found}) == 3


def test_pre_training_takes_the_files_normalisation_and_goes_on_with_it(capsys):
    write({"w.pth": drawn(), "config.json": TIMM | STATED})
    run = COMMANDS["pretrain"]
    assert cli.main(run) == 0
    assert "w.pth: normalisation 0.48" in capsys.readouterr().err
    assert json.loads(pathlib.Path("run/config.json").read_text())["model"]["normalisation"] == (
        CLIP_NAME
    )
    pathlib.Path("w.pth").unlink()  # a run that goes on needs the file no more
    assert cli.main(run) == 0
    assert cli.main([*run, "--normalisation=imagenet"]) == 2
    assert "model.normalisation (0.48" in capsys.readouterr().err
    # What a run has itself is not asked for again, and a flag for it is no silent nothing.
    assert cli.main(["export", "run", "--out=out", "--normalisation=unit"]) == 0
    assert "run: --normalisation not used" in capsys.readouterr().err
    assert header()["normalisation"] == CLIP_NAME


def test_a_run_with_nan_is_refused_when_it_is_opened(capsys):
    trained = pretrain.run(config_files.read("pretrain", "pretrain/digits.py:smoke", SMALL), "run")
    broken = trained.state.replace(
        params=jax.tree.map(lambda x: x.at[...].set(np.nan), trained.state.params)
    )
    saver = checkpoint.Checkpointer("run", keep=1, about={"config": {}})
    saver.save(9, broken, final=True)
    saver.close()
    for command in (
        ["evaluate", "run", "--out=new.jsonl", "--suite=knn"],
        ["transfer", "run", "--out=new.jsonl"],
        ["export", "run", "--out=new"],
    ):
        assert cli.main(command) == 2
        err = capsys.readouterr().err
        assert re.search("'run' is refused: params/backbone/.* values of .* NaN or infinite", err)
    assert not pathlib.Path("new").exists() and not pathlib.Path("new.jsonl").exists()


def test_an_export_keeps_what_its_file_stated():
    write({"w/model.safetensors": save(drawn()), "w/config.json": TIMM | STATED})
    for source, out in ("w", "first"), ("first", "out"):
        assert cli.main(["export", source, f"--out={out}"]) == 0
    assert header()["normalisation"] == CLIP_NAME
    assert header()["made"]["framing"] == {"crop_pct": 0.9, "interpolation": "bicubic"}


def test_pre_training_refuses_other_heads_than_the_file_states(capsys):
    write({"w.pth": drawn(), "config.json": TIMM | STATED | {"model_args": {"num_heads": 4}}})
    assert cli.main(COMMANDS["pretrain"]) == 2
    assert "a ViT with 4 heads, but the network has 2" in capsys.readouterr().err
