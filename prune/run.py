"""`python -m prune.run RECIPE [key=value …]`: the whole way from a trained codec to the report.

    teacher -> sparse training -> shrink -> fine-tune -> evaluate -> export -> measure -> report

Every step leaves its result in the run's folder and is skipped when it is there already; the same
command after a crash goes on where it stopped.
"""

from pathlib import Path

from prune import make_callable
from prune.cli import main, recipe_parser
from prune.pipeline import work as pipeline
from prune.pipeline.assemble import assemble, pictures
from prune.pipeline.job import Job
from prune.pipeline.steps import Steps
from prune.progress import console, warn
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe
from prune.report import Report
from prune.report.render import write_report
from prune.report.summary import headline


def run(recipe: Recipe, base: str | Path = ".") -> Report:
    """Carry a recipe out; returns its report, which is also in the folder `recipe.output`.

    `base` is where relative paths of the recipe are looked for, after the working directory.
    UserError for what the user can put right.
    """
    job = Job(recipe, Path(base))
    recipe = job.recipe
    job.check()
    for warning in job.warnings:
        warn(warning)
    step = Steps(recipe.output)

    def dump(*names: str) -> list[dict]:
        # How often the state is saved changes no result.
        sections = [getattr(recipe, name) for name in names]
        return [section.model_dump(exclude={"checkpoint_seconds"}) for section in sections]

    step("teacher", job.codec_inputs(), lambda f: pipeline.save_teacher(job, f))
    # The dense codec is exported, coded and decoded first: what fails then fails before training.
    graphs = [dump("export"), recipe.evaluate.intra]
    dense = step("onnx_dense", graphs, lambda f: pipeline.export(job, job.teacher, f), "teacher")
    sparse = step(
        "sparse",
        [dump("prune", "distill", "train"), job.training_inputs(), job.measuring_size()],
        lambda f: pipeline.sparsify(job, f),
        "teacher",
    )
    shrunk = step("shrink", None, lambda f: pipeline.shrink(job, sparse, f))
    final = step("finetune", dump("finetune"), lambda f: pipeline.finetune(job, sparse, shrunk, f))
    quality = step(
        "evaluate", job.evaluation_inputs(), lambda f: pipeline.measure_quality(job, final, f)
    )
    small = job.load(final / pipeline.WEIGHTS)
    bundle = step("onnx", graphs, lambda f: pipeline.export(job, small, f), "finetune")
    bundles = {"dense": dense, "sparse": bundle}
    speed = step(
        "measure",
        dump("measure"),
        lambda f: pipeline.measure_speed(job, final, bundles, f),
        "onnx",
    )
    folders = {"sparse": sparse, "shrink": shrunk, "finetune": final, "evaluate": quality}
    folders |= {"onnx": bundle, "onnx_dense": dense, "measure": speed}
    report = assemble(job, folders, step.seconds)
    write_report(report, recipe.output, pictures(quality))
    console.print(headline(report, recipe.output))
    return report


def command() -> None:
    parser = recipe_parser(
        prog="python -m prune.run",
        description="Compress a video codec's decoder and report what that brought.",
    )
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.overrides, Recipe)
    run(recipe, Path(arguments.recipe).parent)


if __name__ == "__main__":
    main(command)
else:
    make_callable(__name__, __name__)
