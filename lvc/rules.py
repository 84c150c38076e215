"""Rules for the values of a JSON object: said key by key, checked before any is used."""

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value fits, and what would."""

LONGEST_TEXT = 256
LARGEST_INTEGER = 2**31 - 1


def check(
    record: Any,
    rules: Mapping[str, Rule],
    others: bool = False,
    optional: Mapping[str, Rule] | None = None,
) -> None:
    """ValueError unless `record` is an object of these keys (with `others`, of these and more;
    `optional` ones may be missing) and every value fits."""
    optional = optional or {}
    if not isinstance(record, dict):
        raise ValueError(f"{reprlib.repr(record)} is not a JSON object")
    if not others and (unknown := record.keys() - rules.keys() - optional.keys()):
        raise ValueError(f"unknown key {reprlib.repr(min(unknown))}")
    if missing := rules.keys() - record.keys():
        raise ValueError(f"missing key {min(missing)!r}")
    there = {key: rule for key, rule in optional.items() if key in record}
    for key, (fits, wanted) in {**rules, **there}.items():
        if not fits(record[key]):
            raise ValueError(f"{key} is {reprlib.repr(record[key])}, not {wanted}")


@contextmanager
def within(where: str) -> Iterator[None]:
    """A ValueError of the block says where in the file it was."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def is_text(value: Any) -> bool:
    """Short and printable: the rest would reach the terminal of whoever looks at a stranger's
    file."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable()


def is_sha256(value: Any) -> bool:
    """Hexadecimal, in lower case."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def is_integer(value: Any, least: int, most: int) -> bool:
    """From `least` to `most`; True, which to isinstance is an int, is none."""
    return type(value) is int and least <= value <= most


def is_count(value: Any) -> bool:
    """From 1 on, within 31 bits."""
    return is_integer(value, 1, LARGEST_INTEGER)


def is_number(value: Any, most: float) -> bool:
    """Finite, at most so far from 0."""
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= most


def one_of(*choices: object) -> Rule:
    """Exactly one of these, type and all."""
    wanted = "one of " + ", ".join(map(repr, choices))
    return lambda value: any(type(value) is type(c) and value == c for c in choices), wanted


TEXT = is_text, f"a string of at most {LONGEST_TEXT} printable characters"
NAME = lambda value: is_text(value) and value != "", f"a name of 1 to {LONGEST_TEXT} characters"
SHA256 = is_sha256, "a SHA-256 of 64 lower-case hex digits"
COUNT = is_count, f"an integer from 1 to {LARGEST_INTEGER}"
OBJECT = lambda value: isinstance(value, dict), "a JSON object"
LIST = lambda value: isinstance(value, list), "a list"
