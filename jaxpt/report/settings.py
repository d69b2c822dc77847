"""Text and tables on protocol, settings and environment, from the records alone."""

import importlib
import json
import pathlib
from typing import Any, Sequence

from flax.traverse_util import flatten_dict

from jaxpt.methods import unread
from jaxpt.report.results import Results, in_order, join, pretrain_limit, protocol_of, set_name

LISTED = 10  # longer lists of constants are abbreviated to their ends
EVALUATOR = "evaluator"  # a field that only records of single evaluators have, not those of studies

# Fields that do not affect what is learnt, or are reported elsewhere.
ASIDE = (
    "seed",
    "method",
    "log_every",
    "trackers",
    "knn_every",
    "knn_k",
    "knn_fine",
    "probe.labels",
    "probe.learning_rate",
    "checkpoint_every",
    "keep_checkpoints",
    "mapping",
    "devices",
    "data.train_on",
)
# If methods differ in none of these, the report says that they are treated alike.
ALIKE = (
    "batch_size",
    "views",
    "duration",
    "data.",
    "augment.",
    "model.name",
    "model.norm",
    "model.dtype",
    "model.options",
    "optimizer.name",
)
LABEL_MAPS = {
    "halves": "two coarse classes (0–4 and 5–9)",
    "parity": "two coarse classes (even and odd)",
    "fashion5": "five coarse classes (tops, trouser, dress, shoes, bag)",
    "fine": "the classes themselves",
}


def procedure(results: Results) -> list[str]:
    """Paragraphs on the data of pre-training and of the measurement."""
    configs = [run["config"] for run in results.runs if run["config"]]
    here = [c for c in configs if _is_of(c, results)]
    parts = []
    if len(here) == len(results.runs):
        parts.append(_pretraining(results, here))
    else:
        sources = {_pretrained_on(c) for c in configs}
        files = [results.name(m) for m, of in results.methods.items() if _without_config(of)]
        said = [f"The encoders were pre-trained on {join(sorted(sources))}."] * bool(sources)
        if files:
            said.append(
                f"{join(files)} {'come' if files[1:] else 'comes'} from weight files: their "
                "pre-training is not recorded here."
            )
        said.append(
            "The measurements on this set use the frozen features of the backbone, without the "
            "head."
        )
        parts.append(" ".join(said))
    parts.append(_fitting(results, studied=len(here) == len(results.runs)))
    return parts


def _without_config(by_seed):
    return any(not run["config"] for run in by_seed.values())


def _pretraining(results, configs):
    labels = join(sorted({_labels(config) for config in configs}))
    different = {row[0] for row in config_rows(results)[0]}
    fair = not any(field.startswith(ALIKE) for field in different)
    alike = (
        ", all with the same network, budget and augmentation of queries"
        if fair
        else "; the settings below show how they differ"
    )
    fine = any(config["data"]["label_map"] == "fine" for config in configs)
    seen = (
        "."
        if fine
        else ": on the coarse labels of pre-training, and on fine labels that it never used."
    )
    return (
        f"The methods pre-train on {labels}{alike}. Then the head is dropped, and the frozen "
        f"features of the backbone are measured{seen}"
    )


def _fitting(results, studied):
    # Only in a study does the measured part determine what pre-training saw.
    studied = studied and not any(
        EVALUATOR in source for run in results.runs for source in run["sources"]
    )
    who = "Pre-training and evaluators use" if studied else "Evaluators fit on"
    limits = sorted({run["limit"] for run in results.sizes})
    subset = (
        ""
        if not limits
        else " Of that, pre-training sees subsets of "
        + join([f"{n:,}" if n else "all" for n in limits])
        + " images, and the tables show the largest."
    )
    if results.part == "test":
        return (
            f"{who} the whole training part; the linear probe uses a fixed fifth of it to choose "
            f"its L2 strength. Every number is measured on the test part.{subset}"
        )
    return (
        f"{who} four fifths of the training part. Every number is measured on the fixed last "
        f"fifth, the validation part.{subset}"
    )


def _labels(config) -> str:
    name = config["data"]["label_map"]
    if name == "level:1":
        return "coarse classes (the outermost level of folders)"
    if name.startswith("level:"):
        return f"coarse classes (the first {name.removeprefix('level:')} levels of folders)"
    if name.endswith(".csv"):
        return f"coarse classes ({pathlib.PurePath(name).name})"
    return LABEL_MAPS.get(name, name)


def _is_of(config, results) -> bool:
    """Whether the measured set is that of pre-training."""
    return _set_name(config) == results.data


def _set_name(config) -> str:
    source = config["data"]["source"].removeprefix("protocol:").removeprefix("tfds:")
    return set_name({"data": source.replace("/", "_").partition(":")[0], "config": config})


def _pretrained_on(config) -> str:
    return f"{_set_name(config)} ({_labels(config)})"


def together(sets: Sequence[Results]) -> Results:
    """All runs of all sets by label, for the tables of settings and environment."""
    methods: dict[str, dict[int, dict[str, Any]]] = {}
    for results in sets:
        for run in results.sizes or results.runs:
            runs = methods.setdefault(run["label"], {})
            runs[len(runs)] = run
    names = join(list(dict.fromkeys(results.data for results in sets)))
    return Results(names, sets[0].part, {label: methods[label] for label in in_order(methods)})


