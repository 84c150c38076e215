"""Reading recipes: YAML, `key=value` overrides, and errors that point at a line."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, PrivateAttr, ValidationError

from vcodecs import UserError

DEEPEST = 20  # keys of an override; no recipe is nested that deep
MOST_FAULTS = 10  # shown of one recipe
LONGEST = 80  # characters of a value or an override in a message

Keys = tuple[str, ...]


@dataclass
class Origin:
    """Where the settings of a recipe were written: lines of a file, and overrides by key."""

    path: Path
    tree: yaml.Node
    overrides: dict[Keys, str] = field(default_factory=dict)

    def where(self, keys: Keys) -> str:
        """`recipe FILE:LINE` or the override that set the setting, or a part of it."""
        for set_here, text in reversed(self.overrides.items()):
            shorter = min(len(set_here), len(keys))
            if keys and keys[:shorter] == set_here[:shorter]:
                return f"override {_short(text)!r}"
        return f"recipe {self.path}:{_line(self.tree, keys)}"


class Located(BaseModel):
    """A recipe that knows where its settings were written."""

    _origin: Origin | None = PrivateAttr(None)

    def at(self, key: str) -> str:
        """A message's beginning about the dotted `key`: its place in the file, and its name."""
        where = self._origin and self._origin.where(tuple(key.split(".")))
        return f"{where}: {key}" if where else key

    @contextmanager
    def blame(self, key: str) -> Iterator[None]:
        """Let a UserError raised within name the setting that it is about."""
        try:
            yield
        except UserError as error:
            message = str(error).removeprefix(f"{key} ")
            raise UserError(f"{self.at(key)}: {message}") from error


Model = TypeVar("Model", bound=Located)


def load_recipe(path: str | Path, overrides: Sequence[str], model: type[Model]) -> Model:
    """Read and check a recipe: a file, or one that leanvc brings along, by its name (`dcvc`).

    `overrides` are `dotted.key=value`, the value in YAML; of two for one key the last holds.
    UserError has a line for every fault, which names the line of the file or the override, the
    setting, its value and what is allowed there.
    """
    path = find_recipe(path)
    origin, content = _read(path)
    for override in overrides:
        keys, value = _parse(override)
        content = _with(_opened(content, keys, model), keys, value, override)
        origin.overrides.pop(keys, None)
        origin.overrides[keys] = override
    if content.get("output") is None:
        content["output"] = f"runs/{path.stem}"
    try:
        recipe = model.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
        lines = [_describe(fault, origin, model) for fault in faults[:MOST_FAULTS]]
        if len(faults) > MOST_FAULTS:
            lines.append(f"recipe {path}: {len(faults) - MOST_FAULTS} more faults")
        raise UserError("\n".join(lines)) from error
    recipe._origin = origin
    return recipe


def find_recipe(path: str | Path) -> Path:
    """The file itself, or for a name such as `dcvc` or `paper/dcvc` that of the packaged recipe."""
    path = Path(path)
    if path.is_file() or path.suffix or path.is_absolute() or ".." in path.parts:
        return path
    packaged = Path(str(files("leanvc.recipes"))) / f"{path}.yaml"
    return packaged if packaged.is_file() else path


# ---------------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """Plain values as YAML 1.2 has them: `no` is a word, 1e-4 a number, 1:30 and dates are text."""

    yaml_implicit_resolvers: ClassVar[dict] = {}  # type: ignore[misc]  # theirs is of the class too

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            problem = f"{_shown(node.value)} is no value of {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(None, None, problem, node.start_mark) from error


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


def _read(path: Path) -> tuple[Origin, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"recipe {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {path}: not UTF-8 text") from error
    try:
        tree, content = _parse_yaml(text)
    except yaml.YAMLError as error:
        line, problem = _problem(error, text)
        raise UserError(f"recipe {path}:{line}: {problem}") from error
    if tree is None or not isinstance(content, dict):
        raise UserError(f"recipe {path}:1: holds no settings (`key: value` lines)")
    return Origin(path, tree), content


def _parse_yaml(text: str) -> tuple[yaml.Node | None, Any]:
    """The tree with its line numbers, and the content. Every fault is a yaml.YAMLError."""
    try:
        loader = _Loader(text)
        tree = loader.get_single_node()
        if tree is None:
            return None, None
        _check(tree, set(), set())
        return tree, loader.construct_document(tree)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error


def _check(node: yaml.Node, done: set[int], above: set[int]) -> None:
    """Refuse what YAML allows and no recipe means: keys given twice, and odd keys, and loops."""
    if id(node) in above:
        raise yaml.MarkedYAMLError(None, None, "an alias within its own anchor", node.start_mark)
    if id(node) in done or isinstance(node, yaml.ScalarNode):
        return
    done.add(id(node))
    children = node.value
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise yaml.MarkedYAMLError(None, None, "a key has to be a name", key.start_mark)
            if key.value in seen:
                problem = f"{_named((key.value,))}: this key is there twice"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            if key.value == "<<" and isinstance(value, yaml.SequenceNode):
                # Merging several multiplies: a few lines can then ask for millions of settings.
                raise yaml.MarkedYAMLError(None, None, "<< takes one alias", key.start_mark)
            seen.add(key.value)
        children = [value for _, value in node.value]
    for child in children:
        _check(child, done, above | {id(node)})


