"""Upload of an export to a repository on the Hugging Face hub."""

import importlib
import os
import pathlib
import re
from typing import Any

from jaxpt.errors import InputError, RunError, require

TOKEN = "HF_TOKEN"  # the environment variable; the token is never an argument, written or printed
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)


def connect(repo: str) -> Any:
    """Returns the hub's API after checking name and token, before anything is computed.

    Args:
      repo: "USER/REPO".

    Raises:
      InputError: for an invalid name, if huggingface_hub is not installed, or if the environment
        has no token.
    """
    parts = repo.split("/")
    require(
        len(parts) == 2
        and all(map(_NAME.fullmatch, parts))
        and ".." not in repo
        and "--" not in repo
        and not repo.endswith(".git"),
        f"--push needs the name of a repository, USER/REPO, of letters, digits, '-', '_' and "
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
        f"--push reads its token from the environment: set {TOKEN} to a token "
        "with write access (hf.co/settings/tokens).",
    )
    return package.HfApi(token=token)


def push(api: Any, repo: str, folder: pathlib.Path) -> str:
    """Uploads a folder, creating a private repository if there is none.

    Returns:
      the URL of the repository.

    Raises:
      RunError: if the hub rejects the upload or cannot be reached; the folder is kept.
    """
    try:
        where = api.create_repo(repo, repo_type="model", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            repo_type="model",
            commit_message="Export by jaxpt",
        )
    except Exception as error:  # errors of the hub and of the network
        # Neither the message nor a traceback may contain the token, so there is no cause.
        said = " ".join(str(error).split()).replace(os.environ[TOKEN].strip(), "…")
        raise RunError(
            f"{repo} could not be pushed ({type(error).__name__}: {said[:300]}). "
            f"{str(folder)!r} is complete; upload it with: hf upload {repo} {str(folder)!r}"
        ) from None
    return str(where)
