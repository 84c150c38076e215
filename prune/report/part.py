"""Objects of the report in which every null says why: nothing is left out and nothing invented."""

import math
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError


def _printable(value: object) -> object:
    # File names that are not UTF-8 reach Python as lone surrogates, which no JSON file can hold.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _gap(value: object) -> object:
    # A loss that diverged is a gap in a curve, not a reason to lose the whole report.
    return None if isinstance(value, float) and not math.isfinite(value) else value


Name = Annotated[str, BeforeValidator(_printable)]
Sample = Annotated[float | None, BeforeValidator(_gap)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(ge=0)]


class Part(BaseModel):
    """One object of the report; `why` has the reason of each null by field, or one for all.

    By field, `why` may also say what a value that is there must be read with.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    # Fields where null is an answer in itself: it needs no reason.
    answers_null: ClassVar[frozenset[str]] = frozenset()

    why: dict[str, str] | str | None = None

    def reason(self, field: str) -> str | None:
        """Why `field` is null, or None where no reason is given."""
        return self.why.get(field) if isinstance(self.why, dict) else self.why

    @model_validator(mode="after")
    def _null_has_a_reason(self) -> "Part":
        for name, field in type(self).model_fields.items():
            required = field.is_required() and name not in self.answers_null
            if required and getattr(self, name) is None and not self.reason(name):
                raise PydanticCustomError(
                    "null_without_why", "{name} is null and no why says the reason", {"name": name}
                )
        return self

    @model_serializer(mode="wrap")
    def _without_unused_additions(self, handler: Any) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            name: value
            for name, value in handler(self).items()
            if value is not None or fields[name].is_required()
        }
