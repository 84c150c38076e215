"""report.json, schema 1: what a run measured, dense against sparse.

The field names and their nesting are fixed, since other tools read them. A field without a default
is always in the file; one that could not be measured is null with the reason in `why` beside it.
Fields with a default are additions that a reader may ignore; those that are None stay out.
"""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from prune.report.part import Count, Name, Part, Positive, Sample

SCHEMA = 1
REPORT_NAME = "report.json"

# Largest relative deviation that passes for "the same codec": masked against shrunk, and torch
# against onnxruntime.
PARITY_TOLERANCE = {"masked_vs_shrunk": 1e-5, "torch_vs_onnx": 1e-4}


Rate = int | float | None


class Pair(Part):
    """A count, dense and sparse."""

    dense: Count | None
    sparse: Count | None


class DecoderMacs(Pair):
    """MACs per frame at the receiver; `reduction` is the share cut, 1 - sparse / dense, 0 to 1."""

    reduction: Annotated[float, Field(le=1)] | None
    by_module: dict[str, Pair]


class MacCounts(Part):
    """MACs of one P frame of `height` x `width`; `onnx` counts the exported decoder's graphs."""

    unit: Literal["MAC"]
    height: Count
    width: Count
    decoder: DecoderMacs
    encoder: Pair
    onnx: Pair | None = None


class ParameterCounts(Part):
    decoder: Pair
    total: Pair


class Quantiles(Part):
    """The median of the runs and their 10th and 90th percentiles."""

    median: Positive
    p10: Positive
    p90: Positive


class GraphTime(Part):
    """Milliseconds of one decoder graph."""

    name: str
    dense_ms: Positive | None
    sparse_ms: Positive | None


class Latency(Part):
    """Decoder time per frame in ms; `speedup` is the paired, interleaved ratio dense / sparse."""

    runtime: str
    provider: str
    threads: Count | None
    precision: str
    height: Count
    width: Count
    runs: Count
    dense_ms: Quantiles | None
    sparse_ms: Quantiles | None
    speedup: Quantiles | None
    device: str
    breakdown: list[GraphTime] = Field(default_factory=list)


class Prediction(Part):
    """A budget in time: what the times of single layers add up to, in ms, beside what the decoders
    took then (medians of the row of `latency` with the same runtime)."""

    runtime: str
    precision: str
    threads: Count
    height: Count
    width: Count
    dense_ms: Positive
    sparse_ms: Positive
    measured_dense_ms: Positive | None
    measured_sparse_ms: Positive | None


class MeasuredPoint(Part):
    """Bits per pixel, and RGB-PSNR in dB and MS-SSIM (0 to 1) of the decoded frames."""

    bpp: Positive | None
    psnr: float | None
    ms_ssim: float | None


class RatePoint(Part):
    """The averages over all clips at one rate point (null: a codec of one fixed lambda)."""

    answers_null = frozenset({"rate"})

    rate: Rate
    dense: MeasuredPoint
    sparse: MeasuredPoint


class RateClip(RatePoint):
    """One clip at one rate point: `psnr_lost_db` dense - sparse, `bpp_gained` sparse - dense."""

    clip: Name
    psnr_lost_db: float | None
    bpp_gained: float | None


class AnchorPoint(Part):
    """A conventional codec on the same clips, averaged."""

    codec: str
    qp: Count | None = None
    bpp: Positive
    psnr: float


class Quality(Part):
    """Rate and distortion on one data set; BD-PSNR below 0 and BD-rate above 0 are losses.

    `bits`: of P frames; earlier reports, with estimates, do not say.
    """

    dataset: Name
    clips: Count
    frames: Count
    intra: str
    bits: Literal["real", "estimated"] | None = None
    points: list[RatePoint]
    bd_psnr_db: float | None
    bd_rate_percent: float | None
    clips_detail: list[RateClip] = Field(default_factory=list)
    anchors: list[AnchorPoint] | None = None


class Parity(Part):
    """Largest relative deviations between what must be the same codec.

    `decoded_frames`: how many frames that torch coded the bundles decoded, to the same symbols;
    absent for a codec without real bits.
    """

    masked_vs_shrunk: Positive | None
    torch_vs_onnx: Positive | None
    decoded_frames: Count | None = None


class Environment(Part):
    answers_null = frozenset({"gpu"})

    python: str | None
    torch: str | None
    cpu: str | None
    gpu: str | None
    leanvc: str | None
    commit: str | None


