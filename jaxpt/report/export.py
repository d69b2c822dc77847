"""Markdown and CSV of the report's numbers, and atomic writing of its files."""

import csv as csv_files
import io
import os
import pathlib
from typing import Sequence

from jaxpt.files import replacing, unwritable
from jaxpt.report import scaling, tables
from jaxpt.report.results import Results

COLUMNS = ("data", "part", "label", "method", "pretrain_limit", "seed", "measurement", "value")


def markdown(sets: Sequence[Results]) -> str:
    """Markdown of all tables: over the sets, then per set."""
    caption = tables.caption_over_sets(sets)
    parts = [
        f"## {t.title}\n\n{tables.markdown_table(t.headings, t.rows)}\n\n{caption}\n"
        for t in tables.over_sets(sets)
    ]
    for results in sets:
        parts.append(f"## {tables.plain(results.title)}\n\n{tables.markdown_of(results)}")
        for title, metrics in results.groups.items():
            table = tables.markdown_table(*tables.group_table(results, metrics))
            parts.append(f"### {title}\n\n{table}\n")
        laws = scaling.rows(results)
        if laws:
            parts.append(
                "### Error against the number of images\n\n"
                f"{tables.markdown_table(scaling.headings(), laws)}\n"
            )
    return "\n".join(parts)


def csv(sets: Sequence[Results]) -> str:
    """CSV with one line per value of every run, in full precision.

    A ``pretrain_limit`` of 0 means all images.
    """
    buffer = io.StringIO()
    writer = csv_files.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for results in sets:
        for run in results.sizes or results.runs:
            for name, value in run["values"].items():
                writer.writerow(
                    [
                        run["data"],
                        run["part"],
                        run["label"],
                        run["method"],
                        run["limit"],
                        run["seed"],
                        name,
                        repr(float(value)),
                    ]
                )
    return buffer.getvalue()


def write(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file atomically, so that a kill leaves no partial file.

    Raises:
      InputError: if it cannot be written.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise unwritable(path, error) from error
