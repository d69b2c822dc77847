"""A file of records survives kills: whole lines are kept, a torn last one is mended."""

import json

import pytest

from jaxpt import records
from jaxpt.errors import InputError

FIRST, SECOND = {"key": "a", "values": {"x": 1.5}}, {"key": "b", "text": "zwölf\nStück"}


def test_what_was_appended_is_read_in_order(tmp_path):
    path = tmp_path / "r.jsonl"
    assert records.read(path) == []
    for record in FIRST, SECOND, FIRST:
        records.append(path, record)
    assert records.read(path) == [FIRST, SECOND, FIRST]
    assert path.read_text().count("\n") == 3


def test_a_key_depends_on_every_value_and_not_on_the_order_of_fields():
    key = records.key_of({"a": {"k": 5, "l": (1, 2)}, "b": "x"})
    assert key == records.key_of({"b": "x", "a": {"l": [1, 2], "k": 5}})
    assert key != records.key_of({"a": {"k": 6, "l": (1, 2)}, "b": "x"})


@pytest.mark.parametrize("kept", range(1, len(json.dumps(SECOND))))
def test_a_line_torn_anywhere_does_not_count_and_is_cut_off(kept, tmp_path):
    path = tmp_path / "r.jsonl"
    records.append(path, FIRST)
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps(SECOND).encode()[:kept])
    assert records.read(path) == [FIRST]
    records.append(path, SECOND)
    assert path.read_bytes() == whole + json.dumps(SECOND).encode() + b"\n"


def test_a_torn_line_may_be_all_there_is_and_end_within_a_letter(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes('{"text": "ö'.encode()[:-1])
    assert records.read(path) == []
    records.append(path, FIRST)
    assert records.read(path) == [FIRST]


def test_a_whole_line_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(FIRST))
    assert records.read(path) == [FIRST]
    records.append(path, SECOND)
    assert records.read(path) == [FIRST, SECOND]


def test_an_empty_file_holds_nothing_and_can_be_added_to(tmp_path):
    path = tmp_path / "r.jsonl"
    path.touch()
    assert records.read(path) == []
    records.append(path, FIRST)
    assert records.read(path) == [FIRST]


def test_broken_lines_that_end_and_paths_that_are_no_file_are_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"half": \n' + json.dumps(FIRST) + "\n")
    with pytest.raises(InputError, match="line 1 is no record"):
        records.read(path)
    with pytest.raises(InputError, match="is a folder"):
        records.read(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        records.append(tmp_path, FIRST)
    with pytest.raises(InputError, match="cannot be written"):
        records.append(tmp_path / "no" / "folder.jsonl", FIRST)
