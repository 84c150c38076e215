"""benchmarks/teachers.py: what its figures mean, where it goes on, what it writes."""

import json
import math
import sys
from dataclasses import replace
from xml.dom import minidom

import av
import numpy as np
import pytest
import teachers

import vcodecs
from prune.evaluation.metrics import bd
from rd import anchors, evaluate
from rd.anchors import KINDS, Kind, Store, version
from rd.clips import Clip, digest, read_clips
from rd.curves import Point, averaged, delta, drift, gap
from rd.document import BEGIN, END, write_document
from rd.evaluate import Loaded, load_members, without_folders
from rd.results import Measured, Member, Results, load, resumed
from rd.tables import against, bd_table, card, compared, rates_table
from vcodecs import UserError
from vcodecs.checkpoints import save

RATES = (0.0, 1.0, 2.0, 3.0)
MEMBER = Member("w", "hevc:qp=22", "12")


def line(shift=0.0, rates=(0.05, 0.1, 0.2, 0.4, 0.8)):
    """A curve that gains 3 dB a doubling of the rate."""
    return [Point(rate, 40 + 3 * math.log2(rate) + shift) for rate in rates]


def clip(name="a", seed=0, frames=3, size=(32, 48)):
    pictures = np.random.default_rng(seed).integers(0, 256, (frames, 3, *size), dtype=np.uint8)
    return Clip(name, 25.0, pictures, digest(pictures))


def point(name="a", rate=0.0, bpp=0.1, psnr=30.0, member=0):
    frames = (psnr + 0.5, psnr, psnr - 0.5)
    return Measured(name, member, rate, bpp, psnr, bpp / 2, psnr, frames, 1.0, "cpu, 1 thread")


def results(points=(), clips=(), bits="real", members=(MEMBER,)):
    known = {one.name: one.entry() for one in clips}
    return Results("n", "hem", "tiny", bits, 3, members, "run", known, list(points))


def curve_of(name, shift=0.0):
    return [point(name, r, p.bpp, p.psnr) for r, p in zip(RATES, line(shift)[:4], strict=True)]


def filled_store(path, *clips):
    """All anchors on clips, 5 dB better than `curve_of`, the first kind 4 dB."""
    store = Store(path)
    for one in clips:
        store.clips[one.name] = one.entry()
        for kind in KINDS:
            shifted = line(4.0 if kind is KINDS[0] else 5.0, rates=(0.02, 0.1, 0.5, 1.0, 2.0))
            points = [[0, p.bpp, p.psnr] for p in shifted]
            row = {"clip": one.name, "codec": kind.codec, "encoder": "e 1", "points": points}
            store._rows[one.name, kind] = row
    return store


# Figures


def test_drift_is_the_last_p_frame_against_the_mean_of_all():
    assert drift((31.0, 30.0, 29.0, 28.0)) == pytest.approx(-1.5)
    assert drift((30.0, 30.0)) == 0


def test_the_gap_is_taken_at_the_same_rate():
    anchor = line(rates=(0.8, 0.05, 0.2))
    assert gap(anchor, Point(0.1, 25.0)) == pytest.approx(25 - (40 + 3 * math.log2(0.1)))
    assert gap(anchor, Point(0.01, 25.0)) is None and gap(anchor, Point(1.0, 25.0)) is None


def test_an_average_keeps_the_order_of_the_rates():
    mean = averaged([[Point(1, 30), Point(3, 40)], [Point(3, 32), Point(5, 44)]])
    assert mean == [Point(2, 31), Point(4, 42)]


def test_deltas_are_those_of_the_project_without_remarks_on_a_wide_anchor():
    wide, curve = line(rates=[0.01 * 2**n for n in range(9)]), line(-2.0)
    found = delta(wide, curve)
    columns = [[p.bpp for p in wide], [p.psnr for p in wide]]
    expected = bd(*columns, [p.bpp for p in curve], [p.psnr for p in curve])
    assert found.psnr_db == pytest.approx(-2.0) and found.why is None
    assert (found.psnr_db, found.rate_percent) == (expected.psnr_db, expected.rate_percent)


def test_deltas_say_where_an_anchor_covers_too_little_of_the_curve():
    found = delta(line(rates=(0.2, 0.3, 0.4, 0.8)), line(-1.0))
    assert found.psnr_db == pytest.approx(-1.0) and "covers 50% of the codec's" in found.why
    assert delta(line(), line()[:3]).why == "BD needs 4 rate points, there are 3"


# Going on


