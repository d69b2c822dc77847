"""Which fields of a config a method's code reads, against what the registry says of it."""

import operator

import jax
import jax.numpy as jnp
import ml_collections
import small_runs

from jaxpt import methods, pretrain
from jaxpt.methods import METHODS, SHARED
from jaxpt.train.parallel import AXIS


def check(config, dataset):
    """Fails if the config's method reads a field that is not its own, or leaves one unread."""
    owned = leaves(config, {*METHODS, *(field for group in SHARED.values() for field in group)})
    read, said = (
        fields_read(config, dataset) & owned,
        owned - leaves(config, methods.unread(config)),
    )
    assert read == said, f"only in the code: {read - said}; only in the registry: {said - read}"


class Read:
    """A config that notes which of its fields are read, by their dotted names."""

    def __init__(self, config, fields, prefix=""):
        self._config, self._fields, self._prefix = config, fields, prefix

    def __getitem__(self, name):
        value, name_here = self._config[name], self._prefix + name
        if isinstance(value, ml_collections.ConfigDict):
            return Read(value, self._fields, f"{name_here}.")
        self._fields.add(name_here)
        return value

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __contains__(self, name):
        return name in self._config

    def keys(self):
        return self._config.keys()

    def items(self):
        return [(name, self[name]) for name in self.keys()]

    def get(self, name, default=None):
        return self[name] if name in self else default


def fields_read(config, dataset):
    """Those that ``make``, the first state, one step and the filling of the memory read."""
    pretrain.prepare(config, dataset)  # a sound config, in the first place
    fields = set()
    setup = methods.Setup(
        Read(config, fields),
        classes=10,
        examples=small_runs.IMAGES,
        optimizer=pretrain.optimizers.make_optimizer(config.optimizer, lambda step: 0.1),
        steps=lambda text: int(text.split()[0]),
        axis_name=AXIS,
    )
    method = methods.make_method(setup)
    batch = small_runs.batch_of(dataset, range(8))
    state = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    for function in filter(None, (method.step, method.fill)):
        jax.eval_shape(small_runs.over_one_device(function), state, batch)
    return fields


def leaves(config, parts):
    """The dotted names of all fields of those of the parts that there are: "look.k" of "look"."""
    found = set()
    for part in parts:
        if part.partition(".")[0] not in config:  # a method without fields of its own
            continue
        value = operator.attrgetter(part)(config)
        nested = isinstance(value, ml_collections.ConfigDict)
        found |= {f"{part}.{name}" for name in value} if nested else {part}
    return found
