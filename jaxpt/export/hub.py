"""Pushing an export to a repository on the Hugging Face hub."""

import importlib
import os
import pathlib
import re
from typing import Any

from jaxpt.errors import InputError, RunError, require

TOKEN = "HF_TOKEN"  # the environment variable; the token is never an argument, written or printed
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)


def connect(repo: str) -> Any:
    """The hub's API, before anything is computed.

    Args:
      repo: "USER/REPO".

    Raises:
      InputError: for a name that can be none, where huggingface_hub is not installed, or where the
        environment has no token.
    """
    parts = repo.split("/")
    require(
        len(parts) == 2
        and all(map(_NAME.fullmatch, parts))
        and ".." not in repo
        and "--" not in repo
        and not repo.endswith(".git"),
        f"--push takes the name of a repository, USER/REPO, of letters, digits, '-', '_' and "
        f"'.', got {repo!r}.",
    )
    try:
        package = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            "--push needs the package huggingface_hub: pip install 'jaxpt[hub]'."
        ) from error
    token = os.environ.get(TOKEN, "")
    require(
        bool(token.strip()),
        f"--push takes its token from the environment: set {TOKEN} to one "
        "with write access (hf.co/settings/tokens).",
    )
    return package.HfApi(token=token)


def push(api: Any, repo: str, folder: pathlib.Path) -> str:
    """Uploads a folder; a repository that is not there is made, private.

    Returns:
      Where it can be seen.

    Raises:
      RunError: where the hub refuses or cannot be reached; the folder stays.
    """
    try:
        where = api.create_repo(repo, repo_type="model", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            repo_type="model",
            commit_message="Export by jaxpt",
        )
    except Exception as error:  # the hub's own, and those of the network below it
        # The sentence must not hold the token; nor may a traceback, so there is no cause.
        said = " ".join(str(error).split()).replace(os.environ[TOKEN].strip(), "…")
        raise RunError(
            f"{repo} could not be pushed ({type(error).__name__}: {said[:300]}). "
            f"{str(folder)!r} is whole: hf upload {repo} {str(folder)!r} pushes it."
        ) from None
    return str(where)
