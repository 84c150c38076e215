"""A recipe turned into what the steps work with, checked before anything heavy starts."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import vcodecs
from prune.budget import CostModel
from prune.data import Source, check_sources, open_source
from prune.data.source import too_small
from prune.groups import Channels, find_groups
from prune.mask import relative_norms
from prune.recipe import Recipe, phases_of
from prune.select import choose
from vcodecs import UserError, VideoCodec, checkpoints
from vcodecs.intra import IntraCodec, create_intra


class Job:
    """The parts of a run: codec, data, channel groups. `base` is the recipe file's folder."""

    def __init__(self, recipe: Recipe, base: Path) -> None:
        self.recipe, self.base = recipe, base
        self.warnings: list[str] = []
        self.teacher = self._make_teacher()
        self.train_sources = self._open_training()
        self.eval_sources = [open_source(spec, base) for spec in recipe.data.eval]
        self.intra: IntraCodec = create_intra(recipe.evaluate.intra)
        self._check_evaluation()
        self.one_shot()  # a budget that cannot be met shows here

    # ------------------------------------------------------------------ codec

    def _make_teacher(self) -> VideoCodec:
        section = self.recipe.codec
        torch.manual_seed(self.recipe.seed)
        codec = vcodecs.create(section.name, section.preset, section.checkpoint)
        if section.checkpoint is None:
            self.warnings.append(
                f"codec.checkpoint is not set: {section.name} ({section.preset}) starts from "
                f"weights drawn with seed {self.recipe.seed}; its quality figures mean nothing"
            )
        return codec.eval()

    def load(self, path: Path) -> VideoCodec:
        """A codec of this recipe with the weights of a step (dense or shrunk)."""
        return vcodecs.create(self.recipe.codec.name, self.recipe.codec.preset, path).eval()

    @cached_property
    def channels(self) -> Channels:
        """Channel groups of the dense decoder."""
        channels = find_groups(self.teacher)
        if not channels.groups:
            raise UserError(f"codec {self.teacher.name}: no channel of its decoder can be removed")
        return channels

    @cached_property
    def cost(self) -> CostModel:
        """MACs of the decoder at the recipe's measuring size."""
        measure = self.recipe.measure
        return CostModel(self.teacher, self.channels, measure.height, measure.width)

    def one_shot(self) -> dict[str, list[int]]:
        """Channels to keep by the magnitude of the teacher's weights alone."""
        section = self.recipe.prune
        scores = [relative_norms(self.teacher, group) for group in self.channels.groups]
        groups = self.channels.groups
        return choose(groups, scores, self.cost, section.budget, section.align, section.floor)

    # ------------------------------------------------------------------ data

    def _open_training(self) -> list[tuple[Source, float]]:
        recipe = self.recipe
        sources = [(open_source(spec, self.base), spec.weight) for spec in recipe.data.train]
        for key, section in (("train", recipe.train), ("finetune", recipe.finetune)):
            for phase in phases_of(recipe, section, self.teacher, key):
                check_sources([s for s, _ in sources], phase.stage.frames + 1, phase.crop)
        for source, _ in sources:
            self._warn_of_skipped(source)
        return sources

    def _check_evaluation(self) -> None:
        section = self.recipe.evaluate
        for spec, source in zip(self.recipe.data.eval, self.eval_sources, strict=True):
            endless = spec.kind == "procedural" and spec.clips is None
            if endless and section.clips is None:
                raise UserError(
                    "data.eval: the procedural source has no end; set its `clips`, or "
                    "evaluate.clips"
                )
            count = section.clips or len(source)
            infos = [source.info(i) for i in range(min(count, len(source)))]
            reasons = [too_small(info, section.frames, 16) for info in infos]
            if all(reasons):
                raise UserError(
                    f"{source.name}: no clip for evaluate.frames {section.frames} "
                    f"({infos[0].name}: {reasons[0]})"
                )

    def _warn_of_skipped(self, source: Source) -> None:
        for name, reason in source.skipped.items():
            self.warnings.append(f"{source.name}: {name} left out: {reason}")

    # ------------------------------------------------------------------ fingerprints

    def codec_inputs(self) -> dict[str, Any]:
        """What the teacher is made from: the recipe's section, and the checkpoint's content."""
        section = self.recipe.codec
        inputs = section.model_dump() | {"seed": self.recipe.seed}
        if section.checkpoint is not None:
            content = checkpoints.find(section.checkpoint).read_bytes()
            inputs["sha256"] = hashlib.sha256(content).hexdigest()
        return inputs

    def training_inputs(self) -> list[Any]:
        """The training data as far as a listing tells: sources, and how many clips they have."""
        data = self.recipe.data
        listed = [
            [spec.model_dump(mode="json"), len(source)]
            for spec, (source, _) in zip(data.train, self.train_sources, strict=True)
        ]
        return [listed, data.crop, data.batch]

    def evaluation_inputs(self) -> list[Any]:
        specs = [spec.model_dump(mode="json") for spec in self.recipe.data.eval]
        return [specs, [len(s) for s in self.eval_sources], self.recipe.evaluate.model_dump()]
