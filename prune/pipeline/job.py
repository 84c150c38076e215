"""A recipe turned into what the steps work with, checked before anything heavy starts."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vcodecs
from distill import common_taps
from lvc.encoders import check_encoder
from prune.data import Source, SourceSpec, check_sources, open_source
from prune.data.source import too_small
from prune.groups.channels import Channels
from prune.groups.find import find_groups
from prune.measure.layer_times import layer_times
from prune.pipeline.training import phases_of, settings_of
from prune.recipe.schema import Recipe
from prune.sparsify.budget import Times, cost_of
from prune.sparsify.cost import CostModel
from prune.sparsify.selection import by_losses, by_magnitude
from prune.sparsify.time_cost import TimeCost
from prune.training.processes import Processes
from prune.training.settings import TrainerSettings
from vcodecs import UserError, VideoCodec, checkpoints
from vcodecs.intra import IntraCodec, create_intra
from vcodecs.registry import codec_class, preset_of


class Job:
    """The parts of a run: codec, data, channel groups; each is made when it is asked for.

    `base` is the recipe file's folder. With `on_shapes` the codec has no weights, which is enough
    to find its channel groups, and to count. UserErrors name the setting that is at fault.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: Path,
        processes: Processes | None = None,
        on_shapes: bool = False,
    ) -> None:
        self.on_shapes = on_shapes
        self.recipe, self.base, self.processes = recipe, base, processes or Processes()
        self.warnings: list[str] = []
        self.times: Times = lambda setting: layer_times(setting)
        """Where times of layers come from, for a budget in time."""
        self._settings: dict[str, TrainerSettings] = {}

    def check(self) -> None:
        """Everything that could stop the run later stops it here."""
        output = self.recipe.output
        if output.exists() and not output.is_dir():
            raise UserError(f"{self.recipe.at('output')}: {output} is a file")
        self.teacher  # noqa: B018
        self.larger_teacher  # noqa: B018
        self._check_training()
        self._check_evaluation()
        self.one_shot()

    # ------------------------------------------------------------------ codec

    @cached_property
    def preset(self) -> str:
        """The recipe's preset; where it names none, that of the checkpoint or the codec's own."""
        section = self.recipe.codec
        if "preset" in section.model_fields_set:
            return section.preset
        path = section.checkpoint.path if section.checkpoint else None
        with self.recipe.blame("codec.checkpoint"):
            return preset_of(section.name, path, self.base)

    @cached_property
    def teacher(self) -> VideoCodec:
        """The dense codec."""
        section, blame = self.recipe.codec, self.recipe.blame
        torch.manual_seed(self.recipe.seed)
        with blame("codec.name"):
            codec_class(section.name, self.base)
        with blame("codec.preset"):
            if self.on_shapes:
                return self._without_weights()
            codec = vcodecs.create(section.name, self.preset, base=self.base)
        if section.checkpoint is not None:
            with blame("codec.checkpoint"):
                checkpoints.load_into(codec, section.checkpoint.path, section.checkpoint.key)
        else:
            self.warnings.append(
                f"codec.checkpoint is not set: {section.name} ({self.preset}) starts from "
                f"weights drawn with seed {self.recipe.seed}; its quality figures mean nothing"
            )
        return codec.eval()

    @cached_property
    def larger_teacher(self) -> VideoCodec | None:
        """The codec of the same family that distillation takes in place of the dense one."""
        section = self.recipe.distill.teacher
        if section is None:
            return None
        path, key = section.checkpoint.path, section.checkpoint.key
        with self.recipe.blame("distill.teacher"):
            codec = vcodecs.create(self.teacher.name, section.preset, path, self.base, key).eval()
            if codec.rates() != self.teacher.rates():
                raise UserError(
                    f"{path} has {len(codec.rates())} rate points and {self.teacher.name} "
                    f"{self.preset} has {len(self.teacher.rates())}: both have to code at the same"
                )
            common_taps(self.teacher, codec)
        return codec

    def _without_weights(self) -> VideoCodec:
        section = self.recipe.codec
        with torch.device("meta"):
            return vcodecs.create(section.name, self.preset, base=self.base).to("meta").eval()

    def load(self, path: Path) -> VideoCodec:
        """A codec of this recipe with the weights of a step (dense or shrunk)."""
        section = self.recipe.codec
        return vcodecs.create(section.name, self.preset, path, self.base).eval()

    @cached_property
    def channels(self) -> Channels:
        """Channel groups of the dense decoder."""
        channels = find_groups(self.teacher)
        if not channels.groups:
            raise UserError(f"codec {self.teacher.name}: no channel of its decoder can be removed")
        return channels

    @cached_property
    def cost(self) -> CostModel:
        """The limited cost: MACs at the recipe's measuring size, or time at its other one."""
        with self.recipe.blame("prune.budget"):
            budget = self.recipe.prune.budget
            return cost_of(budget, self.teacher, self.channels, self.recipe.measure, self.times)

    def one_shot(self, losses: Sequence[Tensor] | None = None) -> dict[str, list[int]]:
        """Channels of the teacher to keep by what is lost with each, else by weights' norms alone.

        UserError when no choice of channels meets the budget.
        """
        cost, section = self.cost, self.recipe.prune
        with self.recipe.blame("prune.budget"):
            if losses is None:
                return by_magnitude(self.teacher, self.channels, cost, section)
            return by_losses(self.channels, cost, section, losses)

    # ------------------------------------------------------------------ data

    @cached_property
    def train_sources(self) -> list[tuple[Source, float]]:
        """Training clips, with the weight of each source."""
        specs = self.recipe.data.train
        opened = [self._open(spec, f"data.train.{i}") for i, spec in enumerate(specs)]
        return [(source, spec.weight) for source, spec in zip(opened, specs, strict=True)]

    @cached_property
    def eval_sources(self) -> list[Source]:
        """Clips to evaluate on."""
        specs = self.recipe.data.eval
        return [self._open(spec, f"data.eval.{i}") for i, spec in enumerate(specs)]

    @cached_property
    def intra(self) -> IntraCodec:
        """The coder of the evaluation's I frames."""
        with self.recipe.blame("evaluate.intra"):
            return create_intra(self.recipe.evaluate.intra)

    def settings(self, key: str) -> TrainerSettings:
        """Settings of section `train` or `finetune`, made once: networks may have to be loaded."""
        if key not in self._settings:
            section = getattr(self.recipe, key)
            self._settings[key] = settings_of(self.recipe, section, self.teacher, key)
        return self._settings[key]

    def _open(self, spec: SourceSpec, key: str) -> Source:
        with self.recipe.blame(key):
            source = open_source(spec, self.base)
        for name, reason in source.skipped.items():
            self.warnings.append(f"{source.name}: {name} left out: {reason}")
        return source

    def _check_training(self) -> None:
        recipe = self.recipe
        sources = [source for source, _ in self.train_sources]
        for key, section in (("train", recipe.train), ("finetune", recipe.finetune)):
            self.settings(key)
            for i, phase in enumerate(phases_of(recipe, section, self.teacher, key)):
                own = section.phases[i].crop is not None
                with recipe.blame(f"{key}.phases.{i}.crop" if own else "data.crop"):
                    check_sources(sources, phase.stage.frames + 1, phase.crop)

    def _check_evaluation(self) -> None:
        recipe, section = self.recipe, self.recipe.evaluate
        for i, (spec, source) in enumerate(zip(recipe.data.eval, self.eval_sources, strict=True)):
            endless = spec.kind == "procedural" and spec.clips is None
            if endless and section.clips is None:
                raise UserError(
                    f"{recipe.at(f'data.eval.{i}')}: the procedural source has no end; set its "
                    "`clips`, or evaluate.clips"
                )
            count = section.clips or len(source)
            infos = [source.info(i) for i in range(min(count, len(source)))]
            reasons = [too_small(info, section.frames, 16) for info in infos]
            if all(reasons):
                raise UserError(
                    f"{recipe.at('evaluate.frames')}: {source.name} has no clip for "
                    f"{section.frames} frames ({infos[0].name}: {reasons[0]})"
                )
        self.intra  # noqa: B018
        with recipe.blame("evaluate.anchors"):
            for codec in section.anchors:
                check_encoder(codec)

    # ------------------------------------------------------------------ fingerprints

    def codec_inputs(self) -> dict[str, Any]:
        """Inputs of the teacher: the recipe's section, and the checkpoint's content."""
        section = self.recipe.codec
        inputs = section.model_dump() | {"seed": self.recipe.seed}
        if section.checkpoint is not None:
            inputs["sha256"] = _sha256(section.checkpoint.path)
        return inputs

    def training_inputs(self) -> list[Any]:
        """The training data as far as a listing tells: sources, and how many clips they have.

        With them the content of another teacher, where there is one.
        """
        data = self.recipe.data
        listed = [
            [spec.compared(), len(source)]
            for spec, (source, _) in zip(data.train, self.train_sources, strict=True)
        ]
        larger = self.recipe.distill.teacher
        known = [] if larger is None else [_sha256(larger.checkpoint.path)]
        return [listed, data.crop, data.batch, *known]

    def measuring_size(self) -> list[Any]:
        """The frame size that the budget is counted at, and of a time what it is measured with."""
        measure = self.recipe.measure
        if isinstance(self.cost, TimeCost):
            return [measure.latency_height, measure.latency_width, asdict(self.cost.times.machine)]
        return [measure.height, measure.width]

    def evaluation_inputs(self) -> list[Any]:
        specs = [spec.compared() for spec in self.recipe.data.eval]
        return [specs, [len(s) for s in self.eval_sources], self.recipe.evaluate.model_dump()]


def _sha256(checkpoint: str) -> str:
    return hashlib.sha256(checkpoints.find(checkpoint).read_bytes()).hexdigest()
