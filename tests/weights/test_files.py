"""Weight files, against what PyTorch itself wrote."""

import argparse
import base64
import io
import json
import os
import pickle
import zipfile
import zlib

import numpy as np
import pytest
import weight_references as references

from jaxpt import weights
from jaxpt.errors import InputError
from jaxpt.weights import files

STORED = json.loads(references.FILE.read_text())
FILES = [name for name in STORED["files"] if name != "values"]


def stored_file(name, folder):
    path = folder / name
    path.write_bytes(zlib.decompress(base64.b64decode(STORED["files"][name])))
    return path


# Files by hand, in the opcodes of pickle protocol 0.


def tensor(*, kind="FloatStorage", key="0", size=6, offset=0, shape=(2, 3), strides=(3, 1)):
    def whole(values):
        return b"(" + b"".join(b"I%d\n" % v for v in values) + b"t"

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\n"
        + kind.encode()
        + b"\nV"
        + key.encode()
        + b"\nVcpu\nI%d\ntQI%d\n" % (size, offset)
        + whole(shape)
        + whole(strides)
        + b"I00\nNtR"
    )


def state_of(**tensors):
    return (
        b"(d"
        + b"".join(b"V" + name.encode() + b"\n" + value + b"s" for name, value in tensors.items())
        + b"."
    )


def zip_of(pickled, *, members=None, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, value in (members or {"data/0": np.arange(6, dtype="<f4").tobytes()}).items():
            archive.writestr(f"archive/{name}", value)
    return file.getvalue()


def legacy_of(pickled, *, magic=0x1950A86A20F9469CFC6C, little=True, size=6):
    head = [pickle.dumps(part, 2) for part in (magic, 1001, {"little_endian": little})]
    return (
        b"".join(head)
        + pickled
        + pickle.dumps(["0"], 2)
        + np.int64(size).tobytes()
        + np.arange(6, dtype="<f4").tobytes()
    )


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
    pickled = (
        inner
        if not wrapper
        else (b"(dVepoch\nI3\nsV" + wrapper.encode() + b"\n" + inner[:-1] + b"s.")
    )
    state = load_bytes(make(pickled), tmp_path)
    np.testing.assert_array_equal(state["module.a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(state["module.b"], [0, 2, 4])


@pytest.mark.parametrize("make", [zip_of, legacy_of])
def test_options_and_schedules_of_a_training_script_are_passed_over(make, tmp_path):
    """DINO's, DeiT's and MAE's checkpoints hold their argparse.Namespace."""
    args = b"Vargs\ncargparse\nNamespace\n)\x81(dVlr\nI3\nsbs"
    steps = b"Vsteps\nccollections\nCounter\n((dI30\nI1\nstRs"
    teacher = b"Vteacher\n" + state_of(a=tensor())[:-1] + b"s"
    state = load_bytes(make(b"(d" + args + steps + teacher + b"."), tmp_path)
    np.testing.assert_array_equal(state["a"], [[0, 1, 2], [3, 4, 5]])


def test_a_pickle_changes_no_namespace_but_its_own(tmp_path):
    change = b"cargparse\nNamespace\n(N(dV__init__\nI1\nstb0"
    load_bytes(zip_of(change + state_of(a=tensor())), tmp_path)
    assert argparse.Namespace(a=1).a == 1


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize(
    "make",
    [
        lambda evil: zip_of(pickle.dumps(evil, 2)),
        lambda evil: legacy_of(pickle.dumps(evil, 2)),
        lambda evil: legacy_of(state_of(a=tensor()), magic=evil),
        lambda evil: pickle.dumps(evil, 2),
    ],
)
def test_a_file_that_would_run_a_command_is_refused_and_runs_none(make, tmp_path):
    content = make(Evil(f"touch {tmp_path}/was_run"))
    with pytest.raises(InputError, match=r"refused: it uses (posix|nt)\.system"):
        load_bytes(content, tmp_path)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins\neval",
        "builtins\ngetattr",
        "torch\nload",
        "torch.nn\nLinear",
        "numpy\nload",
        "collections\nnamedtuple",
        "torch\n_utils",
        "torch._utils\n_rebuild_device_tensor_from_numpy",
        "jaxpt.weights.files\nload_torch",
        "files\n_Tensor",
    ],
)
def test_every_other_name_is_refused(name, tmp_path):
    with pytest.raises(
        InputError, match=f"uses {name.replace(chr(10), '.')}, which tensors do not"
    ):
        load_bytes(zip_of(b"c" + name.encode() + b"\n(tR."), tmp_path)


def test_a_pickle_changes_no_function_of_ours(tmp_path):
    """The opcode BUILD sets attributes of whatever it finds on the stack."""
    change = b"ctorch._utils\n_rebuild_tensor_v2\n(N(dV__defaults__\n(I1\ntstb0"
    before = vars(files._rebuild_tensor).copy(), files._rebuild_tensor.__defaults__
    state = load_bytes(zip_of(change + state_of(a=tensor())), tmp_path)
    assert state.keys() == {"a"}
    assert before == (vars(files._rebuild_tensor), files._rebuild_tensor.__defaults__)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a weight file: it is empty"),
        (b"not a pickle", "is not a weight file: it is neither safetensors nor PyTorch's"),
        (zip_of(state_of(a=tensor(size=5))), "storage 0 has 24 bytes instead of 20"),
        (zip_of(state_of(a=tensor(kind="DoubleStorage"))), "24 bytes instead of 48"),
        (zip_of(state_of(a=tensor(key="1"))), "not a complete PyTorch file"),
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
        (zip_of(b"]p0\ng0\na."), "not a complete PyTorch file"),  # a list that holds itself
        (zip_of(state_of(a=tensor()), compression=zipfile.ZIP_DEFLATED), "is compressed"),
        (
            zip_of(state_of(a=tensor()), members={"data/0": b"0" * 24, "byteorder": b"big"}),
            "big-endian",
        ),
        (
            zip_of(state_of(a=tensor()), members={"x/data.pkl": b"N.", "data/0": b"0" * 24}),
            "2 members data.pkl",
        ),
        (legacy_of(state_of(a=tensor()), magic=3), "does not begin"),
        (legacy_of(state_of(a=tensor()), little=False), "big-endian"),
        (legacy_of(state_of(a=tensor()), size=5), "storage 0 has 5 numbers"),
        (legacy_of(state_of(a=tensor(size=7)), size=7), "ends within storage 0 of 28 bytes"),
        (legacy_of(state_of(a=tensor(key="1"))), "storage 0 has 6 numbers"),
        (legacy_of(state_of(a=tensor(), b=tensor(key="1"))), "not a complete PyTorch file"),
        (legacy_of(state_of(a=tensor(size=1 << 40)), size=1 << 40), "ends within storage 0"),
    ],
)
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


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere.pth", "no file 'nowhere.pth'"), ("weights.npz", "no file 'weights.npz'")],
)
def test_bad_paths_are_named(path, message):
    with pytest.raises(InputError, match=message):
        weights.load_torch(path)
