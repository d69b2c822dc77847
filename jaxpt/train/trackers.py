"""Rows and config of a run for experiment trackers: Weights & Biases and MLflow.

Each tracker has a thread of its own. Whatever happens there (no network, no login, a full disk) is
reported once, and the run goes on without that tracker.
"""

import importlib.util
import os
import queue
import secrets
import threading
import time
from typing import Any, Callable, NamedTuple

from etils import epath

from jaxpt.errors import require
from jaxpt.files import is_remote, replacing
from jaxpt.train.progress import tell

WAITING_ROWS = 10_000  # rows that wait for a slow tracker; further ones are dropped
CLOSE_SECONDS = 60  # that the end of a run waits for a tracker


def names(trackers: str) -> list[str]:
    """Splits the field ``trackers`` of a config.

    Raises:
      InputError: for an unknown tracker, or one that is not installed.
    """
    found = [name.strip() for name in trackers.split(",") if name.strip()]
    for name in found:
        require(
            name in _OPEN,
            f"trackers must be among {', '.join(_OPEN)}, separated by commas, got {name!r}.",
        )
        require(
            importlib.util.find_spec(name) is not None,
            f"trackers={name} needs the package {name!r}: pip install 'jaxpt[{name}]'.",
        )
    return list(dict.fromkeys(found))


class Trackers:
    """The trackers of one run, as a context manager: its end tells them how the run ended."""

    def __init__(self, trackers: str, workdir: str | os.PathLike, config: dict[str, Any]):
        """Starts the trackers.

        Args:
          trackers: names, separated by commas.
          workdir: folder of the run, which keeps each tracker's id of the run, so that a resumed
            run continues there.
          config: nested dicts, logged as the run's parameters.
        """
        about = About(epath.Path(workdir), dict(_flat(config)))
        self._channels = [_Channel(name, about) for name in names(trackers)]

    def write(self, step: int, values: dict[str, float]) -> None:
        """Queues one row; never waits and never raises."""
        for channel in self._channels:
            channel.put((step, values))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        for channel in self._channels:
            channel.put(kind is None)
        ends = time.monotonic() + CLOSE_SECONDS
        for channel in self._channels:
            channel.join(max(0.0, ends - time.monotonic()))


class About(NamedTuple):
    """The workdir of a run, and its config as field → value."""

    workdir: epath.Path
    config: dict[str, Any]

    def saved_id(self, tracker: str) -> str | None:
        """The tracker's id of this run, if an earlier start saved one."""
        path = self._id_file(tracker)
        return path.read_text().strip() if path.exists() else None

    def save_id(self, tracker: str, run_id: str) -> None:
        with replacing(self._id_file(tracker)) as file:
            file.write(f"{run_id}\n")

    def _id_file(self, tracker):
        return self.workdir / f"{tracker}_run.txt"


class Session(NamedTuple):
    """An open run of a tracker: ``write(step, values)``, ``close(succeeded)``, and where it is."""

    write: Callable[[int, dict[str, float]], None]
    close: Callable[[bool], None]
    where: str


class _Channel:
    """Queue and thread of one tracker."""

    def __init__(self, name, about):
        self._name, self._about = name, about
        self._queue, self._lost = queue.Queue(WAITING_ROWS), False
        # A daemon, so that a tracker that hangs does not keep the process alive.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def put(self, item):
        try:
            if not self._lost:
                self._queue.put_nowait(item)
        except queue.Full:
            self._report(f"{WAITING_ROWS:,} rows wait for it")

    def join(self, seconds):
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._report(f"it has not taken all rows {CLOSE_SECONDS} s after the end")

    def _work(self):
        try:
            session = _OPEN[self._name](self._about)
            tell(f"{self._name}: {session.where}")
            while not isinstance(item := self._queue.get(), bool):
                session.write(*item)
            session.close(item)
        # wandb and MLflow raise all kinds of errors, and wandb.init even SystemExit.
        except BaseException as error:
            self._report(f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _report(self, why):
        if not self._lost:
            self._lost = True
            tell(f"jaxpt: warning: {self._name} gets no more rows ({why}); the run goes on.")


def _open_wandb(about: About) -> Session:
    """A run in the project WANDB_PROJECT or "jaxpt"; WANDB_MODE=offline needs no login."""
    import wandb

    run_id = about.saved_id("wandb") or secrets.token_hex(4)
    mode = os.environ.get("WANDB_MODE")
    offline = mode in ("offline", "dryrun", "disabled")
    # Without a key wandb.init would ask for one on the terminal of the run.
    if not offline and not wandb.api.api_key:
        raise RuntimeError("no login: run `wandb login`, or set WANDB_MODE=offline")
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "jaxpt"),
        name=about.workdir.name,
        id=run_id,
        mode=mode,
        # Rows that a resumed run repeats are equal to the earlier ones, and wandb drops them.
        resume=None if offline else "allow",
        dir=None if is_remote(about.workdir) else os.fspath(about.workdir),
        config=about.config,
        settings=wandb.Settings(console="off", silent=True),  # the terminal is the progress line's
    )
    about.save_id("wandb", run_id)
    return Session(
        lambda step, values: run.log(values, step=step),
        lambda succeeded: run.finish(exit_code=0 if succeeded else 1),
        f"offline run in {run.dir}" if offline else run.url,
    )


def _open_mlflow(about: About) -> Session:
    """A run in the experiment MLFLOW_EXPERIMENT_NAME or "jaxpt", at MLFLOW_TRACKING_URI or, without
    one, in files in the workdir."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which MLflow 3 asks for
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    files = (about.workdir / "mlruns").absolute().as_uri()
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or files)
    run_id = about.saved_id("mlflow")
    try:
        if run_id:
            client.update_run(run_id, status="RUNNING")
    except MlflowException:  # the earlier start wrote to another server
        run_id = None
    if run_id is None:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "jaxpt")
        known = client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else client.create_experiment(name)
        run_id = client.create_run(experiment, run_name=about.workdir.name).info.run_id
        about.save_id("mlflow", run_id)
        params = [Param(field, str(value)[:500]) for field, value in about.config.items()]
        for first in range(0, len(params), 100):  # as many as a server takes at once
            client.log_batch(run_id, params=params[first : first + 100])

    def write(step, values):
        now = int(1000 * time.time())
        metrics = [Metric(key, value, now, step) for key, value in values.items()]
        client.log_batch(run_id, metrics=metrics)

    def close(succeeded):
        client.set_terminated(run_id, "FINISHED" if succeeded else "FAILED")

    return Session(write, close, f"run {run_id} at {client.tracking_uri}")


_OPEN = {"wandb": _open_wandb, "mlflow": _open_mlflow}


def _flat(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
