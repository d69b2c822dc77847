"""A run opens no port: nobody can reach it over a network."""

import contextlib
import os
import pathlib
import socket

import pytest

from jaxpt import pretrain
from jaxpt.configs.pretrain import digits

LISTENS = "0A"  # state of a TCP socket in /proc


def listening():
    """Inodes of this process's sockets that listen."""
    mine = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            mine.add(os.readlink(f"/proc/self/fd/{fd}"))
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in pathlib.Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
    ]
    return {row[9] for row in rows if row[3] == LISTENS and f"socket:[{row[9]}]" in mine}


@pytest.mark.skipif(not pathlib.Path("/proc/self/net/tcp").exists(), reason="asks Linux")
def test_a_run_listens_to_nobody(tmp_path, monkeypatch):
    rows_of_step, found, before = pretrain.rows_of_step, [], listening()

    def rows(*args, **kwargs):
        found.append(listening())
        return rows_of_step(*args, **kwargs)

    monkeypatch.setattr(pretrain, "rows_of_step", rows)
    config = digits.get_config("cross_entropy")
    config.update(
        batch_size=30,
        devices=1,
        duration="6 steps",
        knn_every="3 steps",
        checkpoint_every="2 steps",
    )
    config.data.limit = 120
    config.model.options.update(widths=(8,), strides=(4,))
    pretrain.run(config, str(tmp_path), quiet=True)
    assert found == [before] * 6
    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening()) == len(before) + 1  # one that listened would have been seen
