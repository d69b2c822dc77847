"""Writes docs/losses.md from the docstrings of ``jaxpt.losses``.

    python docs/generate.py

A test compares, so run it after every change to a docstring.
"""

import inspect
import pathlib
import re
import textwrap

from jaxpt import losses

PAGE = pathlib.Path(__file__).parent / "losses.md"
# By what a reader is after; within a group in this order.
GROUPS = {
    "Neighbours": ("look", "nca"),
    "Supervised contrast": ("sup_con", "sup_moco", "exemplar", "spread", "mask_con", "grafit"),
    "Classification": ("cross_entropy", "cosine_softmax", "prototype_softmax"),
    "Instance discrimination": ("info_nce", "nt_xent", "nn_clr"),
    "Without negatives": ("cosine_regression", "barlow_twins", "vicreg", "dino", "move_centre"),
}
HEAD = """# Losses

Every loss is a pure function of arrays: `from jaxpt.losses import look`. It needs jax and numpy
alone, computes in float32 whatever goes in, gives a value for each example (batch losses: one
value) and leaves the mean to you. `where` masks rows; `axis_name` makes the contrast that of all
devices under `jax.shard_map`, `jax.pmap` or `jax.vmap(axis_name=…)`. Gradients then take the usual
way: differentiate each device's mean, average with `jax.lax.pmean`. Losses over keys gather the
keys of all devices along that axis; with a memory that is the same on all devices pass none.
`sup_con` and `nn_clr`, whose contrast is the batch, take such a memory beside `axis_name`.

This page is made from the docstrings by `python docs/generate.py`.
"""


def render() -> str:
    """The page."""
    parts = [HEAD, *(_contents(*group) for group in GROUPS.items())]
    for group, names in GROUPS.items():
        parts.append(f"\n# {group}\n")
        parts += (_entry(name) for name in names)
    return "\n".join(parts)


def _contents(group, names):
    return f"- {group}: " + ", ".join(f"[`{name}`](#{name})" for name in names)


def _entry(name):
    function = getattr(losses, name)
    signature = textwrap.fill(f"{name}{inspect.signature(function)}", 96,
                              subsequent_indent=" " * (len(name) + 1), break_on_hyphens=False)
    body, *sections = re.split(r"\n(\w+):\n", inspect.getdoc(function))
    lines = [f"\n## {name}\n", f"```python\n{signature}\n```\n", _prose(body)]
    for title, text in zip(sections[::2], sections[1::2]):
        lines.append(f"**{title}**\n\n{_section(title, textwrap.dedent(text).strip())}\n")
    return "\n".join(lines)


def _prose(text):
    """Paragraphs, with literal blocks (after ``::``) as code."""
    text = re.sub(r"::\n\n((?:    .*\n?|\n)+)",
                  lambda m: ":\n\n```\n" + textwrap.dedent(m[1]).strip() + "\n```\n\n", text + "\n")
    return _inline(text).strip() + "\n"


def _section(title, text):
    if title == "Example":
        return re.sub(r"(?ms)^(>>> .*?)(?=\n\n|\Z)",
                      lambda m: f"```python\n{m[1]}\n```", _inline(text))
    text = _inline(text)
    if title in ("Args", "Raises", "Attributes"):
        items = re.sub(r"\n +", " ", text).splitlines()
        return "\n".join(re.sub(r"^([\w, ]+):", r"- `\1`:", item) for item in items)
    return text


def _inline(text):
    """reStructuredText's double backquotes → Markdown's single ones."""
    return re.sub(r"(?<!`)``(?!`)", "`", text)


def main() -> None:
    PAGE.write_text(render())


if __name__ == "__main__":
    main()