def protocol_rows(results: Results) -> list[tuple[str, str]]:
    """Rows (measurement, its constants) of the protocol."""
    return [
        (name, "; ".join(f"{constant} = {_value(value)}" for constant, value in constants.items()))
        for name, constants in protocol_of(results.runs).items()
    ]


def tuning(results: Results) -> list[str]:
    """Paragraphs on how the settings were chosen, as far as the records show."""
    if all(run["config"] and _as_shipped(run) for run in results.runs):
        return [
            "These are the settings that jaxpt ships for this set. They are jaxpt's defaults, not "
            "published values. benchmarks/tune.py chose them with the same effort for every "
            "method, on a grid of learning rates and values of one hyper-parameter (label "
            "smoothing for cross-entropy, the temperature for SupCon and NCA, k for LOOK), by the "
            "mean of the three fine-label accuracies on the validation part of the training "
            "data. The test part did not enter the choice."
        ]
    if any(run["config"] and _shipped(run) for run in results.runs):
        return [
            "These settings differ from those that jaxpt ships for this set; how they were chosen "
            "is not recorded."
        ]
    return []


def config_rows(results: Results) -> tuple[list[list[str]], list[list[str]]]:
    """Rows (setting, value per method) where methods differ, and rows (setting, value) elsewhere.

    The value is "–" for a method that does not read the field.
    """
    columns = [_fields(label, by_seed) for label, by_seed in results.methods.items()]
    columns = _without_copies(columns, "key_augment.", "augment.")
    different, same = [], []
    for field in dict.fromkeys(field for column in columns for field in column):
        values = [column.get(field, "–") for column in columns]
        read = set(values) - {"–"}
        if len(set(values)) > 1:
            different.append([field, *values])
        elif read:
            same.append([field, values[0]])
    return different, same


def surroundings_rows(results: Results) -> list[tuple[str, str]]:
    """Rows on device, versions, dates, seeds and number of runs."""
    records = list({id(r): r for run in results.runs for r in run["sources"]}.values())
    packages: dict[str, list[str]] = {}
    for record in records:
        for name, version in record["packages"].items():
            packages.setdefault(name, []).append(version)
    seeds = sorted({record["seed"] for record in records})
    runs = {(record["label"], pretrain_limit(record), record["seed"]) for record in records}
    return [
        ("runs", f"{len(runs)}, seeds {', '.join(map(str, seeds))}"),
        ("device", _all(record["device"] for record in records)),
        ("date", _all(record["date"] for record in records)),
        ("source revision", _all(record["revision"] for record in records)),
        ("Python", _all(record["python"] for record in records)),
        *((name, _all(versions)) for name, versions in packages.items()),
    ]


def _fields(label, by_seed) -> dict[str, str]:
    """A method's fields; several values if its seeds differ."""
    fields: dict[str, list[str]] = {}
    for record in by_seed.values():
        config = record["config"]
        aside = {*ASIDE, *unread(config)} if config else ()
        for field, value in flatten_dict(config or {}, sep=".").items():
            if not _among(field, aside):
                fields.setdefault(field, []).append(_value(value))
    return {field: _all(values) for field, values in fields.items()}


def _among(field, parts) -> bool:
    return any(field == part or field.startswith(f"{part}.") for part in parts)


def _without_copies(columns, part, source):
    """Columns in which one row replaces all fields of ``part`` that equal those of ``source``."""
    fields = dict.fromkeys(f for column in columns for f in column if f.startswith(part))
    equal = {
        field
        for field in fields
        if all(
            column[field] == column.get(source + field.removeprefix(part))
            for column in columns
            if field in column
        )
    }
    row = {f"{part}*" if len(equal) == len(fields) else f"other {part}*": f"as {source}*"}
    return [
        {f: v for f, v in column.items() if f not in equal} | (row if equal & column.keys() else {})
        for column in columns
    ]


def _shipped(record) -> dict[str, Any] | None:
    """The config that jaxpt ships for a record's set and method, if there is one."""
    try:
        module = importlib.import_module(f"jaxpt.configs.pretrain.{record['data']}")
        return module.get_config(record["method"]).to_dict()
    except (ImportError, ValueError):
        return None


def _as_shipped(record) -> bool:
    """Whether a config equals the shipped one of its set and method, apart from ASIDE."""
    shipped = _shipped(record)
    return shipped is not None and _essence(shipped) == _essence(record["config"])


def _essence(config) -> dict[str, Any]:
    config = json.loads(json.dumps(config, default=list))  # tuples become lists, as in a file
    return {
        field: value for field, value in flatten_dict(config, sep=".").items() if field not in ASIDE
    }


def _value(value) -> str:
    if isinstance(value, (list, tuple)) and len(value) > LISTED:
        return f"{_value(value[:2])}, …, {_value(value[-1])} ({len(value)} values)"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "(empty)" if value == "" else str(value)


def _all(values) -> str:
    return "; ".join(dict.fromkeys(values))
