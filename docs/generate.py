"""Writes docs/losses.md and docs/methods.md from docstrings, configs and code.

    python docs/generate.py

A test compares, so run it after every change to one of these.
"""

import importlib
import inspect
import operator
import pathlib
import re
import textwrap

from jaxpt import losses
from jaxpt.configs.pretrain import defaults
from jaxpt.methods import METHODS

FOLDER = pathlib.Path(__file__).parent
# By what a reader is after; within a group in this order.
GROUPS = {
    "Neighbours": ("look", "nca"),
    "Supervised contrast": ("sup_con", "sup_moco", "exemplar", "spread", "mask_con", "grafit"),
    "Classification": ("cross_entropy", "cosine_softmax", "prototype_softmax"),
    "Instance discrimination": ("info_nce", "nt_xent", "nn_clr"),
    "Without negatives": ("cosine_regression", "barlow_twins", "vicreg", "dino", "move_centre"),
}
LOSSES = """# Losses

Every loss is a pure function of arrays: `from jaxpt.losses import look`. It needs jax and numpy
alone, computes in float32 whatever goes in, gives a value for each example (batch losses: one
value) and leaves the mean to you. `where` masks rows; `axis_name` makes the contrast that of all
devices under `jax.shard_map`, `jax.pmap` or `jax.vmap(axis_name=…)`. Gradients then take the usual
way: differentiate each device's mean, average with `jax.lax.pmean`. Losses over keys gather the
keys of all devices along that axis; with a memory that is the same on all devices pass none.
`sup_con` and `nn_clr`, whose contrast is the batch, take such a memory beside `axis_name`.

This page is made from the docstrings by `python docs/generate.py`.
"""
METHODS_HEAD = """# Methods

A method is a file of `jaxpt/methods/` that shows all of it: views, encoders, memory, loss, update.
The variant of a config names it:

    jaxpt pretrain --config=pretrain/digits.py:look --workdir=runs/look

The fields that a method alone reads stand under its name: `--config.look.k=20`. Below each method
are these, its temperature, and what it sets otherwise than the defaults; a default is the paper's
only where that is said. Those with an EMA target also read `ema`, `ema_end` and `target_norm`,
those with a memory `memory`, `memory_kind`, `memory_momentum`, `memory_sharding`, `memory_dtype`
and `key_augment`. All else (network, optimizer, data, augmentation) is the same for all and stands
in [`configs/pretrain/defaults.py`](../configs/pretrain/defaults.py). Only `look`, `nca`, `sup_con`
and `cross_entropy` are tuned, on digits and Fashion-MNIST; none of the others is a
reproduction of its paper's results. [Writing a method](new-method.md) adds one.

This page is made from docstrings, configs and code by `python docs/generate.py`.
"""


def losses_page() -> str:
    """Each loss, from its docstring."""
    parts = [LOSSES, *(_contents(*group) for group in GROUPS.items())]
    for group, names in GROUPS.items():
        parts.append(f"\n## {group}\n")
        parts += (_entry(name) for name in names)
    return "\n".join(parts)


def _contents(group, names):
    return f"- {group}: " + ", ".join(f"[`{name}`](#{name})" for name in names)


def _entry(name):
    function = getattr(losses, name)
    signature = textwrap.fill(
        f"{name}{_without_types(inspect.signature(function))}",
        96,
        subsequent_indent=" " * (len(name) + 1),
        break_on_hyphens=False,
    )
    body, *sections = re.split(r"\n(\w+):\n", inspect.getdoc(function))
    lines = [f"\n### {name}\n", f"```python\n{signature}\n```\n", _prose(body)]
    for title, text in zip(sections[::2], sections[1::2]):
        lines.append(f"**{title}**\n\n{_section(title, textwrap.dedent(text).strip())}\n")
    return "\n".join(lines)


def _without_types(signature):
    """Types stand with the arguments, where there are shapes too."""
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=bare, return_annotation=signature.empty)


def _prose(text):
    """Paragraphs, with literal blocks (after ``::``) as code."""
    text = re.sub(
        r"::\n\n((?:    .*\n?|\n)+)",
        lambda m: ":\n\n```\n" + textwrap.dedent(m[1]).strip() + "\n```\n\n",
        text + "\n",
    )
    return re.sub(r"(?m)^:\n", "", _inline(text)).strip() + "\n"


def _section(title, text):
    if title == "Example":
        return re.sub(
            r"(?ms)^(>>> .*?)(?=\n\n|\Z)", lambda m: f"```python\n{m[1]}\n```", _inline(text)
        )
    text = _inline(text)
    if title in ("Args", "Raises", "Attributes"):
        items = re.sub(r"\n +", " ", text).splitlines()
        return "\n".join(re.sub(r"^([\w, ]+):", r"- `\1`:", item) for item in items)
    return text


def _inline(text):
    """reStructuredText's double backquotes → Markdown's single ones."""
    return re.sub(r"(?<!`)``(?!`)", "`", text)


def methods_page() -> str:
    """Each method: what it is and where it comes from, what it keeps, its fields."""
    commented = re.compile(r"(?m)^    c\.([\w.]+) = .*?  # (.*)$")
    meanings = dict(commented.findall(inspect.getsource(defaults.get_config)))
    return "\n".join([METHODS_HEAD, *(_method(name, meanings) for name in METHODS)])


def _method(name, meanings):
    module, entry = importlib.import_module(f"jaxpt.methods.{name}"), METHODS[name]
    title, _, body = inspect.getdoc(module).partition("\n")
    of_losses = dict.fromkeys(re.findall(r"\blosses\.([a-z]\w+)\(", inspect.getsource(module)))
    facts = [
        f"Page: [`jaxpt/methods/{name}.py`](../jaxpt/methods/{name}.py)",
        "Loss: " + ", ".join(f"[`{loss}`](losses.md#{loss})" for loss in of_losses),
        "Keeps: " + (_kept(entry.reads) or "nothing beside the encoder"),
    ]
    facts += [
        f"With `{name}.{field}={value}` it keeps {_kept(groups)}"
        for (field, value), groups in entry.also_reads.items()
        if _kept(groups)
    ]
    lines = [
        f"\n## {name}\n",
        f"{_inline(title)}\n",
        *([_body(body)] if body.strip() else []),
        " · ".join(facts) + "\n",
    ]
    config = defaults.apply_variant(defaults.get_config(), name)
    own = [f"{name}.{field}" for field in config.get(name, {})]
    shared = {*entry.settings, *({"temperature"} & set(entry.reads))}
    rows = [
        f"| `{field}` | `{operator.attrgetter(field)(config)}` | {meanings[field]} |"
        for field in own + sorted(shared)
    ]
    if rows:
        lines += ["| field | default | what it is |", "|---|---|---|", *rows]
    return "\n".join(lines)


def _kept(groups):
    """What a method that reads these groups of fields has beside its online encoder."""
    kept = {"target": "an EMA target", "memory": "a memory"}
    return " and ".join(what for group, what in kept.items() if group in groups)


def _body(text):
    """The rest of a module's docstring; what is indented is code."""
    return (
        _inline(
            re.sub(
                r"(?m)((?:^    .*\n)+)", lambda m: "```\n" + textwrap.dedent(m[1]) + "```\n", text
            )
        ).strip()
        + "\n"
    )


PAGES = {"losses.md": losses_page, "methods.md": methods_page}


def main() -> None:
    for name, render in PAGES.items():
        (FOLDER / name).write_text(render())


if __name__ == "__main__":
    main()
