"""Generates pages from docstrings, configs, code, and the table docs/fidelity.csv.

    python docs/generate.py

Run it after every change to these: a test fails if the pages are out of date.
"""

import csv
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
# Sections of the losses page, with their losses in order.
GROUPS = {
    "Neighbours": ("look", "nca"),
    "Supervised contrast": ("sup_con", "sup_moco", "exemplar", "spread", "mask_con", "grafit"),
    "Classification": ("cross_entropy", "cosine_softmax", "prototype_softmax"),
    "Images without labels": ("entropy", "reverse_gradient"),
    "Instance discrimination": ("info_nce", "nt_xent", "nn_clr"),
    "Without negatives": ("cosine_regression", "barlow_twins", "vicreg", "dino", "move_centre"),
}
LOSSES = """# Losses

Every loss is a pure function of arrays, for example `from jaxpt.losses import look`. The losses
depend on jax and numpy only and compute in float32 for all input dtypes. They return one value per
example, to be averaged by the caller; losses of batch statistics return one value per batch.
`where` masks rows. `axis_name` extends the contrast to all devices under `jax.shard_map`,
`jax.pmap` or `jax.vmap(axis_name=…)`; differentiate the mean on each device and average the
gradients with `jax.lax.pmean`. Under `shard_map` that takes `check_vma=False`. With JAX's default,
which sums the gradients of replicated parameters itself, differentiate the `jax.lax.pmean` of the
mean instead; `look` and `nca` refuse the default. Losses over keys gather the keys of all devices
along that axis, so leave `axis_name` out if the memory is the same on all devices. `sup_con` and
`nn_clr`, whose contrast is the batch, accept such a memory together with `axis_name`.

The formula of `look` is a reconstruction from the paper's abstract, the start of its introduction,
the caption of its figure 1 and what later papers say of it: we had no access to its section on
the method, and found no code of its authors.

`python docs/generate.py` generates this page from the docstrings.
"""
METHODS_HEAD = """# Methods

A method is one file in `jaxpt/methods/` that contains all of it: views, encoders, memory, loss and
update. Choose it as the variant of a config:

    jaxpt pretrain --config=pretrain/digits.py:look --workdir=runs/look

Fields that only one method reads are named after it: `--config.look.k=20`. The table of each method
lists these fields, its temperature, and the defaults that it changes. A default is the paper's only
if the text says so; [a table](fidelity.md) compares the recipes with their sources. Methods with an
EMA target also read `ema`, `ema_end` and `target_norm`. Methods with a memory also read `memory`,
`memory_kind`, `memory_momentum`, `memory_sharding`, `memory_dtype` and `key_augment`; `look` and
`nca` read `neighbor_workspace`. All other
fields (network, optimizer, data, augmentation) are common to all methods; see
[`configs/pretrain/defaults.py`](../configs/pretrain/defaults.py). Only
`look`, `nca`, `sup_con` and `cross_entropy` have tuned settings, for digits and Fashion-MNIST; none
of the others is a reproduction of its paper's results. [Writing a method](new-method.md) shows how
to add one.

`python docs/generate.py` generates this page from docstrings, configs and code.
"""


def losses_page() -> str:
    """Renders the losses page from the docstrings."""
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
    """Removes type annotations; the arguments' descriptions have types and shapes."""
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=bare, return_annotation=signature.empty)


def _prose(text):
    """Converts paragraphs to Markdown, with literal blocks (after ``::``) as code blocks."""
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
    """Replaces reStructuredText's double backquotes by Markdown's single ones."""
    return re.sub(r"(?<!`)``(?!`)", "`", text)


def methods_page() -> str:
    """Renders the methods page: description and source, state and fields of each method."""
    commented = re.compile(r"(?m)^    c\.([\w.]+) = .*?  # (.*)$")
    meanings = dict(commented.findall(inspect.getsource(defaults.get_config)))
    return "\n".join([METHODS_HEAD, *(_method(name, meanings) for name in METHODS)])


