"""Small files of a run, written so that a kill leaves no half of one."""

from etils import epath


def write_anew(path: epath.Path, text: str) -> None:
    """In one move, so that a kill or a full disk leaves the old file or the new one."""
    temporary = path.parent / f".{path.name}.tmp"
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