def test_results_come_back_from_their_file(tmp_path):
    a = clip()
    written = results([point(rate=1.0), point(rate=0.0)], [a])
    written.save(tmp_path / "n.json")
    read = load(tmp_path / "n.json")
    assert read == replace(written, points=written.points[::-1])
    assert resumed(tmp_path / "n.json", results()) == read


def test_only_what_is_missing_is_measured_and_each_result_is_kept(tmp_path, monkeypatch):
    path, clips, measured = tmp_path / "n.json", [clip("a"), clip("b", 1)], []

    class Codec:
        rates = staticmethod(lambda: RATES)

        def to(self, device):
            return self

    def measure(one, a_clip, member, rate, bits, device):
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append((a_clip.name, rate))
        return point(a_clip.name, rate)

    def go(of=clips):
        state = resumed(path, results())
        loaded = [Loaded(Codec(), None, state.members[0])]
        list(evaluate.evaluate(state, path, loaded, of, "cpu", lambda text: None))

    monkeypatch.setattr(evaluate, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert len(load(path).points) == 5
    measured.clear()
    go()
    assert measured == [("b", rate) for rate in RATES[1:]]
    measured.clear()
    go([replace(clips[0], digest="other")])
    assert measured == [("a", rate) for rate in RATES] and len(load(path).points) == 8


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bits": "estimated"}, "other bits (real, now estimated)"),
        ({"members": (Member("w", "hevc:qp=22", "34"),)}, "(w hevc:qp=22 12, now w hevc:qp=22 34)"),
    ],
)
def test_results_of_other_settings_are_not_dropped_unasked(tmp_path, changed, said):
    path = tmp_path / "n.json"
    results([point()], [clip()]).save(path)
    with pytest.raises(UserError) as caught:
        resumed(path, results(**changed))
    assert said in str(caught.value) and "--anew" in str(caught.value)
    assert resumed(path, results(**changed), anew=True).points == []


@pytest.mark.parametrize("content", ["", "{}", '{"about": {"x": 1}, "members": []}'])
def test_a_file_that_holds_no_results_is_told(tmp_path, content):
    (tmp_path / "n.json").write_text(content)
    with pytest.raises(UserError, match="no results of ours"):
        load(tmp_path / "n.json")


def test_averages_are_over_clips_that_have_every_rate():
    clips = [clip("a"), clip("b", 1)]
    found = results(curve_of("a") + curve_of("b")[:2], clips)
    assert found.whole_clips() == ["a"]
    assert found.curve(["a"]) == line()[:4]


def test_anchors_are_measured_once_for_the_same_frames(tmp_path, monkeypatch):
    kind, path, measured = Kind("h264", "medium", (20, 30)), tmp_path / "anchors.json", []

    def measure(a_clip, kind):
        measured.append(a_clip.name)
        points = [[20, 0.5, 40.0], [30, 0.25, 35.0]]
        return {"clip": a_clip.name, "codec": "h264", "preset": "medium", "points": points}

    monkeypatch.setattr(anchors, "measure", measure)
    for one in (clip("a"), clip("a"), clip("b", 1), clip("a", seed=2), clip("a", seed=2)):
        assert Store(path).curve(one, kind) == [Point(0.5, 40.0), Point(0.25, 35.0)]
    assert measured == ["a", "b", "a"]
    assert Store(path).known("b", kind) and Store(path).known("c", kind) is None
    assert Store(path).known("b", replace(kind, preset="fast")) is None


def test_an_encoder_tells_its_version():
    assert version("av1").startswith("SVT-AV1 v")


# Clips and checkpoints


