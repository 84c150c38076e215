"""Recipes: what a run shall do, checked before anything heavy starts."""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from lvc.pictures import SIZE_MULTIPLE
from lvc.runtimes import Runtime
from prune.data import SourceSpec
from prune.evaluation.coding_loop import Bits
from prune.measure.torch_ways import Spelling
from prune.recipe.reading import Located
from prune.training.precision import Precision
from vcodecs.deform import Operator


def _as_list(value: Any) -> Any:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


Side = Annotated[int, Field(ge=64, le=8192)]
"""Height or width of frames in pixels."""

Sources = Annotated[list[SourceSpec], BeforeValidator(_as_list), Field(min_length=1)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", populate_by_name=True, frozen=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None  # it is the validator of fields
        kind = cls.model_fields[info.field_name].annotation
        if value is None and isinstance(kind, type) and issubclass(kind, BaseModel):
            return {}  # a section whose lines are all commented out
        if isinstance(value, bool) and kind is not bool:
            raise ValueError("true and false stand for no number, word or section here")
        return value


def _as_lagrangian(value: Any) -> Any:
    """A number above 0, or a list of such."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, bool) or not isinstance(one, int | float):
            raise ValueError("a number above 0 is expected, or a list of them")
        if not 0 < one < math.inf:
            raise ValueError("it has to be finite and greater than 0")
    return [float(one) for one in value] if isinstance(value, list) else float(value)


Lagrangian = Annotated[float | list[float], PlainValidator(_as_lagrangian)]


class CheckpointSection(Section):
    """Weights to start from. A bare string stands for a `path`."""

    path: str = Field(description="file, or the name of bundled weights")
    key: str | None = Field(None, description="which weights, where a file has several: params_ema")

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _as_written_without_key(self, handler: SerializerFunctionWrapHandler) -> Any:
        # A run that was begun before there were keys goes on: what it was made from is the same.
        return self.path if self.key is None else handler(self)


class CodecSection(Section):
    name: str
    preset: str = "official"
    checkpoint: CheckpointSection | None = None
    lagrangian: Lagrangian = Field(
        1024.0, alias="lambda", description="of lambda * MSE + bpp; one for each rate point"
    )


class DataSection(Section):
    train: Sources
    eval: Sources
    crop: int = Field(128, ge=64, le=2048, multiple_of=SIZE_MULTIPLE, description="pixels, squared")
    batch: int = Field(4, ge=1, le=4096)
    workers: int = Field(1, ge=0, le=256)
    held_back: int = Field(
        0, ge=0, le=1000, description="training clips that only the score is taken on"
    )


HOW = frozenset(
    (
        "checkpoint_seconds",
        "keep_checkpoints",
        "accumulate",
        "recompute",
        "compile",
        "skips",
        "tensorboard",
    )
)
"""Keys of a training that say how it is computed: they change its result by rounding alone."""


class PhaseSpec(Section):
    """One phase of training: a stage of the codec with its numbers."""

    stage: str
    steps: int = Field(ge=1, le=10**9)
    learning_rate: float = Field(1e-4, gt=0, le=1)
    final_rate: float = Field(0.05, ge=0, le=1, description="at the end, part of learning_rate")
    frames: int | None = Field(None, ge=1, le=32, description="P frames unrolled")
    batch: int | None = Field(None, ge=1, le=4096)
    crop: int | None = Field(None, ge=64, le=2048, multiple_of=SIZE_MULTIPLE)


class TrainSection(Section):
    phases: list[PhaseSpec]
    clip_norm: float = Field(1.0, gt=0)
    intra: str | None = Field(None, description="codes the clips' first frames, as evaluate.intra")
    intra_noise: float = Field(0.02, ge=0, le=0.2, description="on those frames, without `intra`")
    precision: Precision = Field("auto", description="bf16 where the device is fast at it")
    device: Literal["auto", "cpu"] = "auto"
    checkpoint_seconds: float = Field(30.0, gt=0)
    keep_checkpoints: int = Field(2, ge=1, le=1000, description="newest states that stay on disk")
    accumulate: int = Field(
        1, ge=1, le=4096, description="parts that a batch goes through the codec in"
    )
    recompute: bool = Field(False, description="less memory, more time: frames coded twice")
    compile: bool = Field(False, description="torch.compile, where nothing trains along")
    skips: int = Field(
        3, ge=1, le=10**6, description="steps in a row without a finite loss that end it"
    )
    tensorboard: bool = Field(False, description="write to output/tensorboard what it shows")
    average: float | None = Field(
        None, gt=0, lt=1, description="decay of averaged weights, which are then what is left"
    )
    validate_every: int | None = Field(
        None, ge=1, description="steps between two scores on data.held_back clips"
    )


class BetaSection(Section):
    """Anneals the gradient-decay factor from `start` to `end` over the middle of the run."""

    start: float = Field(1.0, ge=0, le=1)
    end: float = Field(0.0, ge=0, le=1)
    shape: Literal["linear", "cosine"] = "cosine"
    begin: float = Field(0.1, ge=0, le=1, description="part of the steps done when it starts")
    finish: float = Field(0.9, ge=0, le=1, description="part of the steps done when it ends")

    @model_validator(mode="after")
    def _in_order(self) -> "BetaSection":
        if self.begin >= self.finish:
            raise ValueError(f"begin {self.begin:g} has to be less than finish {self.finish:g}")
        return self


class TimeBudget(Section):
    """A budget in time: of the decoder's networks, for one P frame at measure.latency_height and
    latency_width, with measure.threads."""

    latency: float | None = Field(None, gt=0, le=1, description="part of the dense decoder's time")
    latency_ms: float | None = Field(None, gt=0, description="in its place: milliseconds")
    runtime: Runtime = "onnxruntime"
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _one_of_both(self) -> "TimeBudget":
        if (self.latency is None) == (self.latency_ms is None):
            raise ValueError("set latency (a part, 0 to 1) or latency_ms, one of them")
        return self


_Part = TypeAdapter(Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)])


def _as_budget(value: Any) -> Any:
    """A number in (0, 1], or a budget in time."""
    if isinstance(value, dict | TimeBudget):
        return TimeBudget.model_validate(value)
    return _Part.validate_python(value)


def _budget_as_plain(budget: Any) -> Any:
    return budget.model_dump() if isinstance(budget, TimeBudget) else budget


Budget = Annotated[
    float | TimeBudget, PlainValidator(_as_budget), PlainSerializer(_budget_as_plain)
]


def budget_words(budget: Budget) -> str:
    """A budget as one says it."""
    if not isinstance(budget, TimeBudget):
        return f"{budget:g}"
    key, value = ("latency", budget.latency) if budget.latency else ("ms", budget.latency_ms)
    return f"{key} {value:g} on {budget.runtime} {budget.precision}"


class PruneSection(Section):
    method: Literal["gradient-decay", "straight-through", "mask-decay", "one-shot"] = (
        "gradient-decay"
    )
    budget: Budget = Field(
        0.35, description="decoder MACs kept, of the dense ones; or a section, its time"
    )
    scores: Literal["loss", "norm"] = Field(
        "loss", description="channels go by what the loss misses with them, or by weights' norms"
    )
    score_batches: int = Field(
        32, ge=1, le=10**6, description="training batches that scores by loss begin with"
    )
    align: int = Field(8, ge=1, le=64, description="channel counts are multiples of this")
    floor: float = Field(0.1, ge=0, lt=1, description="least part of a group's channels")
    beta: BetaSection = BetaSection()
    ramp: float = Field(0.6, gt=0, le=1, description="part of the steps to reach the budget in")
    temperature: float = Field(
        0.3, gt=0, description="with scores by norm: width of the soft gate, in deviations"
    )
    threshold_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="with scores by norm: thresholds' learning rate; by the steps where absent",
    )


class LargerTeacher(Section):
    """Another codec of the same family to learn from. A bare string stands for a `checkpoint`."""

    checkpoint: CheckpointSection
    preset: str | None = Field(None, description="that of the checkpoint where absent")

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"checkpoint": value} if isinstance(value, str) else value


class DistillSection(Section):
    source: Literal["local", "network", "none"] = "local"
    teacher: LargerTeacher | None = Field(
        None, description="in place of the dense codec: of other widths, features adapted"
    )
    weight: float = Field(1.0, ge=0)
    adaptive: bool = True
    momentum: float = Field(0.9, ge=0, lt=1, description="of the running distortions")

    @model_validator(mode="after")
    def _by_its_own_run(self) -> "DistillSection":
        if self.teacher and self.source != "network":
            raise ValueError(
                "a teacher of other widths cannot be fed with the student's features: set source: "
                "network"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before_there_were_teachers(self, handler: SerializerFunctionWrapHandler) -> Any:
        # A run that was begun before there were others goes on: it is made from the same.
        written = handler(self)
        if self.teacher is None:
            written.pop("teacher", None)
        return written


class EvaluateSection(Section):
    frames: int = Field(9, ge=2, description="a clip, the I frame included")
    gop: int = Field(9, ge=2, description="intra period in frames")
    clips: int | None = Field(None, ge=1, description="at most so many clips")
    intra: str = "hevc:qp=22"
    bits: Bits = Field("real", description="of P frames: entropy-coded, or estimates")
    pictures: int = Field(3, ge=0, description="clips whose frames the report shows")
    anchors: list[Literal["h264", "hevc", "av1"]] = Field(
        ["h264", "hevc"], description="conventional codecs beside them; [] for none"
    )


class ExportSection(Section):
    dynamic: bool = Field(True, description="any frame size by 64, or just `height` x `width`")
    height: Side = 256
    width: Side = 448
    precision: Literal["fp32", "int8"] = Field(
        "fp32", description="int8: of the pruned codec also graphs of 8 bits, in the bundle's int8"
    )
    deformable: Operator = Field(
        "DeformConv", description="of deformable convolutions; GridSample where a runtime lacks it"
    )


class MeasureSection(Section):
    height: Side = Field(1088, description="of the MACs")
    width: Side = 1920
    latency_height: Side = 256
    latency_width: Side = 448
    runs: int = Field(15, ge=1, description="timed runs of each model, interleaved")
    threads: int | None = Field(None, ge=1, le=1024, description="the machine's cores where absent")
    torch: list[Spelling] = Field(
        ["eager"], description="rows of torch: as `compiled`, `channels-last bf16`; [] for none"
    )

    def cores(self) -> int:
        """`threads`, or the machine's cores."""
        return self.threads or os.cpu_count() or 1


class TeacherRecipe(Section, Located):
    """Trains a dense codec: `python -m prune.train`."""

    codec: CodecSection
    data: DataSection
    train: TrainSection
    evaluate: EvaluateSection = EvaluateSection()
    seed: int = Field(0, ge=0, lt=2**32)
    output: Path

    @model_validator(mode="before")
    @classmethod
    def _with_output(cls, content: Any) -> Any:
        """A recipe made in Python goes to runs/CODEC; that of a file is named after the file."""
        if isinstance(content, dict) and content.get("output") is None:
            codec = content.get("codec")
            name = codec.get("name") if isinstance(codec, dict) else getattr(codec, "name", None)
            content = content | {"output": Path("runs") / Path(str(name)).stem}
        return content


class Recipe(TeacherRecipe):
    """The whole run: sparsify, shrink, fine-tune, evaluate, export, measure, report."""

    prune: PruneSection = PruneSection()
    distill: DistillSection = DistillSection()
    finetune: TrainSection
    export: ExportSection = ExportSection()
    measure: MeasureSection = MeasureSection()
