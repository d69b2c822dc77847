"""Pushing to a hub that is none: what it is asked for, and what is said when it refuses."""

import sys
import types

import pytest

from jaxpt import export
from jaxpt.errors import InputError, RunError
from jaxpt.export import hub

TOKEN = "hf_secret_of_the_tests"


@pytest.fixture
def pushed(monkeypatch):
    """A stand-in of huggingface_hub; what it was asked for, and "fails", which it then raises."""
    calls = types.SimpleNamespace(made=[], uploads=[], tokens=[], fails=None)

    class HfApi:
        def __init__(self, token):
            calls.tokens.append(token)

        def create_repo(self, repo_id, **options):
            calls.made.append((repo_id, options))
            return f"https://hub.test/{repo_id}"

        def upload_folder(self, *, folder_path, **options):
            if calls.fails:
                raise calls.fails
            calls.uploads.append((folder_path, options))

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=HfApi))
    monkeypatch.setenv(hub.TOKEN, TOKEN)
    return calls


def test_a_folder_goes_to_a_private_repository(run, tmp_path, pushed, capsys):
    made = export.run(run, tmp_path / "out", push="me/my-encoder_1.0")
    assert made.url == "https://hub.test/me/my-encoder_1.0"
    ((name, options),) = pushed.made
    assert name == "me/my-encoder_1.0" and options["private"] and options["exist_ok"]
    ((folder, options),) = pushed.uploads
    assert folder == str(made.folder) and options["repo_id"] == "me/my-encoder_1.0"
    assert pushed.tokens == [TOKEN]
    card = (made.folder / "README.md").read_text()
    assert "hf download me/my-encoder_1.0" in card
    said = capsys.readouterr()
    for text in (
        said.out,
        said.err,
        *(path.read_bytes().decode("latin-1") for path in made.folder.iterdir()),
    ):
        assert TOKEN not in text


def test_what_the_hub_refuses_is_told_without_the_token(run, tmp_path, pushed):
    pushed.fails = OSError(f"403 for Bearer {TOKEN}:\n forbidden")
    with pytest.raises(
        RunError,
        match="me/x could not be pushed .OSError: 403 for Bearer …: "
        "forbidden.*is complete; upload it with: hf upload me/x ",
    ) as error:
        export.run(run, tmp_path / "out", push="me/x")
    assert error.value.__cause__ is None and error.value.__suppress_context__
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "a/b/c",
        "me/",
        "/x",
        "me/a b",
        "me/a--b",
        "me/a..b",
        "me/x.git",
        "-me/x",
        "me/é",
        "me/" + "x" * 97,
    ],
)
def test_names_of_no_repository(name, pushed):
    with pytest.raises(InputError, match="USER/REPO"):
        hub.connect(name)
    assert pushed.tokens == []


@pytest.mark.parametrize("token", [None, "", " "])
def test_without_a_token_nothing_is_written(token, run, tmp_path, pushed, monkeypatch):
    monkeypatch.delenv(hub.TOKEN) if token is None else monkeypatch.setenv(hub.TOKEN, token)
    with pytest.raises(InputError, match="set HF_TOKEN to a token with write access"):
        export.run(run, tmp_path / "out", push="me/x")
    assert not (tmp_path / "out").exists()


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'jaxpt\[hub\]'"):
        hub.connect("me/x")