def _method(name, meanings):
    module, entry = importlib.import_module(f"jaxpt.methods.{name}"), METHODS[name]
    title, _, body = inspect.getdoc(module).partition("\n")
    of_losses = dict.fromkeys(re.findall(r"\blosses\.([a-z]\w+)\(", inspect.getsource(module)))
    facts = [
        f"Code: [`jaxpt/methods/{name}.py`](../jaxpt/methods/{name}.py)",
        "Loss: " + ", ".join(f"[`{loss}`](losses.md#{loss})" for loss in of_losses),
        "State besides the encoder: " + (_kept(entry.reads) or "none"),
    ]
    facts += [
        f"With `{name}.{field}={value}` also {_kept(groups)}"
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
        lines += ["| field | default | meaning |", "|---|---|---|", *rows]
    return "\n".join(lines)


def _kept(groups):
    """State besides the online encoder of a method that reads these groups of fields."""
    kept = {"target": "an EMA target", "memory": "a memory"}
    return " and ".join(what for group, what in kept.items() if group in groups)


def _body(text):
    """Converts the rest of a module's docstring to Markdown; indented text becomes code."""
    return (
        _inline(
            re.sub(
                r"(?m)((?:^    .*\n)+)", lambda m: "```\n" + textwrap.dedent(m[1]) + "```\n", text
            )
        ).strip()
        + "\n"
    )


FIDELITY_HEAD = """# Recipes beside their sources

Each recipe of `pretrain/imagenet/` and `pretrain/cifar.py`, setting by setting, beside the paper
and the published code that it is named after. "Same" is tested: a test resolves the recipe and
compares it with this table. A difference is deliberate: the table says why, and the header of the
recipe names it. "Not read" is what we had no access to, and "from memory" what was not read
again. A setting without a source has no row and is jaxpt's own. References are files and lines of a
repository at a commit, or sections of a paper. Settings are fields of the config,
[explained](../configs/pretrain/defaults.py) with the defaults, or words.

Heads and losses of nine methods are also compared with numbers that PyTorch computed from the
published code's description (`tests/head_references.py`).

`python docs/generate.py` generates this page from `docs/fidelity.csv`.
"""


def fidelity() -> list[dict[str, str]]:
    """Rows of the table: method, variant, setting, source, ours, why, reference, header.

    The method "all" stands for all recipes. ``header`` quotes the words by which the docstring of
    the recipe names the difference.
    """
    with (FOLDER / "fidelity.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def fidelity_page() -> str:
    """Renders the page that compares each recipe with its source."""
    parts = [FIDELITY_HEAD]
    rows = fidelity()
    titles = {"all": "All recipes"} | {method: entry.title for method, entry in METHODS.items()}
    for method, title in titles.items():
        page = "recipes.py" if method == "all" else f"imagenet/{method}.py"
        parts += [
            f"\n## {title}\n",
            f"Recipe: [`{page.rpartition('/')[2]}`](../configs/pretrain/{page})\n",
            "| setting | source | here | why it differs | reference |",
            "|---|---|---|---|---|",
            *(_compared(row) for row in rows if row["method"] == method),
        ]
    return "\n".join(parts) + "\n"


def _compared(row):
    is_field = re.fullmatch(r"[a-z_.]+", row["setting"]) is not None
    setting = f"`{row['setting']}`" if is_field else row["setting"]
    variant = f"{row['variant']}: " if row["variant"] else ""
    ours = row["ours"] if row["why"] else "same"
    cells = variant + setting, row["source"], ours, row["why"], row["reference"]
    return "| " + " | ".join(cells) + " |"


PAGES = {"losses.md": losses_page, "methods.md": methods_page, "fidelity.md": fidelity_page}


def main() -> None:
    for name, render in PAGES.items():
        (FOLDER / name).write_text(render())


if __name__ == "__main__":
    main()
