"""JSON lines: what hostile or killed writers leave is one error that names file and line, or is skipped."""

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.json_lines import MAX_BYTES, append_line, decode, encode, parse, read_lines

VALUES = [{"name": "Hündin\udcff\u2028"}, {"name": "犬", "numbers": [1, 2.5, None]}]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lines.jsonl"


def test_appended_values_are_read_back_with_their_numbers_and_bytes(path):
    starts = [append_line(path, encode(value)) for value in VALUES]
    lines = list(read_lines(path))
    assert [line.value for line in lines] == VALUES
    assert [line.number for line in lines] == [1, 2]
    assert b"".join(line.content for line in lines) == path.read_bytes()
    assert [line.value for line in read_lines(path, starts[1])] == VALUES[1:]


def test_a_missing_file_has_no_lines(path):
    assert list(read_lines(path)) == []


def test_a_truncated_last_line_is_skipped_and_gives_way_to_the_next_one(path):
    path.write_bytes(encode(VALUES[0]) + encode(VALUES[1])[:-3])
    assert [line.value for line in read_lines(path)] == VALUES[:1]
    append_line(path, encode(VALUES[1]))
    assert [line.value for line in read_lines(path)] == VALUES


def test_a_last_line_without_a_line_break_is_kept(path):
    path.write_bytes(encode(VALUES[0])[:-1])
    append_line(path, encode(VALUES[1]))
    assert [line.value for line in read_lines(path)] == VALUES


EXTREME = {"brackets": b"[" * 100_000, "objects": b'{"a": ' * 100_000, "digits": b"9" * 6000}


@pytest.mark.parametrize("line", EXTREME.values(), ids=EXTREME)
def test_a_line_too_extreme_for_a_parser_is_refused_even_at_the_end(path, line):
    path.write_bytes(encode(VALUES[0]) + line)
    with pytest.raises(UserError, match=f"line 2 of {path} is damaged"):
        list(read_lines(path))
    with pytest.raises(ValueError, match=r"nested too deeply|4300 digits") as refused:
        decode(line)
    assert ";" not in str(refused.value)


@pytest.mark.parametrize("line", [b"", b"\0\0\0", b'{"a": 1} {"a": 2}', b"\xff\xfe{\0}\0"])
def test_a_line_before_the_last_that_is_not_json_is_refused(path, line):
    path.write_bytes(line + b"\n" + encode(VALUES[0]))
    with pytest.raises(UserError, match=f"line 1 of {path} is damaged"):
        list(read_lines(path))


def test_a_line_without_end_is_not_read_whole(path):
    with path.open("wb") as file:
        file.write(encode(VALUES[0]))
        file.truncate(2**33)  # 8 GB of NUL that take no space
    with pytest.raises(UserError, match=f"line 2 of {path} has more than {MAX_BYTES} bytes"):
        list(read_lines(path))


def test_json_of_another_program_is_parsed_by_the_same_rules():
    assert parse('{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="Expecting value"):
        parse("")