class TrainingCurve(Part):
    """One training stage: a value per logged step, null where it was not logged, or no values.

    `keep` and `budget` are shares of the dense decoder's MACs, 0 to 1; so is `beta`, the
    gradient-decay factor; `psnr` in dB, `bpp` in bits per pixel.
    """

    stage: str
    step: list[Count]
    loss: list[Sample] = Field(default_factory=list)
    bpp: list[Sample] = Field(default_factory=list)
    psnr: list[Sample] = Field(default_factory=list)
    beta: list[Sample] = Field(default_factory=list)
    keep: list[Sample] = Field(default_factory=list)
    budget: list[Sample] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_value_per_step(self) -> "TrainingCurve":
        for name in ("loss", "bpp", "psnr", "beta", "keep", "budget"):
            if len(getattr(self, name)) not in (0, len(self.step)):
                raise PydanticCustomError(
                    "curve_length",
                    "{name} has {got} values for {steps} steps",
                    {"name": name, "got": len(getattr(self, name)), "steps": len(self.step)},
                )
        return self


class GroupWidth(Part):
    """Channels that can only be removed together, and the layers they run through."""

    name: str
    layers: list[str]
    dense: Count
    sparse: Count


class ChannelWidths(Part):
    groups: list[GroupWidth]
    by_layer: dict[str, Pair] = Field(default_factory=dict)


class Report(Part):
    """A whole report. An empty `latency` or `quality` needs its reason in `why`."""

    schema_: Literal[1] = Field(alias="schema")
    codec: str
    preset: str
    created: str
    recipe: dict[str, JsonValue]
    macs: MacCounts
    parameters: ParameterCounts
    latency: list[Latency]
    quality: list[Quality]
    parity: Parity
    environment: Environment
    training: list[TrainingCurve] = Field(default_factory=list)
    channels: ChannelWidths | None = None
    prediction: Prediction | None = None
    warnings: list[Name] = Field(default_factory=list)
    times: dict[str, Positive] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _well_formed(self) -> "Report":
        try:
            datetime.fromisoformat(self.created)
        except ValueError:
            raise PydanticCustomError("created", "created is not an ISO-8601 time") from None
        for name in ("latency", "quality"):
            if not getattr(self, name) and not self.reason(name):
                raise PydanticCustomError(
                    "empty_without_why",
                    "{name} is empty and no why says the reason",
                    {"name": name},
                )
        return self

    def setting(self, section: str, key: str) -> JsonValue:
        """The recipe's `key` in its `section`, or None where it has none."""
        part = self.recipe.get(section)
        return part.get(key) if isinstance(part, dict) else None

    def to_json(self) -> str:
        """The text of report.json; lists of numbers stand on one line."""
        text = json.dumps(self.model_dump(by_alias=True), indent=2, ensure_ascii=False)
        # A raw newline never stands inside a JSON string, so only lists of scalars can match.
        return (
            re.sub(
                r'\[\n\s+([^"\[\]{}]*?)\n\s+\]',
                lambda match: "[" + re.sub(r"\s*\n\s*", " ", match[1]) + "]",
                text,
            )
            + "\n"
        )


def load_report(path: str | Path) -> Report:
    """Read a report from its file or from the run folder that holds it.

    Errors: UserError naming the file, and the field where one is at fault, when there is no report,
    it is not JSON, it is of another schema, or a field is missing, unknown or out of range.
    """
    path = Path(path)
    if path.is_dir():
        path = path / REPORT_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _refuse(f"{path}: there is no report here; give a run folder or its {REPORT_NAME}")
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        _refuse(f"{path}: cannot be read as a report ({error})")
    except json.JSONDecodeError as error:
        _refuse(f"{path}: line {error.lineno} is not JSON ({error.msg}); write the report again")
    if not isinstance(content, dict) or "schema" not in content:
        _refuse(f"{path}: is not a leanvc report: the field schema is missing")
    if content["schema"] != SCHEMA:
        _refuse(
            f"{path}: schema {content['schema']!r} is not known, this version reads schema "
            f"{SCHEMA}; read it with the leanvc version that wrote it"
        )
    try:
        return Report.model_validate(content, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        place = ".".join(str(step) for step in faults[0]["loc"]) or "the report"
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        _refuse(f"{path}: {place}: {faults[0]['msg']}{more}")


def _refuse(message: str) -> NoReturn:
    # Imported late: vcodecs loads torch, which a reader of reports would wait seconds for.
    from lvc.errors import UserError

    raise UserError(message)
