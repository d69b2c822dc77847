"""The scripts that start runs on TPU slices and SLURM, beside stand-ins for gcloud and srun."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from xla_flags import xla_flags

from jaxpt import cli
from jaxpt.cli import launch
from jaxpt.train.metrics import read_metrics

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
SETTINGS = {"TPU": "look", "ZONE": "us-west4-a", "TYPE": "v5litepod-16", "BUCKET": "images"}
STEPS = (
    "create",
    "install",
    "check",
    "data",
    "mount",
    "start",
    "watch",
    "state",
    "stop",
    "resume",
    "keep",
    "delete",
)
RUN = [
    "--config=pretrain/digits.py:cross_entropy,smoke",
    "--config.model.options.widths=(8,)",
    "--config.model.options.strides=(4,)",
]
# Keeps each command line; a slice has a state, and two workers with a home folder each, which are
# two processes of one run.
GCLOUD = """\
import json, os, pathlib, shlex, shutil, subprocess, sys
here, words = pathlib.Path({here!r}), sys.argv[1:]
with open(here / "calls.jsonl", "a") as file:
    file.write(json.dumps(words) + "\\n")
options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
workers = [here / "0", here / "1"]
if "describe" in words:
    print((here / "state").read_text())
elif "create" in words:
    (here / "state").write_text("ACTIVE")
elif "delete" in words:
    (here / "state").write_text("SUSPENDED")
elif "scp" in words:
    for home in workers:
        for word in words[words.index("scp") + 1:]:
            if pathlib.Path(word).exists():
                shutil.copy(word, home)
elif "ssh" in words:
    started = [subprocess.Popen(
        ["bash", "-c", options["command"]], env=os.environ | {{
            "HOME": str(home), "JAX_COORDINATOR_ADDRESS": {address!r}, "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": home.name, "JAX_PLATFORMS": "cpu"}})
        for home in workers if options["worker"] in ("all", home.name)]
    sys.exit(max(process.wait() for process in started))
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def cloud(tmp_path):
    """A folder that stands in for Google's cloud; jaxpt and the script are on its workers."""
    (tmp_path / "state").write_text("ACTIVE")
    code = GCLOUD.format(here=str(tmp_path), address=f"127.0.0.1:{launch._free_port()}")
    (tmp_path / "gcloud.py").write_text(code)
    executable(
        tmp_path / "bin" / "gcloud", f'#!/bin/sh\nexec {sys.executable} {tmp_path}/gcloud.py "$@"\n'
    )
    for worker in "01":
        executable(
            tmp_path / worker / "venv" / "bin" / "jaxpt",
            f'#!/bin/sh\nexec {sys.executable} -m jaxpt.cli "$@"\n',
        )
        executable(
            tmp_path / worker / "venv" / "bin" / "python",
            f'#!/bin/sh\nexec {sys.executable} "$@"\n',
        )
        shutil.copy(SCRIPTS / "tpu.sh", tmp_path / worker)
    return tmp_path


def tpu(*words, cloud=None, **settings):
    path = f"{cloud}/bin:{os.environ['PATH']}" if cloud else os.environ["PATH"]
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment |= SETTINGS | {"PATH": path, "EVERY": "0.2"} | settings
    return subprocess.run(
        ["bash", str(SCRIPTS / "tpu.sh"), *words],
        capture_output=True,
        text=True,
        env={k: v for k, v in environment.items() if v is not None},
    )


