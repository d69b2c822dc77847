"""A written report inside a notebook."""

import os
import pathlib

from jaxpt.errors import require
from jaxpt.report.markup import tag


class Inline:
    """A page of ``write_report``, shown where it is the last value of a notebook's cell.

    The page is copied into the cell's output, in a frame that scrolls by itself, so that it is
    still there where the notebook is opened elsewhere, and neither one's style meets the other's.
    """

    def __init__(self, page: str | os.PathLike, *, height: int = 640):
        """``page``: the file; ``height``: of the frame, CSS pixels.

        Raises:
          InputError: where there is no such file.
        """
        self.page, self.height = pathlib.Path(page), height
        require(self.page.is_file(), f"there is no report {str(page)!r}: write_report makes one.")

    def __repr__(self) -> str:
        return f"report: {self.page}"

    def _repr_html_(self) -> str:
        return tag(
            "iframe",
            srcdoc=self.page.read_text(encoding="utf-8"),
            title=repr(self),
            style=f"width: 100%; height: {self.height}px; "
            "border: 1px solid #c8cdd3; border-radius: 4px; background: white",
        )
