"""Codecs of one's own: registered in a notebook, or named in a recipe by their file."""

import pytest
from recipe_text import fault, load, write
from toys import SubpelChain

import vcodecs
from prune.pipeline.job import Job
from prune.recipe.schema import Recipe
from vcodecs import UserError, registry

MINE = '''
from vcodecs.dcvc import DCVC


class Mine(DCVC):
    """A codec of one's own: DCVC, tiny, by another name."""

    name = "mine"
    presets = {"only": DCVC.presets["tiny"]}
'''


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


class Own(SubpelChain):
    name = "own"

    def __init__(self, preset):
        super().__init__()


def test_a_registered_class_is_known_by_its_name():
    assert vcodecs.register(Own) is Own
    assert "own" in vcodecs.names()
    assert isinstance(vcodecs.create("own"), Own)


def test_registering_again_replaces():
    class Again(Own):
        pass

    vcodecs.register(Own)
    vcodecs.register(Again)
    assert isinstance(vcodecs.create("own"), Again)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": "dcvc"}, "'dcvc' is an installed codec"),
        ({"name": ""}, "give the class a `name`"),
        ({"name": "x", "presets": {}}, "give the class `presets`"),
    ],
)
def test_what_cannot_be_registered_is_explained(attributes, message):
    with pytest.raises(UserError, match=message):
        vcodecs.register(type("Wrong", (Own,), attributes))


def test_a_class_that_takes_no_preset_is_explained():
    with pytest.raises(UserError, match="SubpelChain: its __init__ has to take the name of"):
        vcodecs.register(SubpelChain)


@pytest.mark.parametrize("thing", [dict, 3, SubpelChain()])
def test_only_classes_of_codecs_are_registered(thing):
    with pytest.raises(UserError, match="does not derive from VideoCodec"):
        vcodecs.register(thing)


# ---------------------------------------------------------------------- by file


def test_a_recipe_names_a_class_in_a_file_beside_it(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    recipe = load(
        write(tmp_path, "name: dcvc\n  preset: tiny", "name: mine.py:Mine\n  preset: only")
    )
    job = Job(recipe, tmp_path)
    assert job.teacher.name == "mine"
    assert job.channels.groups
    path = tmp_path / "saved.safetensors"
    vcodecs.save(job.teacher, path)
    assert type(job.load(path)) is type(job.teacher)  # one class, however often it is asked for


def test_a_class_by_file_is_known_by_its_name_from_then_on(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    codec = vcodecs.create(f"{tmp_path / 'mine.py'}:Mine", "only")
    vcodecs.save(codec, tmp_path / "saved.safetensors")
    assert type(vcodecs.codec_of(tmp_path / "saved.safetensors")) is type(codec)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.py:Mine", "", "codec.name: gone.py: no such file"),
        ("mine.py:Yours", MINE, "there is no 'Yours' in it"),
        ("mine.py:Mine", "import nothing_like_this", "cannot be run: ModuleNotFoundError"),
        ("mine.py:Mine", "class Mine: pass", "Mine: no codec can be made of it"),
        ("mine.py:Mine", "x = = 1", "cannot be run: SyntaxError"),
    ],
)
def test_a_file_that_gives_no_codec_is_explained(tmp_path, name, text, message):
    (tmp_path / "mine.py").write_text(text)
    path = write(tmp_path, "name: dcvc", f"name: {name}")
    told = fault(path, of=lambda path: Job(load(path), tmp_path).teacher)
    assert message in told


# ---------------------------------------------------------------------- recipes made in Python


def test_a_recipe_made_in_python_can_be_carried_out():
    clips = {"kind": "procedural", "clips": 1, "frames": 2, "height": 64, "width": 64}
    recipe = Recipe(
        codec={"name": "dcvc", "preset": "tiny"},
        data={"train": "procedural", "eval": clips},
        prune={"budget": 0.5, "align": 1},
        train={"phases": []},
        finetune={"phases": []},
        measure={"height": 64, "width": 64},
    )
    assert str(recipe.output) == "runs/dcvc"
    job = Job(recipe, ".")
    assert job.one_shot()
    with pytest.raises(UserError, match=r"^prune\.budget: 0.01: "):
        small = recipe.model_copy(
            update={"prune": recipe.prune.model_copy(update={"budget": 0.01})}
        )
        Job(small, ".").one_shot()
