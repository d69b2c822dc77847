"""Several processes that are one run: real ones, with virtual devices, over gloo."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from xla_flags import xla_flags

from jaxpt import cli
from jaxpt.cli.launch import _free_port
from jaxpt.errors import InputError
from jaxpt.train import checkpoint, distributed
from jaxpt.train.distributed import DEAD_AFTER, HEARTBEAT, Place, find_place
from jaxpt.train.metrics import read_metrics
from jaxpt.train.stopping import STATUS

# More than 2,048 keys and few neighbours: LOOK is streamed. SGD does not blow rounding up.
CONFIG = {
    "data.limit": 200,
    "batch_size": 40,
    "duration": "6 steps",
    "log_every": "2 steps",
    "knn_every": "0 steps",
    "checkpoint_every": "3 steps",
    "memory": 4000,
    "look.k": 10,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.05,
    "model.options.widths": "(8,)",
    "model.options.strides": "(4,)",
    "model.projector.hidden": "(64,)",  # large enough for its parameters to be cut
    "model.projector.dim": 64,
}
THIRDS = {"batch_size": 48, "memory": 4032, "model.projector.hidden": "(96,)"}
LONG = {"duration": "100000 steps", "checkpoint_every": "5 steps"}
VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NUM_NODES",
    "SLURM_GPUS_PER_TASK",
    "CUDA_VISIBLE_DEVICES",
    "JAX_LOCAL_DEVICE_IDS",
    "OMPI_MCA_orte_hnp_uri",
    "OMPI_COMM_WORLD_SIZE",
)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No cluster but the one that a test makes up."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def command(workdir, changes=None, method="look"):
    return [
        "pretrain",
        f"--config=pretrain/digits.py:{method}",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in (CONFIG | (changes or {})).items()),
    ]


_started: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_goes_on():
    """Ends what a test that failed has left running."""
    yield
    for process in _started:
        if process.poll() is None:
            for pid in *children_of(process), process.pid:
                os.kill(pid, signal.SIGKILL)
    _started.clear()


def start(argv, program=("-m", "jaxpt.cli")):
    """The command as a process of its own, with one device where nothing says otherwise.

    Optimising the programs would take longer than running them: JAX keeps those of process 0 alone.
    """
    process = subprocess.Popen(
        [sys.executable, *program, *argv],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(optimization=0)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(process)
    return process


def launch(processes, devices, argv):
    return start(["launch", f"--processes={processes}", f"--devices-per-process={devices}", *argv])


def end(process, seconds=240):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def wait_for_checkpoint(workdir, process):
    until = time.monotonic() + 300
    while not any(pathlib.Path(workdir).glob("checkpoints/*/manifest.json")):
        assert process.poll() is None, end(process)
        assert time.monotonic() < until, "no checkpoint came"
        time.sleep(0.1)


def children_of(process):
    """Their ids, in the order in which they were started."""
    text = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return sorted(map(int, text.split()))


# Who says that there are several


def test_alone_nothing_is_called():
    assert find_place() == Place(1, source="a TPU pod slice")
    with distributed.joined():
        assert distributed._watch is None
    distributed.leave(1)  # would end this process


def test_the_command_line_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "there:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    assert find_place() == Place(4, 3, "there:1", "the environment")
    assert find_place("here:2", 2, 0) == Place(2, 0, "here:2", "the command line")


def test_slurm_counts_the_tasks_of_the_step_and_not_of_the_job(monkeypatch):
    for name in VARIABLES[3:7]:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert find_place() == Place(8, source="SLURM")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # an interactive shell
    assert find_place().processes == 1


@pytest.mark.parametrize(
    ("tasks", "seen", "per_task", "own"),
    [
        (8, "0,1,2,3,4,5,6,7", None, None),  # JAX takes the one with the task's number
        (8, "0,1,2,3,4,5,6,7", "1", None),  # --gpus-per-task=1 --gpu-bind=none
        (8, "5", "1", [0]),  # --gpus-per-task=1: the task sees its own only
        (8, "0", None, [0]),  # --gpu-bind=single:1, where devices are constrained
        (2, "4,5,6,7", "h100:4", [0, 1, 2, 3]),
        (1, "0,1,2,3", None, [0, 1, 2, 3]),
        (1, None, None, [0, 1]),  # SLURM does not manage the GPUs
        (1, "", None, None),
    ],
)
def test_a_slurm_task_takes_its_gpus(tasks, seen, per_task, own, monkeypatch):
    given = {"SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_STEP_NUM_NODES": "1"}
    given |= {"CUDA_VISIBLE_DEVICES": seen, "SLURM_GPUS_PER_TASK": per_task}
    for name, value in given.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/nvidia0", "/dev/nvidia1"])
    asked = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **options: asked.update(options))
    distributed._connect(Place(tasks, source="SLURM"))
    assert asked.get("local_device_ids") == own


def test_open_mpi_and_pods_are_found(monkeypatch):
    monkeypatch.setattr(distributed, "_pod_hosts", lambda: 4)
    assert find_place() == Place(4, source="a TPU pod slice")
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert find_place() == Place(2, source="Open MPI")


@pytest.mark.parametrize("alone", ["transfer", "evaluate", "replay"])
def test_commands_of_one_process_do_not_wait_for_others(alone, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "x")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    out = [f"--out={tmp_path / 'x'}"] if alone != "replay" else []
    assert cli.main([alone, "run", *out]) == 2
    assert (
        f"jaxpt {alone} runs as one process, but Open MPI starts 3: start it once"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("here:1", None, None), "belong together: --processes and --process are missing"),
        ((None, 2, 0), "--coordinator is missing"),
        (("here", 2, 0), "--coordinator must be HOST:PORT, got 'here'"),
        (("here:1", "two", 0), "--processes must be a whole number, got 'two'"),
        (("here:1", 0, 0), "--processes must be at least 1, got 0"),
        (("here:1", 2, 2), r"--process must lie in 0 … 1, got 2"),
    ],
)
def test_what_makes_no_sense_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        find_place(*given)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--processes=0", "pretrain"], "--processes must be at least 1, got 0"),
        (
            ["--devices-per-process=0", "pretrain"],
            "--devices-per-process must be at least 1, got 0",
        ),
        (["demo"], "jaxpt launch only runs jaxpt pretrain, got 'demo'"),
        ([], "got 'no command'"),
    ],
)
def test_launch_refuses_what_it_cannot_start(argv, message, capsys):
    assert cli.main(["launch", *argv]) == 2
    assert message in capsys.readouterr().err


# Equality


def final_state(workdir):
    step = checkpoint.newest(workdir)
    return step, checkpoint.read_arrays(workdir, step)


def leaves(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_same(one, other, tolerance=2e-6):
    """Whole numbers, the memory's ids, labels and slots among them, to the bit."""
    (step, one), (other_step, other) = one, other
    one, other = leaves(one), leaves(other)
    assert step == other_step and one.keys() == other.keys()
    for name, x in one.items():
        if x.dtype.kind in "ib":
            np.testing.assert_array_equal(x, other[name], err_msg=name)
        else:
            np.testing.assert_allclose(x, other[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_several_processes_equal_one(tmp_path):
    """Three with two devices each, and memory and parameters in parts, equal this one with six."""
    parts = {"memory_sharding": "sharded", "param_sharding": "sharded"}
    status, out, err = end(launch(3, 2, command(tmp_path / "a", THIRDS | parts)))
    assert status == 0, err
    assert re.search(r"^\[0\] done:", out, re.MULTILINE)
    assert cli.main(command(tmp_path / "b", THIRDS | {"devices": 6})) == 0
    whole = final_state(tmp_path / "b")
    assert whole[0] == 6
    assert_same(whole, final_state(tmp_path / "a"))


@pytest.mark.slow
def test_fewer_processes_go_on_from_the_last_checkpoint(tmp_path):
    argv = command(tmp_path / "a", {"memory_sharding": "sharded"})
    process = launch(2, 1, [*argv, "--max-minutes=0.5", "--config.duration=100000 steps"])
    wait_for_checkpoint(tmp_path / "a", process)
    os.kill(children_of(process)[-1], signal.SIGKILL)
    status, _, err = end(process, 30)
    assert status == 1
    assert "jaxpt launch: process 1 of 2 was killed by SIGKILL: ending the others." in err
    reached = checkpoint.newest(tmp_path / "a")
    assert cli.main([*argv, f"--config.duration={reached + 3} steps"]) == 0
    assert checkpoint.newest(tmp_path / "a") == reached + 3
    assert min(row["step"] for row in read_metrics(tmp_path / "a")) > 0


# Ends


def test_jaxs_own_heartbeat_comes_later_and_within_a_minute():
    assert DEAD_AFTER + 3 * distributed.BEAT < HEARTBEAT / 2 and HEARTBEAT < 60


@pytest.mark.parametrize(("me", "silent"), [(0, 2), (1, 0), (2, 0)])
def test_a_process_that_jax_ends_names_the_most_silent_one(me, silent):
    watch = distributed._Watch.__new__(distributed._Watch)
    watch._me, watch._all = me, 3
    watch._seen = {0: ("9", 5.0), 1: ("9", 9.0), 2: ("3", 4.0)}
    assert watch._most_silent() == silent


PATIENCE = 15  # seconds, instead of DEAD_AFTER
IMPATIENT = f"""
import sys
from jaxpt import cli
from jaxpt.train import distributed
distributed.DEAD_AFTER = {PATIENCE}
sys.exit(cli.main())
"""


@pytest.mark.slow
def test_a_host_that_dies_ends_the_others_in_under_a_minute(tmp_path):
    """Three runs of two processes at once, for each of them waits until it misses the other."""
    losses = [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 1)]
    runs = []
    for run in range(len(losses)):
        argv = [*command(tmp_path / str(run), LONG, "cross_entropy"), "--processes=2"]
        argv.append(f"--coordinator=127.0.0.1:{_free_port()}")
        runs.append([start([*argv, f"--process={i}"], ("-c", IMPATIENT)) for i in range(2)])
    for run, (number, victim) in enumerate(losses):
        wait_for_checkpoint(tmp_path / str(run), runs[run][1 - victim])
        runs[run][victim].send_signal(number)
    began = time.monotonic()
    for processes, (_, victim) in zip(runs, losses, strict=True):
        status, _, err = end(processes[1 - victim], 60)
        assert status == 1 and time.monotonic() - began < 60
        assert re.search(
            rf"^jaxpt.*: process {victim} of 2 (has not responded for {PATIENCE} seconds|"
            rf"cannot be reached). This one, {1 - victim}, stops too",
            err,
            re.MULTILINE,
        ), err
        assert "Traceback" not in err
        processes[victim].kill()
        processes[victim].communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_launch_passes_a_signal_on_and_all_save_the_same_step(number, tmp_path):
    process = launch(2, 1, command(tmp_path / "a", LONG, "cross_entropy"))
    wait_for_checkpoint(tmp_path / "a", process)
    process.send_signal(number)
    status, _, err = end(process, 60)
    assert status == STATUS, err
    steps = re.findall(
        r"^\[[01]\] jaxpt pretrain: stopped.* at step (\d+): the state is saved", err, re.MULTILINE
    )
    assert len(steps) == 2 and set(steps) == {str(checkpoint.newest(tmp_path / "a"))}


@pytest.mark.slow
def test_bad_input_of_all_has_its_status(tmp_path):
    status, _, err = end(launch(2, 1, command(tmp_path / "a", {"batch_size": 41})), 90)
    assert status == 2
    assert "batch_size 41 does not divide over 2 devices" in err
    assert not (tmp_path / "a").exists()
