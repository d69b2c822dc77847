"""One step after another: calls of several, what is logged, looked at and saved between them."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxpt.data.resident import rows_of_step
from jaxpt.train import calls
from jaxpt.train.guard import guarded
from jaxpt.train.stopping import Stopped

FILL_EPOCH = -1  # the filling of the memory draws views of its own


def train(state, feed, start, method, devices, config, durations, monitor, log, checkpointer, stop):
    """The state after the last step; raises ``Stopped`` where the run is to end before."""
    guard = guarded(method.step, max_skipped=config.max_skipped)
    # With several processes, the host asks for stops where ``log`` is 0 too: see agree_every.
    borders = (durations.total, durations.log or 10, durations.knn, durations.checkpoint)
    most = calls.most_steps(config.steps_per_call, resident=feed.resident)

    def one_step(state, data, rows):
        return guard(state, feed.gather(data, rows))

    def rows_of(steps):
        rows = [rows_of_step(i, config.batch_size, n=feed.n, seed=config.seed) for i in steps]
        return rows[0] if most == 1 else calls.stack(rows, most)

    advance = devices.map(one_step if most == 1 else calls.several(one_step), like=state)
    score = checkpointer.score(start) if checkpointer and start else None
    if start < durations.total:
        _stop_before_steps(stop, start)
    every_call = functools.partial(calls.spans, start, durations.total, most, borders)
    for steps, rows in zip(every_call(), feed.batches(map(rows_of, every_call()))):
        data = feed.data if most == 1 else (feed.data, devices.replicate(np.int32(len(steps))))
        state, metrics = advance(state, data, rows)
        feed.pace(metrics)
        step = steps.stop
        last = step == durations.total
        if last or (durations.log and step % durations.log == 0):
            log.later(step, metrics, state)
        if last or (durations.knn and step % durations.knn == 0):
            log.flush(state)
            row = monitor(state)
            score = row["knn"]
            log.now(step, row)
        reason = (
            stop.reason(
                step, agree_every=durations.log or 10, save_seconds=checkpointer.longest_save
            )
            if stop
            else ""
        )
        if checkpointer and (
            reason or last or (durations.checkpoint and step % durations.checkpoint == 0)
        ):
            log.check(metrics, state)  # what is saved is sound, and is the state of this step
            log.sync(state)  # a resumed run does not make these rows again
            checkpointer.save(step, state, score=score, final=bool(reason or last))
        if reason and not last:
            raise Stopped(step, reason)
    return state


def _stop_before_steps(stop, done: int):
    reason = stop.before_steps() if stop else ""
    if reason:
        raise Stopped(done, reason)


def fill_memory(method, devices, state, feed, config, n_examples, stop):
    """Fills the memory with real keys before the first update: a queue with as many whole batches
    as it holds, each example at most once; a bank with all examples."""

    def one_batch(state, data, rows):
        return method.fill(state, feed.gather(data, rows)), jnp.zeros(())  # when it is done

    fill = devices.map(one_batch, like=state)
    batches = (
        -(-n_examples // config.batch_size)
        if config.memory_kind == "bank"
        else min(config.memory, n_examples) // config.batch_size
    )
    every = (
        rows_of_step(i, config.batch_size, n=n_examples, seed=config.seed)._replace(
            epoch=np.full(config.batch_size, FILL_EPOCH, np.int32)
        )
        for i in range(batches)
    )
    placed = feed.batches(every)
    for _ in range(batches):
        _stop_before_steps(stop, 0)
        state, done = fill(state, feed.data, next(placed))
        feed.pace(done)
    return state