def test_a_short_clip_gives_all_it_has(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "bgr0"
        for picture in clip(frames=5).pictures:
            pixels = np.ascontiguousarray(picture.transpose(1, 2, 0))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    (found,) = read_clips(tmp_path, 32)
    assert found.entry() == clip(frames=5).entry()
    (first,) = read_clips(tmp_path, 3, ["a"])
    assert len(first.pictures) == 3 and first.digest != found.digest
    with pytest.raises(UserError, match="no clip c in"):
        list(read_clips(tmp_path, 3, ["a", "c"]))


def test_intra_codecs_are_given_once_or_once_each():
    with pytest.raises(UserError, match="each of the 3 checkpoints; there are 2"):
        load_members(["a", "b", "c"], ["hevc:qp=22", "hevc:qp=27"])
    spec = "network:checkpoint=/somewhere/else/i.safetensors,rate=2"
    assert without_folders(spec) == "network:checkpoint=i.safetensors,rate=2"


# Tables and document


def test_tables_hold_the_deltas_the_gaps_and_the_drift(tmp_path):
    a, b = clip("a"), clip("b", 1)
    found = results(curve_of("a") + curve_of("b"), [a, b])
    c = compared(found, filled_store(tmp_path / "anchors.json", a, b))
    first, second = bd_table(c).splitlines()[2:4]
    assert first.startswith("| x264 veryfast | −4.00 |") and second.startswith(
        "| x264 medium | −5.00 |"
    )
    row = rates_table(c).splitlines()[2].split(" | ")
    assert row[0] == "| rate 0" and row[3:7] == ["0.050", "27.03", "−0.50", "−0.50"]
    assert row[7] == "−4.00" and row[8] == "−5.00"
    assert "2 clips, 3 frames with one I frame (hevc:qp=22), real bits" in card(c)


def test_a_codec_of_one_rate_is_compared_at_that_rate():
    anchor = line(5.0, rates=(0.02, 0.1, 0.5, 1.0, 2.0))
    assert against(anchor, line(rates=(0.1,))) == "−5.00*"
    assert against(anchor, line(rates=(0.01, 0.1))) == "–"
    assert against(anchor, line()) == "−5.00 (+217)"


def test_a_card_of_nothing_whole_says_so(tmp_path):
    found = results(curve_of("a")[:2] + curve_of("b")[1:], [clip("a"), clip("b", 1)])
    assert "No clip is measured" in card(compared(found, Store(tmp_path / "none.json")))


def test_writing_the_document_again_keeps_the_prose_and_draws_the_same(tmp_path):
    a, b = clip("a"), clip("b", 1)
    store = filled_store(tmp_path / "anchors.json", a, b)
    found = results(curve_of("a") + curve_of("b"), [a, b])
    write_document(tmp_path, [found], store)
    path = tmp_path / "teachers.md"
    path.write_text(f"# Mine\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nBehind.\n")
    first = write_document(tmp_path, [found, replace(found, name="m", points=found.points)], store)
    drawn = [one.read_bytes() for one in first]
    text = path.read_text()
    assert text.startswith("# Mine\n\nBefore.\n") and text.endswith("\n\nBehind.\n")
    assert "old" not in text and "| n | −4.00 (+152) |" in text and "e 1" in text
    for one in first[:-1]:
        assert minidom.parse(str(one)) and f"teachers/{one.name}" in text
    again = write_document(tmp_path, [found, replace(found, name="m")], store)
    assert [one.read_bytes() for one in again] == drawn


def test_a_document_without_its_marks_is_left_alone(tmp_path):
    store = filled_store(tmp_path / "anchors.json", clip("a"))
    (tmp_path / "teachers.md").write_text("# Mine\n")
    with pytest.raises(UserError, match="the marks are gone"):
        write_document(tmp_path, [results(curve_of("a"), [clip("a")])], store)
    assert (tmp_path / "teachers.md").read_text() == "# Mine\n"
    with pytest.raises(UserError, match="nothing to show"):
        write_document(tmp_path, [], store)


# The command


def test_a_family_of_checkpoints_is_measured_with_real_bits(tmp_path, monkeypatch, capsys):
    for name in ("low", "high"):
        save(vcodecs.create("dcvc", "tiny"), tmp_path / f"{name}.safetensors")
    few = tuple(replace(kind, qps=kind.qps[2:4]) for kind in KINDS[::2])
    for module in (teachers, anchors, sys.modules["rd.tables"]):
        monkeypatch.setattr(module, "KINDS", few)
    monkeypatch.setattr(teachers, "read_clips", lambda *_: [clip(frames=3, size=(64, 64))])
    given = [f"{tmp_path}/{name}.safetensors" for name in ("low", "high")]
    options = ["--intra", "hevc:qp=40", "hevc:qp=20", "--results", str(tmp_path), "--frames", "3"]
    command = ["teachers.py", "f", "--checkpoints", *given, *options, "--source", "x"]
    monkeypatch.setattr(sys, "argv", command)
    teachers.run()
    shown = capsys.readouterr().out
    found = load(tmp_path / "teachers" / "f.json")
    assert [(p.member, len(p.p_frame_psnr)) for p in found.points] == [(0, 2), (1, 2)]
    assert found.points[0].bpp < found.points[1].bpp and found.bits == "real"
    assert [m.intra for m in found.members] == ["hevc:qp=40", "hevc:qp=20"]
    assert str(tmp_path) not in json.dumps(vars(found), default=str)
    assert "| low |" in shown and "| high |" in shown and "BD-PSNR, dB" not in shown
    monkeypatch.setattr(sys, "argv", ["teachers.py", "f", "--results", str(tmp_path)])
    teachers.run()
    assert capsys.readouterr().out == shown