def calls(cloud):
    return [json.loads(line) for line in (cloud / "calls.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("step", STEPS)
def test_a_dry_run_prints_its_commands(step):
    words = {"data": ["."], "start": RUN, "resume": RUN, "keep": RUN}.get(step, [])
    found = tpu("--dry-run", step, *words)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines and all(shlex.split(line)[0] in ("gcloud", "rm", "python3") for line in lines)
    of_tpus = [line for line in lines if " compute tpus " in line]
    assert all("--zone=us-west4-a" in shlex.split(line) for line in of_tpus)


def test_help_lists_the_steps():
    text = tpu("--help").stdout
    assert [
        line.split()[0] for line in text.splitlines() if re.match(r"    [a-z]+ ", line)
    ] == list(STEPS)


@pytest.mark.parametrize(
    "type_, version",
    [
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_the_image_is_that_of_the_generation(type_, version):
    assert f"--runtime-version={version} --spot" in tpu("--dry-run", "create", TYPE=type_).stdout
    text = tpu("--dry-run", "create", TYPE=type_, VERSION="mine", SPOT="no", PROJECT="p").stdout
    assert "--runtime-version=mine" in text and "--spot" not in text and "--project=p" in text


@pytest.mark.parametrize(
    "words, settings, sentence",
    [
        (["create"], {"ZONE": None}, "ZONE is not set"),
        (["create"], {"TPU": ""}, "TPU is not set"),
        (["begin"], {}, "no step 'begin'"),
        ([], {}, "no step ''"),
        (["data", "nowhere"], {}, "data needs a folder, got 'nowhere'"),
        (["start"], {}, "start needs the arguments"),
        (["resume"], {}, "resume needs the arguments"),
    ],
)
def test_bad_input(words, settings, sentence):
    found = tpu(*words, **settings)
    assert found.returncode == 2 and sentence in found.stderr


def test_a_slice_that_cannot_be_had(cloud):
    code = (cloud / "gcloud.py").read_text().replace('"ACTIVE"', '"FAILED"')
    (cloud / "gcloud.py").write_text(code)
    found = tpu("create", cloud=cloud)
    assert found.returncode == 2 and "the slice is FAILED" in found.stderr


def test_workers_without_a_tpu_fail_loudly(cloud):
    found = tpu("check", cloud=cloud)
    assert found.returncode != 0 and "tpu" in found.stderr.lower()


def test_a_run_that_fails_at_once_says_why(cloud):
    # It waits no longer than the run lives, but a busy machine takes minutes to start one.
    found = tpu("start", "--config=pretrain/digits.py", "--workdir=", cloud=cloud, SETTLE="600")
    assert found.returncode == 1 and "--workdir must not be empty" in found.stderr
    assert tpu("state", cloud=cloud).stdout.split() == ["ACTIVE", "2"]


@pytest.mark.slow
def test_a_run_of_two_workers_is_kept_through_a_preemption(cloud):
    (cloud / "state").write_text("SUSPENDED")  # the slice was taken away
    script = (SCRIPTS / "tpu.sh").read_text()
    for step in "install", "check", "mount":  # need the network, a TPU and the bucket
        assert f"worker_{step}() {{\n" in script
        script = script.replace(f"worker_{step}() {{\n", f"worker_{step}() {{\n    return\n")
    copy = cloud / "tpu.sh"
    copy.write_text(script)
    executable(cloud / "bin" / "python3", "#!/bin/sh\n")  # builds the wheel
    workdir = cloud / "run"
    found = subprocess.run(
        ["bash", str(copy), "keep", *RUN, f"--workdir={workdir}"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ
        | SETTINGS
        | {
            "PATH": f"{cloud}/bin:{os.environ['PATH']}",
            "EVERY": "1",
            "SETTLE": "1",
            "XLA_FLAGS": xla_flags(devices=2, optimization=0),
        },
    )
    assert found.returncode == 0, found.stderr + (cloud / "0" / "jaxpt.log").read_text()
    assert "the run is finished" in found.stdout
    verbs = [
        next(word for word in words if word in ("delete", "create", "scp", "ssh"))
        for words in calls(cloud)
        if "describe" not in words
    ]
    assert verbs[:4] == ["delete", "create", "scp", "ssh"]
    assert read_metrics(workdir)[-1]["step"] == 4
    for worker in "01":
        assert f"done: {workdir}" in (cloud / worker / "jaxpt.log").read_text()
    assert "4 devices (cpu) of 2 processes" in (cloud / "0" / "jaxpt.log").read_text()


def test_slurm_queues_a_stopped_run_again(tmp_path):
    executable(tmp_path / "bin" / "srun", '#!/bin/sh\nshift\necho "$@" > ran\nexit $STATUS\n')
    executable(tmp_path / "bin" / "scontrol", '#!/bin/sh\necho "$@" > queued\n')
    words = ["--config=pretrain/digits.py:look", "--workdir=run"]
    for status in 0, 1, 75:
        found = subprocess.run(
            ["bash", str(SCRIPTS / "slurm.sh"), *words],
            cwd=tmp_path,
            env=os.environ
            | {
                "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
                "STATUS": str(status),
                "SLURM_JOB_ID": "7",
            },
        )
        assert found.returncode == status
        assert (tmp_path / "queued").exists() == (status == 75)
    assert (tmp_path / "queued").read_text() == "requeue 7\n"
    line = (tmp_path / "ran").read_text().split()
    args, rest = cli.parser().parse_known_args(line)
    assert args.workdir == "run" and not rest
