"""What keys do, and how a terminal sends them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from latido.top.view import Sort, View, keys, press


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA\x1bOH", ["up", "home"]),  # application cursor keys
        (b"\x1b[5~\x1b[6~\x1b[1~\x1b[4~", ["page up", "page down", "home", "end"]),
        (b"\r\x7f", ["enter", "backspace"]),
        ("ñ日".encode(), ["ñ", "日"]),
        (b"\x1b[200~", []),  # bracketed paste: not known
        (b"\x01\x00a\xff", ["a"]),
        (b"\x1bq", ["escape", "q"]),
    ],
)
def test_keys_are_known_however_they_are_split(sent: bytes, expected: list[str]) -> None:
    assert expected == keys(sent, final=True)[0]
    for at in range(1, len(sent)):
        first, rest = keys(sent[:at])
        second, _ = keys(rest + sent[at:], final=True)
        assert expected == first + second


def test_an_escape_that_nothing_follows_is_the_key() -> None:
    assert ([], b"\x1b") == keys(b"\x1b")
    assert (["escape"], b"") == keys(b"\x1b", final=True)


def test_an_endless_sequence_is_not_kept() -> None:
    assert b"" == keys(b"\x1b[" + b"1" * 1000)[1]


def after(view: View, *pressed: str, lines: int = 30) -> View:
    for key in pressed:
        view = press(view, key, [f"host-{number}" for number in range(lines)], 10)
    return view


def test_the_cursor_stays_in_the_table() -> None:
    assert 0 == after(View(), "up").cursor
    assert 2 == after(View(), "down", "down").cursor
    assert 29 == after(View(), *["page down"] * 9).cursor
    assert 29 == after(View(), "end", "down").cursor
    assert 0 == after(View(), "end", "home").cursor
    assert 0 == after(View(), "down", lines=0).cursor


def test_a_sort_key_again_turns_the_order() -> None:
    assert (Sort.RSS, False) == (after(View(), "M").sort, after(View(), "M").reverse)
    assert after(View(), "M", "M").reverse
    assert not after(View(), "M", "M", "M").reverse
    assert not after(View(reverse=True), "M").reverse


def test_enter_goes_to_the_marked_host_and_escape_back() -> None:
    there = after(View(filter="host"), "down", "enter")
    assert ("host-1", "") == (there.host, there.filter)
    assert after(there, "escape").host is None
    assert after(View(), "enter", lines=0).host is None


def test_a_host_of_the_command_line_is_not_left() -> None:
    assert "web-1" == after(View(host="web-1", fixed=True), "escape", "left").host


def test_a_filter_is_typed_with_any_key_and_ended_by_escape() -> None:
    typing = after(View(cursor=5), "/", "q", "M", "x", "backspace", "up")
    assert replace(View(), typing=True, filter="qM") == typing
    assert ("qM", False) == (after(typing, "enter").filter, after(typing, "enter").typing)
    assert View() == after(typing, "escape")
    assert View() == after(after(typing, "enter"), "escape")
    assert 64 == len(after(typing, *["a"] * 100).filter)


def test_help_is_left_by_any_key() -> None:
    assert after(View(), "?").help
    assert View() == after(View(), "h", "x")
    assert after(View(), "q").done
    assert after(View(), "?", "q").done
