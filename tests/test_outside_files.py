"""What a file that somebody else wrote must be, and what is said when it is not."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from valley2_edge import outside_files
from valley2_edge.errors import InputError
from valley2_edge.outside_files import (
    FileStamp,
    hash_file,
    is_directory,
    is_file,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    shown,
    text_lines,
)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is a device, not a file"):
        read_bytes(name, 10, InputError)


def test_pipe_without_a_writer_is_refused_and_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is a pipe, not a file"):
        open_regular(tmp_path / "pipe", InputError)


def test_directory_socket_and_nothing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a directory, not a file"):
        open_regular(tmp_path, InputError)
    with pytest.raises(InputError, match="There is no file at nothing"):
        open_regular("nothing", InputError)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket")
        with pytest.raises(InputError, match=r"socket (cannot be read|is a socket)"):
            open_regular("socket", InputError)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "a/" * 5000])
def test_name_that_no_system_takes_is_an_input_error(name: str) -> None:
    assert not is_file(name)
    assert not is_directory(name)
    with pytest.raises(InputError, match=r"cannot be read|There is no file"):
        open_regular(name, InputError)


def test_link_to_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "valley2.json").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is a device"):
        read_json(tmp_path / "valley2.json", InputError)


def test_file_over_the_limit_is_refused_and_one_at_the_limit_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", 5, InputError) == b"12345"
    with pytest.raises(InputError, match="larger than 4 bytes"):
        read_bytes(tmp_path / "file", 4, InputError)


@pytest.mark.parametrize("content", [b'{"a": "\xc3\xa4"}', b'\xef\xbb\xbf{"a": "\xc3\xa4"}'])
def test_json_is_read_with_and_without_a_byte_order_mark(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json", InputError) == {"a": "ä"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wider_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes("{}".encode(encoding))
    with pytest.raises(InputError, match="save it as UTF-8"):
        read_json(tmp_path / "a.json", InputError)


def test_byte_that_is_no_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\nthr\xe9e\n")
    with pytest.raises(InputError, match=r"a\.txt, line 3: the text is not UTF-8"):
        read_text(tmp_path / "a.txt", 100, InputError)


DEEP = outside_files.MAX_JSON_DEPTH


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": Infinity}', "Infinity is not a number"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ('{"a": 1e999}', "'1e999' is too large"),
        ('{"a": ' + "9" * 5000 + "}", "a number has 5000 digits"),
        ('{"a": -' + "9" * 5000 + "}", "a number has 5001 digits"),
        (r'{"a": "\ud800"}', "half of a surrogate pair"),
        (r'{"a\udc00": 1}', "half of a surrogate pair"),
        (r'["\ud800", {"b": ["\udc00"]}]', "half of a surrogate pair"),
        ("[" * 100_000, "nested more than 64 levels"),
        ('{"a":' * 100_000, "nested more than 64 levels"),
        ("[" * (DEEP + 2) + "]" * (DEEP + 2), "nested more than 64 levels"),
        ('{"a": 1}\n{', "line 2, column 1"),
        ("{'a': 1}", "column 2"),
        ('{"a": 1,}', "column 9"),
        ('["a\nb"]', "line 1, column 4"),
        ("", "column 1"),
        ("[" + "0," * outside_files.MAX_JSON_VALUES + "0]", "more than 200,000 values"),
    ],
)
def test_json_that_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        parse_json(text, "it", InputError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_json_that_is_read() -> None:
    for text in (r'["😀", "ä", 1.5e3, -0, 1000000000000000019884624838656]', "[" * DEEP + "]" * DEEP):
        assert parse_json(text, "it", InputError) == json.loads(text)


def test_lines_are_numbered_and_empty_ones_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntwo\rthree")
    assert list(text_lines(tmp_path / "a", InputError)) == [(1, "one"), (4, "two"), (5, "three")]


def test_long_line_and_large_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_files, "MAX_LINE_BYTES", 8)
    (tmp_path / "a").write_text("short\n" + "x" * 100)
    with pytest.raises(InputError, match="line 2 is longer than 8 bytes"):
        list(text_lines(tmp_path / "a", InputError))
    monkeypatch.setattr(outside_files, "MAX_LINES_BYTES", 20)
    with pytest.raises(InputError, match="split it"):
        list(text_lines(tmp_path / "a", InputError))


def test_file_that_changes_while_it_is_hashed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"before")

    def change(count: int) -> None:
        with file.open("ab") as stream:
            stream.write(b"!")

    with pytest.raises(InputError, match="changed while it was read"):
        hash_file(file, InputError, change)


def test_stamp_is_of_the_open_file_and_not_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with open_regular(tmp_path / "a", InputError) as stream:
        before = FileStamp.of(tmp_path / "a")
        (tmp_path / "b").write_bytes(b"new")
        (tmp_path / "b").replace(tmp_path / "a")
        # Linux changes the time of a file that loses its last name
        assert FileStamp.of(stream.fileno()).inode == before.inode != FileStamp.of(tmp_path / "a").inode


@pytest.mark.parametrize("value", ["\x1b[2J" * 100, "a\nb", ["x" * 500], {"\x00": 1}, 10**90, "\ud800"])
def test_shown_values_are_short_and_printable(value: object) -> None:
    assert shown(value).isprintable()
    assert len(shown(value)) <= 90
