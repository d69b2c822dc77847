"""Display of a written report in a notebook."""

import os
import pathlib

from jaxpt.errors import require
from jaxpt.report.markup import tag


class Inline:
    """Displays a page of ``write_report`` as the value of a notebook cell.

    The page is embedded in the cell's output, in a frame with its own scroll bar. So it is still
    there when the notebook is opened elsewhere, and the styles of page and notebook do not mix.
    """

    def __init__(self, page: str | os.PathLike, *, height: int = 640):
        """Initializes the display.

        Args:
          page: the report's file.
          height: of the frame, in CSS pixels.

        Raises:
          InputError: if the file does not exist.
        """
        self.page, self.height = pathlib.Path(page), height
        require(self.page.is_file(), f"there is no report {str(page)!r}: make it by write_report.")

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
