"""levels.json of strangers: what is wrong with it is one line, and nothing else is opened."""

import json
import shutil

import pytest
import torch

import vcodecs
from lvc.errors import UserError
from lvc.levels import LEVELS, open_networks
from lvc.rates import RateError
from lvc.runtimes import Setting
from prune.onnx_export.bundle import Size, export_bundle

SETTING = Setting(threads=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("levels")
    export_bundle(vcodecs.create("slimvc", "tiny").eval(), folder, Size(96, 96))
    yield folder
    torch.set_flush_denormal(False)


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "bundle")


def rewrite(folder, change):
    content = json.loads((folder / LEVELS).read_text())
    change(content)
    (folder / LEVELS).write_text(json.dumps(content))
    return content


def first(key, value):
    return lambda content: content["levels"][0].__setitem__(key, value)


WRONG = {
    "no format": (lambda c: c.pop("format"), "its format is None"),
    "another format": (lambda c: c.update(format="leanvc-levels-9"), "its format is"),
    "no list": (lambda c: c.update(levels={}), "levels is {}, not a list"),
    "one level": (lambda c: c.update(levels=c["levels"][:1]), "1 levels; from 2 to 64"),
    "none": (lambda c: c.update(levels=[]), "0 levels; from 2 to 64"),
    "too many": (lambda c: c.update(levels=c["levels"] * 20), "100 levels; from 2 to 64"),
    "an unknown key": (lambda c: c.update(more=1), "unknown key 'more'"),
    "no weights": (lambda c: c.pop("weights"), "missing key 'weights'"),
    "weights of another kind": (lambda c: c.update(weights=[1]), "weights is .1., not a SHA-256"),
    "a level that is text": (lambda c: c["levels"].__setitem__(0, "0"), r"levels\[0\]: '0' is not"),
    "no hash": (lambda c: c["levels"][0].pop("sha256"), r"levels\[0\]: missing key 'sha256'"),
    "a folder above": (first("folder", ".."), "folder is '..', not the name of a folder here"),
    "a path": (first("folder", "../0"), "not the name of a folder here"),
    "an absolute path": (first("folder", "/etc"), "not the name of a folder here"),
    "a drive": (first("folder", "C:x"), "not the name of a folder here"),
    "a terminal's commands": (first("folder", "\x1b[2J"), "not the name of a folder here"),
    "a number": (first("folder", 0), "folder is 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_as_documented_is_said_in_one_line(folder, case):
    change, told = WRONG[case]
    rewrite(folder, change)
    with pytest.raises(UserError, match=rf"levels\.json: not readable levels \(.*{told}") as error:
        open_networks(folder, setting=SETTING)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"levels": NaN}', b"\0" * 64]
)
def test_what_is_no_such_file_is_refused(folder, data):
    (folder / LEVELS).write_bytes(data)
    with pytest.raises(UserError, match=r"levels\.json: not readable levels"):
        open_networks(folder, setting=SETTING)


def test_a_folder_instead_of_the_file_is_refused(folder):
    (folder / LEVELS).unlink()
    (folder / LEVELS).mkdir()
    with pytest.raises(UserError, match=r"levels\.json: not readable levels \(Is a directory"):
        open_networks(folder, setting=SETTING)


def test_a_level_that_is_missing_or_another_is_told_when_a_frame_needs_it(folder):
    listed = json.loads((folder / LEVELS).read_text())["levels"]
    opened = open_networks(folder, setting=SETTING)
    shutil.rmtree(folder / listed[3]["folder"])
    with pytest.raises(UserError, match=r"bundle\.json: missing, or not the one"):
        opened.at(3.0)
    path = folder / listed[4]["folder"] / "bundle.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"bundle\.json: missing, or not the one"):
        opened.at(4.0)
    assert opened.at(1.0).level == 1


def test_levels_in_another_order_decode_as_their_hashes_say(folder):
    """The order is the exporter's word: each level is whole, so nothing worse than damage comes."""
    rewrite(folder, lambda content: content["levels"].reverse())
    opened = open_networks(folder, setting=SETTING)
    assert opened.at(0.0).channels("latent") > opened.at(4.0).channels("latent")


@pytest.mark.parametrize("rate", [None, -0.5, 4.5, float("nan"), float("inf"), 1e30])
def test_a_rate_that_there_is_no_level_of_is_refused(exported, rate):
    with pytest.raises(RateError, match="this codec takes one from 0 to 4"):
        open_networks(exported, setting=SETTING).at(rate)


@pytest.mark.parametrize("bit", range(0, 4000, 271))
def test_a_flipped_bit_is_refused_or_without_effect(folder, bit):
    data = bytearray((folder / LEVELS).read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    (folder / LEVELS).write_bytes(data)
    try:
        opened = open_networks(folder, setting=SETTING)
        for level in range(5):
            opened.at(float(level))
    except UserError as error:
        assert "\n" not in str(error)
