"""Reading recipes: YAML, `key=value` overrides, and errors that point at a line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from vcodecs import UserError

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(path: str | Path, overrides: Sequence[str], model: type[Model]) -> Model:
    """Read and check a recipe.

    `overrides` are `dotted.key=value`, the value in YAML. UserError names the line of the file (or
    the override) of every fault and says what is allowed there.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"recipe {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {path}: not UTF-8 text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"recipe {path}{line}: not valid YAML: {problem}") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe {path}: holds no settings (`key: value` lines)")
    _check_no_key_twice(tree, path)
    overridden = {}
    for override in overrides:
        keys, value = _parse(override)
        _set(content, keys, value, override)
        overridden[keys] = override
    content.setdefault("output", f"runs/{path.stem}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_describe(fault, path, tree, overridden, model) for fault in error.errors()]
        raise UserError("\n".join(lines)) from error


def _parse(override: str) -> tuple[tuple[str, ...], Any]:
    key, separator, value = override.partition("=")
    if not separator or not all(key.split(".")):
        raise UserError(f"override {override!r}: write it as dotted.key=value")
    try:
        return tuple(key.split(".")), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML") from error


def _set(content: dict[str, Any], keys: tuple[str, ...], value: Any, override: str) -> None:
    place: Any = content
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(place, list):
            if not key.isdecimal() or int(key) >= len(place):
                raise UserError(
                    f"override {override!r}: {'.'.join(keys[:depth])} is a list of {len(place)} "
                    f"entries, counted from 0; {key!r} is none of them"
                )
            key = int(key)
        elif not isinstance(place, dict):
            raise UserError(f"override {override!r}: {'.'.join(keys[:depth])} has no keys")
        if last:
            place[key] = value
        elif isinstance(place, dict):
            # A section left empty in the file ("prune:") reads as null.
            place[key] = {} if place.get(key) is None else place[key]
            place = place[key]
        else:
            place = place[key]


def _describe(
    fault: Any,
    path: Path,
    tree: yaml.Node,
    overridden: dict[tuple[str, ...], str],
    model: type[BaseModel],
) -> str:
    loc = tuple(str(part) for part in fault["loc"])
    override = next((text for keys, text in overridden.items() if loc[: len(keys)] == keys), None)
    where = f"override {override!r}" if override else f"recipe {path}:{_line(tree, loc)}"
    key = ".".join(loc) or "recipe"
    if fault["type"] == "extra_forbidden":
        allowed = _fields(model, loc[:-1])
        return f"{where}: {key}: no such setting; there are: {', '.join(allowed)}"
    if fault["type"] == "missing":
        return f"{where}: {key}: this setting is needed"
    message = fault["msg"].removeprefix("Value error, ")
    if isinstance(fault.get("input"), str | int | float | None):
        message += f" (it is {fault['input']!r})"
    return f"{where}: {key}: {message}"


def _fields(model: type[BaseModel], loc: tuple[str, ...]) -> list[str]:
    """Names of the settings in the section at `loc`."""
    annotation: Any = model
    for part in loc:
        if part.isdecimal():
            continue
        fields = annotation.model_fields
        field = fields.get(part) or next(f for f in fields.values() if f.alias == part)
        annotation = _section_type(field.annotation)
    return sorted(field.alias or name for name, field in annotation.model_fields.items())


def _section_type(annotation: Any) -> Any:
    """The model class inside list[...], Optional and so on."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _section_type(inner)
        if found is not None:
            return found
    return None


def _line(node: yaml.Node, loc: tuple[str, ...]) -> int:
    """Line of the deepest part of `loc` that the file has, from 1."""
    line = node.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if k.value == part]
            if not pairs:
                return line
            line = pairs[0][0].start_mark.line + 1
            node = pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal():
            if int(part) >= len(node.value):
                return line
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _check_no_key_twice(node: yaml.Node | None, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise UserError(f"recipe {path}:{line}: {key.value}: this key is there twice")
            seen.add(key.value)
            _check_no_key_twice(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_no_key_twice(item, path)