def _problem(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    """The line, from 1, and what is wrong there, in one line."""
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1, "not valid YAML: an unprintable character"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    # Faults found by the parser itself are worded for those who know YAML's grammar.
    prefix = "not valid YAML: " if type(error) is not yaml.MarkedYAMLError else ""
    return (mark.line + 1 if mark else 1), f"{prefix}{problem}{f' ({context})' if context else ''}"


def _line(node: yaml.Node, keys: Keys) -> int:
    """Line of the deepest part of `keys` that the file has, from 1."""
    line = node.start_mark.line + 1
    for part in keys:
        if isinstance(node, yaml.MappingNode):
            # Of a key that is merged in as well, the last is the file's own.
            pairs = [(k, v) for k, v in node.value if k.value == part]
            if not pairs:
                return line
            line = pairs[-1][0].start_mark.line + 1
            node = pairs[-1][1]
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal():
            if int(part) >= len(node.value):
                return line
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            return line
    return line


# ---------------------------------------------------------------------- overrides


def _parse(override: str) -> tuple[Keys, Any]:
    key, separator, value = override.partition("=")
    keys = tuple(key.split("."))
    if not separator or not all(keys) or len(keys) > DEEPEST:
        raise UserError(f"override {_short(override)!r}: write it as dotted.key=value")
    try:
        return keys, _parse_yaml(value)[1]
    except yaml.YAMLError as error:
        _, problem = _problem(error, value)
        raise UserError(f"override {_short(override)!r}: {_named(keys)}: {problem}") from error


def _opened(content: dict[str, Any], keys: Keys, model: type[BaseModel]) -> dict[str, Any]:
    """The content without plain values where a key inside is set and a section may stand too.

    `prune.budget` is one: a number, or a section in its place.
    """
    for depth in range(1, len(keys)):
        place: Any = content
        for part in keys[:depth]:
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, int | float | str) and _may_be_section(model, keys[:depth]):
            return _with(content, keys[:depth], None, ".".join(keys))
    return content


def _may_be_section(model: type[BaseModel], keys: Keys) -> bool:
    """Whether the setting is a plain value or a section."""
    section: Any = model
    for part in keys[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = field and _section_type(field.annotation)
    field = getattr(section, "model_fields", {}).get(keys[-1])
    annotation = field and field.annotation
    if get_origin(annotation) not in (Union, UnionType):
        return False
    kinds = get_args(annotation)
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


def _with(place: Any, keys: Keys, value: Any, override: str, depth: int = 0) -> Any:
    """`place` with the value set; copied on the way, as anchors may share it with other places."""
    if depth == len(keys):
        return value
    key, here = keys[depth], _named(keys[:depth])
    if isinstance(place, list):
        index = int(key) if key.isdecimal() and len(key) < 10 else len(place)
        if index >= len(place):
            raise UserError(
                f"override {_short(override)!r}: {here} is a list of {len(place)} entries, "
                f"counted from 0; {_short(key)!r} is none of them"
            )
        changed = _with(place[index], keys, value, override, depth + 1)
        return [*place[:index], changed, *place[index + 1 :]]
    # A section left empty in the file ("prune:") reads as null.
    place = {} if place is None else place
    if not isinstance(place, dict):
        raise UserError(f"override {_short(override)!r}: {here} is {_shown(place)} and has no keys")
    return {**place, key: _with(place.get(key), keys, value, override, depth + 1)}


# ---------------------------------------------------------------------- faults


def _describe(fault: Any, origin: Origin, model: type[BaseModel]) -> str:
    keys = tuple(str(part) for part in fault["loc"])
    start = f"{origin.where(keys)}: {_named(keys) or 'recipe'}"
    if fault["type"] == "extra_forbidden":
        allowed = _fields(model, keys[:-1])
        near = difflib.get_close_matches(keys[-1], allowed, 1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        return f"{start}: no such setting{guess}; there are: {', '.join(allowed)}"
    if fault["type"] == "missing":
        return f"{start}: this setting is needed"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "model_type":
        message = f"a section is expected, with settings of {', '.join(_fields(model, keys))}"
    return f"{start}: {message} (it is {_shown(fault.get('input'))})"


def _fields(model: type[BaseModel], keys: Keys) -> list[str]:
    """Names of the settings in the section at `keys`."""
    section: Any = model
    for part in keys:
        if not part.isdecimal():
            named = {f.alias or name: f for name, f in section.model_fields.items()}
            section = _section_type(named[part].annotation)
    return sorted(field.alias or name for name, field in section.model_fields.items())


def _section_type(annotation: Any) -> Any:
    """The model class inside list[...], Optional and so on."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_section_type(part) for part in getattr(annotation, "__args__", ()))
    return next((found for found in inner if found is not None), None)


def _shown(value: Any) -> str:
    """A value as one would write it in a recipe, in at most `LONGEST` characters."""
    if isinstance(value, dict | list):
        return f"a {'section' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = _escaped(json.dumps(value, default=str, ensure_ascii=False))
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _named(keys: Keys) -> str:
    return _short(_escaped(".".join(keys)))


def _escaped(text: str) -> str:
    """`text` without line breaks and other characters that would tear a message apart."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
