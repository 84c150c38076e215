"""`python -m prune.run RECIPE [key=value …]`: the whole way from a trained codec to the report.

    teacher -> sparse training -> shrink -> fine-tune -> evaluate -> export -> measure -> report

The dense codec is exported, coded and decoded before anything is trained: a codec that cannot be
is told then. Every step leaves its result in the run's folder and is skipped when it is there
already; the same command after a crash goes on where it stopped.
"""

from contextlib import nullcontext
from pathlib import Path

from prune import make_callable
from prune.cli import main, quiet_option, recipe_parser
from prune.ownership import owned
from prune.pipeline import work as pipeline
from prune.pipeline.assemble import assemble, pictures
from prune.pipeline.job import Job
from prune.pipeline.steps import RECORD, Steps
from prune.pipeline.tried import try_export, try_shrinking
from prune.progress import be_quiet, console, warn
from prune.recipe.reading import load_recipe
from prune.recipe.schema import HOW, Recipe
from prune.report import Report
from prune.report.render import write_report
from prune.report.summary import headline
from prune.training.processes import Processes, join


def run(recipe: Recipe, base: str | Path = ".") -> Report | None:
    """Carry a recipe out; returns its report, which is also in the folder `recipe.output`.

    `base` is where relative paths of the recipe are looked for, after the working directory.
    Under a launcher (`accelerate launch`, `torchrun`) all processes train and evaluate together;
    those but the first are done when there is only exporting, timing and reporting left, and
    return None. UserError for what the user can put right.
    """
    job = Job(recipe, Path(base), join(recipe.train.device))
    job.check()
    with owned(job.recipe.output) if job.processes.first else nullcontext():
        return _run(job)


def _run(job: Job) -> Report | None:
    recipe = job.recipe
    for warning in job.warnings:
        warn(warning)
    step = Steps(recipe.output, job.processes)

    def dump(*names: str) -> list[dict]:
        sections = [getattr(recipe, name) for name in names]
        return [section.model_dump(exclude=set(HOW)) for section in sections]

    step("teacher", job.codec_inputs(), lambda f: pipeline.save_teacher(job, f))
    graphs = [dump("export"), recipe.evaluate.intra]
    dense = step("onnx_dense", graphs, lambda f: try_export(job, f), "teacher")
    if job.processes.first and not (recipe.output / "sparse" / RECORD).exists():
        try_shrinking(job)
    sparse = step(
        "sparse",
        [dump("prune", "distill", "train"), job.training_inputs(), job.measuring_size()],
        lambda f: pipeline.sparsify(job, f),
        "teacher",
        together=True,
    )
    shrunk = step("shrink", None, lambda f: pipeline.shrink(job, sparse, f))
    final = step(
        "finetune",
        dump("finetune"),
        lambda f: pipeline.finetune(job, sparse, shrunk, f),
        together=True,
    )
    quality = step(
        "evaluate",
        job.evaluation_inputs(),
        lambda f: pipeline.measure_quality(job, final, f),
        together=True,
    )
    job.processes.leave()
    if not job.processes.first:
        return None
    step.processes = Processes()
    small = job.load(final / pipeline.WEIGHTS)
    bundle = step("onnx", graphs, lambda f: pipeline.export_pruned(job, small, f), "finetune")
    bundles = {"dense": dense, "sparse": bundle}
    speed = step(
        "measure",
        dump("measure"),
        lambda f: pipeline.measure_speed(job, final, bundles, f),
        "onnx",
    )
    if recipe.export.precision == "int8":
        inputs = job.evaluation_inputs()
        eight = step(
            "evaluate_int8", inputs, lambda f: pipeline.measure_int8(job, final, bundle, f), "onnx"
        )
    else:
        eight = None
    folders = {"sparse": sparse, "shrink": shrunk, "finetune": final, "evaluate": quality}
    folders |= {"onnx": bundle, "onnx_dense": dense, "measure": speed}
    if eight is not None:
        folders["evaluate_int8"] = eight
    report = assemble(job, folders, step.seconds)
    write_report(report, recipe.output, pictures(quality))
    console.print(headline(report, recipe.output))
    return report


def command() -> None:
    parser = recipe_parser(
        prog="python -m prune.run",
        description="Compress a video codec's decoder and report what that brought.",
    )
    quiet_option(parser)
    arguments = parser.parse_intermixed_args()
    if arguments.quiet:
        be_quiet()
    recipe = load_recipe(arguments.recipe, arguments.overrides, Recipe)
    run(recipe, Path(arguments.recipe).parent)


if __name__ == "__main__":
    main(command)
else:
    make_callable(__name__, __name__)
