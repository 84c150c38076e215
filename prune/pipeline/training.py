"""A recipe's words to the trainer: phases, trade-off, settings."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from prune.recipe.schema import TeacherRecipe, TrainSection
from prune.training.phases import Phase
from prune.training.settings import TrainerSettings
from prune.training.tensorboard import check_tensorboard
from prune.training.tradeoff import Tradeoff
from vcodecs import Stage, UserError, VideoCodec
from vcodecs.intra import create_intra


def phases_of(
    recipe: TeacherRecipe, section: TrainSection, codec: VideoCodec, key: str = "train"
) -> list[Phase]:
    """The section's phases with the codec's stages filled in; an unknown stage is a UserError."""
    stages = {stage.name: stage for stage in codec.stages()}
    phases = []
    for i, spec in enumerate(section.phases):
        if spec.stage not in stages:
            raise UserError(
                f"{recipe.at(f'{key}.phases.{i}.stage')}: {codec.name} has no stage "
                f"{spec.stage!r}; "
                f"there are: {', '.join(stages)}"
            )
        stage: Stage = stages[spec.stage]
        if spec.frames:
            stage = replace(stage, frames=spec.frames)
        phases.append(
            Phase(
                name=f"{i + 1} {spec.stage}",
                stage=stage,
                steps=spec.steps,
                learning_rate=spec.learning_rate,
                final_rate=spec.final_rate,
                batch=spec.batch or recipe.data.batch,
                crop=spec.crop or recipe.data.crop,
            )
        )
    return phases


def tradeoff_of(recipe: TeacherRecipe, codec: VideoCodec) -> Tradeoff:
    """The lambdas at the codec's rate points; UserError where the recipe has not as many."""
    return tradeoff(codec, recipe.codec.lagrangian, recipe.at("codec.lambda"))


def tradeoff(codec: VideoCodec, given: float | Sequence[float], where: str) -> Tradeoff:
    """The same of given lambdas; `where` begins the message about what is wrong with them."""
    points = codec.rates()
    lagrangians = (given,) if isinstance(given, int | float) else tuple(given)
    if len(lagrangians) != len(points):
        wanted = "one number" if len(points) == 1 else f"a list of {len(points)}, rising"
        raise UserError(
            f"{where}: codec {codec.name} has {len(points)} rate point"
            f"{'s' if len(points) > 1 else ''}: give {wanted} (it is {given})"
        )
    if any(low >= high for low, high in pairwise(lagrangians)):
        raise UserError(
            f"{where}: rates rise from point to point, and lambdas have to rise with them "
            f"(it is {given})"
        )
    return Tradeoff(points, lagrangians)


def settings_of(
    recipe: TeacherRecipe,
    section: TrainSection,
    codec: VideoCodec,
    key: str = "train",
    minutes: float | None = None,
) -> TrainerSettings:
    """The trainer's settings from a recipe; UserError where lambda or `intra` do not fit."""
    intra = None
    if section.intra:
        with recipe.blame(f"{key}.intra"):
            intra = create_intra(section.intra)
    folder = None
    if section.tensorboard:
        check_tensorboard(recipe.at(f"{key}.tensorboard"))
        folder = recipe.output / "tensorboard" / key
    return TrainerSettings(
        tradeoff=tradeoff_of(recipe, codec),
        seed=recipe.seed,
        clip_norm=section.clip_norm,
        intra=intra,
        intra_noise=0.0 if intra else section.intra_noise,
        workers=recipe.data.workers,
        precision=section.precision,
        device=section.device,
        checkpoint_seconds=section.checkpoint_seconds,
        keep_checkpoints=section.keep_checkpoints,
        accumulate=section.accumulate,
        recompute=section.recompute,
        compile=section.compile,
        skips=section.skips,
        average=section.average,
        validate_every=section.validate_every,
        tensorboard=folder,
        minutes=minutes,
    )
