"""The report of a run: what it must hold, how it is refused, and the pages made of it."""

import base64
import copy
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lvc.errors import UserError
from prune.report import Report, charts, load_report, tables
from prune.report.cells import digits, markdown_text, prefixed, signed
from prune.report.headlines import about, headlines
from prune.report.pictures import Picture, difference
from prune.report.render import write_report
from prune.report.schema import TrainingCurve

SECTIONS = [
    "compute",
    "latency",
    "quality",
    "frames",
    "training",
    "gates",
    "environment",
    "recipe",
]


def pair(dense, sparse, **more):
    return {"dense": dense, "sparse": sparse, **more}


def spread(median):
    return {"median": median, "p10": 0.96 * median, "p90": 1.07 * median}


def measure(bpp, psnr):
    return {"bpp": bpp, "psnr": psnr, "ms_ssim": 1 - 0.5 / psnr}


def content():
    """A report with every part filled in; its figures are invented."""
    rates = [(256, 0.041, 30.1), (512, 0.068, 31.7), (1024, 0.115, 33.2), (2048, 0.201, 34.8)]
    points = [
        {"rate": r, "dense": measure(b, p), "sparse": measure(1.006 * b, p - 0.09)}
        for r, b, p in rates
    ]
    details = [
        {
            "clip": clip,
            "rate": 1024,
            "dense": measure(b, p),
            "sparse": measure(b + 0.0008, p - lost),
            "psnr_lost_db": lost,
            "bpp_gained": 0.0008,
        }
        for clip, b, p, lost in [("harbour", 0.131, 32.4, 0.07), ("market", 0.099, 34.0, 0.12)]
    ]
    modules = {
        "motion_decoder": pair(82_000_000_000, 60_000_000_000),
        "contextual_decoder": pair(218_000_000_000, 139_000_000_000),
        "context_fusion": pair(765_000_000_000, 402_000_000_000),
        "reconstruction": pair(1_137_000_000_000, 598_000_000_000),
    }
    dense, sparse = (sum(m[side] for m in modules.values()) for side in ("dense", "sparse"))
    steps = list(range(0, 4000, 20))
    fall = [math.exp(-s / 900) for s in steps]
    stages = ["motion", "context and reconstruction", "everything"]
    return {
        "schema": 1,
        "codec": "dcvc",
        "preset": "official",
        "created": "2025-03-04T05:06:07+00:00",
        "recipe": {
            "output": "runs/example",
            "prune": {"method": "gradient-decay", "budget": 0.55, "align": 16},
        },
        "macs": {
            "unit": "MAC",
            "height": 1088,
            "width": 1920,
            "decoder": pair(dense, sparse, reduction=1 - sparse / dense, by_module=modules),
            "encoder": pair(2_950_000_000_000, 1_720_000_000_000),
            "onnx": pair(dense + 10**9, sparse + 10**9),
        },
        "parameters": {
            "decoder": pair(7_940_000, 4_310_000),
            "total": pair(10_700_000, 6_500_000),
        },
        "latency": [
            {
                "runtime": "onnxruntime 1.31.1",
                "provider": f"{provider}ExecutionProvider",
                "threads": threads,
                "precision": "fp32",
                "height": 1088,
                "width": 1920,
                "runs": 40,
                "dense_ms": spread(ms),
                "sparse_ms": spread(ms / gain),
                "speedup": {"median": gain, "p10": gain - 0.06, "p90": gain + 0.05},
                "device": device,
                "breakdown": [
                    {"name": "motion", "dense_ms": ms / 4, "sparse_ms": ms / 5},
                    {"name": "pixels", "dense_ms": ms / 2, "sparse_ms": ms / 4},
                ],
            }
            for provider, threads, ms, gain, device in [
                ("CPU", 2, 31_240.0, 1.71, "Example CPU"),
                ("CUDA", 1, 118.2, 1.42, "Example GPU"),
            ]
        ],
        "quality": [
            {
                "dataset": "example clips",
                "clips": 2,
                "frames": 9,
                "intra": "x265 intra, QP 22",
                "points": points,
                "bd_psnr_db": -0.118,
                "bd_rate_percent": 3.42,
                "clips_detail": details,
                "anchors": [
                    {"codec": "x265 medium", "bpp": b, "psnr": p - 0.5} for _, b, p in rates
                ],
            }
        ],
        "parity": {"masked_vs_shrunk": 3.1e-7, "torch_vs_onnx": 4.4e-6},
        "environment": {
            "python": "3.11.8",
            "torch": "2.15.0",
            "cpu": "Example CPU",
            "gpu": None,
            "leanvc": "0.1.0",
            "commit": "0123abc",
        },
        "training": [
            {
                "stage": stage,
                "step": steps,
                "loss": [(3 - at) * f + 0.4 for f in fall],
                "bpp": [0.2 * f + 0.1 for f in fall],
                "psnr": [33 - 3 * f + at / 3 for f in fall],
                "beta": [max(0.0, 1 - s / 3000) for s in steps] if at == 2 else [],
                "keep": [0.55 + 0.45 * f for f in fall],
                "budget": [0.55 for _ in steps],
            }
            for at, stage in enumerate(stages)
        ],
        "channels": {
            "groups": [
                {"name": "fusion.0", "layers": ["context_fusion.a"], "dense": 64, "sparse": 48},
                {"name": "recon.0", "layers": ["reconstruction.a"], "dense": 64, "sparse": 32},
            ],
            "by_layer": {
                "context_fusion.a": pair(64, 48),
                "reconstruction.a": pair(64, 32),
                "reconstruction.b": pair(64, 32),
            },
        },
        "warnings": ["2 clips could not be read and were left out: a.mp4, b.mp4"],
        "times": {"train": 7265.0, "evaluate": 41.2},
    }


def edited(**changes):
    return content() | changes


def saved(folder, report_content):
    path = folder / "report.json"
    path.write_text(json.dumps(report_content), encoding="utf-8")
    return path


def pictures(count=1, height=48, width=64, clip="harbour"):
    random = np.random.default_rng(5)
    frames = random.integers(0, 256, (count, 3, height, width, 3), dtype=np.uint8)
    return [Picture(clip, at, *frame) for at, frame in enumerate(frames)]


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes and its text."""

    VOID = frozenset({"meta", "img", "link", "br", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pages of the whole example."""
    folder = tmp_path_factory.mktemp("run")
    write_report(Report.model_validate(content()), folder, pictures())
    return folder


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


# The schema


def test_a_report_survives_being_written_and_read(folder):
    assert load_report(folder) == load_report(folder / "report.json")
    assert load_report(folder) == Report.model_validate(content())
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == content()


def test_only_the_three_files_are_left_in_the_folder(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json", "report.md"]


def test_the_additions_may_be_left_out():
    additions = ("training", "channels", "warnings", "times")
    bare = {key: value for key, value in content().items() if key not in additions}
    written = json.loads(Report.model_validate(bare).to_json())
    assert "channels" not in written
    assert written["training"] == written["warnings"] == []


def leaves(node, path=()):
    """The path of every object's every key in a report."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if isinstance(node, dict):
            yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def at(node, path):
    for step in path:
        node = node[step]
    return node


FREE = ("recipe", "times", "training", "channels", "warnings", "by_module", "by_layer")
OPTIONAL = ("onnx", "breakdown", "clips_detail", "anchors", *FREE[2:5], "times")
FIXED = [
    path for path in leaves(content()) if not (set(path[:-1]) & {*FREE} or path[-1] in OPTIONAL)
]


@pytest.mark.parametrize("path", FIXED, ids=lambda path: ".".join(map(str, path)))
def test_every_field_of_the_schema_is_asked_for_by_name(path, tmp_path):
    broken = content()
    del at(broken, path[:-1])[path[-1]]
    with pytest.raises(UserError) as refusal:
        load_report(saved(tmp_path, broken))
    assert "report.json" in str(refusal.value)
    assert path[-1] in str(refusal.value)
    assert "\n" not in str(refusal.value)


NULLABLE = [
    ("macs", "decoder", "sparse"),
    ("macs", "decoder", "reduction"),
    ("parameters", "total", "dense"),
    ("latency", 0, "speedup"),
    ("quality", 0, "bd_psnr_db"),
    ("quality", 0, "points", 1, "sparse", "ms_ssim"),
    ("quality", 0, "clips_detail", 0, "psnr_lost_db"),
    ("parity", "torch_vs_onnx"),
    ("environment", "commit"),
]


@pytest.mark.parametrize("path", NULLABLE, ids=lambda path: ".".join(map(str, path)))
def test_a_null_needs_a_reason_beside_it(path, tmp_path):
    unmeasured = content()
    *place, field = path
    at(unmeasured, place)[field] = None
    with pytest.raises(UserError, match=f"{field} is null and no why says the reason"):
        load_report(saved(tmp_path, unmeasured))

    at(unmeasured, place)["why"] = {"another field": "no"}
    with pytest.raises(UserError, match=field):
        load_report(saved(tmp_path, unmeasured))

    for why in ("no time was left", {field: "no time was left"}):
        at(unmeasured, place)["why"] = why
        report = load_report(saved(tmp_path, unmeasured))
        assert json.loads(report.to_json()) == unmeasured


def test_a_rate_and_a_gpu_that_do_not_exist_need_no_reason():
    fixed = content()
    fixed["quality"][0]["points"] = fixed["quality"][0]["points"][:1]
    fixed["quality"][0]["points"][0]["rate"] = None
    report = Report.model_validate(fixed)
    assert report.quality[0].points[0].rate is None
    assert report.environment.gpu is None


@pytest.mark.parametrize("part", ["latency", "quality"])
def test_nothing_measured_at_all_needs_a_reason_too(part, tmp_path):
    with pytest.raises(UserError, match=f"{part} is empty"):
        load_report(saved(tmp_path, edited(**{part: []})))
    report = load_report(saved(tmp_path, edited(**{part: []}, why={part: "switched off"})))
    assert report.reason(part) == "switched off"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema": 2}, "schema 2 is not known"),
        ({"schema": "1"}, "schema '1' is not known"),
        ({"extra": 1}, "extra"),
        ({"created": "yesterday"}, "created is not an ISO-8601 time"),
        ({"parity": {"masked_vs_shrunk": "0.1", "torch_vs_onnx": 0.0}}, "parity.masked_vs_shrunk"),
        ({"parity": {"masked_vs_shrunk": math.nan, "torch_vs_onnx": 0.0}}, "masked_vs_shrunk"),
        ({"parity": {"masked_vs_shrunk": -1, "torch_vs_onnx": 0.0}}, "masked_vs_shrunk"),
        ({"times": {"train": math.inf}}, "times.train"),
        (
            {"training": [{"stage": "all", "step": [1, 2], "loss": [1.0]}]},
            "loss has 1 values",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(changes, told, tmp_path):
    path = saved(tmp_path, edited(**changes))
    with pytest.raises(UserError) as refusal:
        load_report(path)
    assert told in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_reduction_is_a_share_and_not_a_percentage(tmp_path):
    percent = content()
    percent["macs"]["decoder"]["reduction"] = 41.0
    with pytest.raises(UserError, match=r"macs\.decoder\.reduction"):
        load_report(saved(tmp_path, percent))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not JSON"),
        (b'{"schema": 1,', "not JSON"),
        (b"[]", "is not a leanvc report"),
        (b"{}", "is not a leanvc report"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"schema": 1, "codec": "x"', "line 1"),
        (b"[" * 200_000, "cannot be read"),
    ],
)
def test_a_file_that_is_no_report_is_refused_in_one_line(data, told, tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=told) as refusal:
        load_report(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_without_a_report_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "report.json"))):
        load_report(tmp_path)


def test_a_diverged_loss_is_a_gap_and_does_not_cost_the_report():
    curve = {"stage": "all", "step": [1, 2, 3], "loss": [1.0, math.nan, math.inf]}
    report = Report.model_validate(edited(training=[curve]))
    assert report.training[0].loss == [1.0, None, None]
    assert json.loads(report.to_json())["training"][0]["loss"] == [1.0, None, None]


def test_a_clip_whose_file_name_is_not_unicode_can_be_reported(tmp_path):
    odd = content()
    odd["quality"][0]["clips_detail"][0]["clip"] = "caf\udce9.mp4"
    write_report(Report.model_validate(odd), tmp_path)
    assert load_report(tmp_path).quality[0].clips_detail[0].clip == "caf?.mp4"


def test_a_setting_is_looked_up_in_its_section_of_the_recipe():
    report = Report.model_validate(content())
    assert report.setting("prune", "budget") == 0.55
    assert report.setting("prune", "colour") is None
    assert report.setting("output", "budget") is None
    assert report.setting("distill", "budget") is None


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_recipe_survives_the_compact_writing_of_lists(value):
    recipe = {"value": value}
    written = Report.model_validate(edited(recipe=recipe)).to_json()
    assert json.loads(written)["recipe"] == recipe


# The pages


def test_the_page_parses_and_has_every_section(html):
    page = Page(html)
    assert "headlines" in page.ids
    sections = [a.get("id") for tag, a in page.elements if tag == "section"]
    assert sections == SECTIONS
    assert "2 clips could not be read" in page.text


def test_no_two_elements_share_an_id_unless_they_are_the_same_drawing(html):
    drawn = re.findall(r'<(\w+)[^>]* id="([^"]+)"[^>]*>(.*?)</\1>', html, flags=re.DOTALL)
    by_id = {}
    for _, name, body in drawn:
        if name not in (*SECTIONS, "headlines", "warnings"):
            assert by_id.setdefault(name, body) == body


def test_the_page_refers_to_nothing_outside_itself(html):
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    known = {f"#{name}" for name in page.ids}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            if name in attributes:
                target = attributes[name]
                assert target in known or (tag == "img" and target.startswith("data:image/jpeg"))
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= known
    assert "@import" not in html
    assert "http:" not in html and "https:" not in html


def test_the_page_shows_the_headline_figures(html):
    text = Page(html).text
    for figure in ("45.5 %", "1.71×", "0.09 dB", "+0.6 %", "−0.12 dB", "BD-rate +3.4 %"):
        assert figure in text


def test_a_mean_says_over_how_many_rate_points_it_goes(tmp_path):
    partial = content()
    partial["quality"][0]["points"][0]["sparse"] |= {"psnr": None, "why": "decoding failed"}
    write_report(Report.model_validate(partial), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "**PSNR lost: 0.09 dB** (mean of 3 of 4 rate points, example clips)" in text


def test_the_first_question_is_answered_how_much_faster_than_eager_torch():
    given = content()
    eager = copy.deepcopy(given["latency"][0])
    eager |= {
        "runtime": "torch 2.15.0, eager",
        "dense_ms": {"median": 50_000.0, "p10": 1, "p90": 2},
    }
    eager["sparse_ms"] = {"median": 40_000.0, "p10": 1, "p90": 2}
    shown = {h.label: h for h in headlines(Report.model_validate(given))}
    assert "Against the dense codec in torch" not in shown
    told = Report.model_validate(given | {"latency": [*given["latency"], eager]})
    headline = {h.label: h for h in headlines(told)}["Against the dense codec in torch"]
    # The GPU's row is no answer: it is another device.
    assert headline.value.text == f"{50_000 / (31_240 / 1.71):.2f}×"
    assert headline.note == "sparse with onnxruntime 1.31.1, fp32"


def test_a_budget_in_time_is_shown_beside_what_was_measured(tmp_path):
    given = content()
    budget = {"latency": 0.4, "latency_ms": None, "runtime": "openvino", "precision": "fp32"}
    recipe = given["recipe"] | {"prune": {"method": "one-shot", "budget": budget}}
    prediction = {"runtime": "OpenVINO 1", "precision": "fp32", "threads": 2, "height": 256}
    prediction |= {"width": 448, "dense_ms": 110.0, "sparse_ms": 44.0}
    prediction |= {"measured_dense_ms": 100.0, "measured_sparse_ms": None, "why": "it was late"}
    report = Report.model_validate(given | {"recipe": recipe, "prediction": prediction})
    assert "budget latency 0.4 runtime openvino precision fp32" in about(report)
    rows = [[cell.text for cell in row] for row in tables.prediction(report.prediction).rows]
    assert rows[0] == ["dense", "110.0", "100.0", "+10.0 %"]
    assert rows[1][1] == "44.00" and rows[1][3] == "not measured"
    write_report(report, tmp_path, [])
    for name in ("report.md", "report.html"):
        assert "Predicted from the times of single layers" in (tmp_path / name).read_text()


def test_charts_take_their_colours_from_the_page(html):
    assert "#0a0a0" not in html
    charts = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(charts) == 8  # modules, channels, latency, rates, and four of the training
    assert not [chart for chart in charts[:4] if "var(--sparse)" not in chart]
    assert "prefers-color-scheme: dark" in html


def test_a_chart_of_many_steps_stays_small():
    steps = list(range(200_000))
    curve = TrainingCurve(stage="all", step=steps, loss=[step % 17 for step in steps])
    assert len(charts.training([curve], ("loss",), "loss")) < 40_000


def test_a_chart_without_values_is_not_drawn():
    curve = TrainingCurve(stage="all", step=[1, 2], loss=[math.nan, None])
    assert charts.training([curve], ("loss", "psnr"), "loss") is None
    assert charts.training([], ("loss",), "loss") is None


def test_stages_that_count_from_nought_follow_each_other():
    again = [TrainingCurve(stage=name, step=[0, 500], loss=[2.0, 1.0]) for name in "ab"]
    onward = [again[0], TrainingCurve(stage="b", step=[500, 1000], loss=[2.0, 1.0])]
    assert charts.training(again, ("loss",), "loss") == charts.training(onward, ("loss",), "loss")


def test_the_same_report_gives_the_same_page(folder, html, tmp_path):
    write_report(load_report(folder), tmp_path, pictures())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html
    for name in ("report.md", "report.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


HOSTILE = '<script>alert("$x^$")</script>|`*\n# x & y'


def hostile():
    """The example with the same hostile name wherever a user's words come in."""
    evil = content()
    evil["codec"] = evil["preset"] = HOSTILE
    evil["recipe"] = {"name": HOSTILE, "fence": "````", "prune": {"method": HOSTILE}}
    evil["warnings"] = [HOSTILE]
    evil["macs"]["decoder"]["by_module"][HOSTILE] = pair(10**12, 10**11)
    evil["channels"]["groups"][0] |= {"name": HOSTILE, "layers": [HOSTILE]}
    evil["channels"]["by_layer"][HOSTILE] = pair(64, 8)
    evil["training"][0]["stage"] = HOSTILE
    evil["times"] = {HOSTILE: 1.0}
    evil["latency"][0] |= {"runtime": HOSTILE, "device": HOSTILE}
    evil["latency"][0]["breakdown"][0]["name"] = HOSTILE
    evil["environment"]["cpu"] = HOSTILE
    entry = evil["quality"][0]
    entry |= {"dataset": HOSTILE, "intra": HOSTILE, "bd_psnr_db": None, "why": HOSTILE}
    entry["clips_detail"][0]["clip"] = HOSTILE
    entry["anchors"][0]["codec"] = HOSTILE
    return evil


def test_names_are_never_taken_for_markup(tmp_path):
    write_report(Report.model_validate(hostile()), tmp_path, pictures(clip=HOSTILE))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.text.count('<script>alert("$x^$")</script>') > 15

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    prose, recipe = text.split("`````yaml\n")
    assert "<" not in prose
    assert not re.search(r"^# x", prose, flags=re.MULTILINE)
    assert recipe.rstrip().endswith("`````")


def test_every_markdown_table_has_rows_of_one_length(folder):
    lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
    tables = [[]]
    for line in lines:
        if line.startswith("|"):
            tables[-1].append(line.count("|") - line.count("\\|"))
        elif tables[-1]:
            tables.append([])
    lengths = [set(table) for table in tables if table]
    assert len(lengths) >= 12
    assert all(len(length) == 1 for length in lengths)


def test_what_was_not_measured_says_why_in_both_pages(tmp_path):
    unmeasured = content()
    unmeasured["latency"][0] |= {"speedup": None, "why": {"speedup": "the clock stood still"}}
    unmeasured["parity"] |= {"torch_vs_onnx": None, "why": "no onnxruntime here"}
    unmeasured["quality"][0] |= {"bd_psnr_db": None, "why": {"bd_psnr_db": "one rate point"}}
    write_report(Report.model_validate(unmeasured), tmp_path)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8").replace("\\", "")
        for reason in ("the clock stood still", "no onnxruntime here", "one rate point"):
            assert f"not measured ({reason})" in text


def test_a_value_to_be_read_with_care_is_followed_by_its_caveat(tmp_path):
    careful = content()
    careful["quality"][0]["why"] = {"bd_rate_percent": "the curves overlap by half"}
    write_report(Report.model_validate(careful), tmp_path)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "+3.42 % (the curves overlap by half)" in text
        assert "−0.118 dB (" not in text


def test_a_report_of_hardly_anything_still_has_every_section(tmp_path):
    bare = {k: v for k, v in content().items() if k not in ("training", "channels", "times")}
    bare |= {"latency": [], "quality": [], "why": "switched off"}
    bare["macs"]["decoder"] |= {"by_module": {}, "sparse": None, "reduction": None, "why": "dense"}
    write_report(Report.model_validate(bare), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert set(SECTIONS) <= set(page.ids)
    assert page.text.count("not measured (switched off)") == 2
    assert "svg" not in {tag for tag, _ in page.elements}


@pytest.mark.parametrize(
    ("deviation", "verdict"), [(1e-5, "passed"), (1.1e-5, "failed"), (None, "not measured")]
)
def test_a_gate_is_held_against_its_tolerance(deviation, verdict, tmp_path):
    parity = {"masked_vs_shrunk": deviation, "torch_vs_onnx": 0.0, "why": "skipped"}
    write_report(Report.model_validate(edited(parity=parity)), tmp_path)
    row = next(
        line
        for line in (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| Masked against shrunk")
    )
    assert row.endswith(f"| {verdict} |")


def test_a_page_stays_small_however_many_pictures_there_are(tmp_path):
    noise = pictures(count=6, height=360, width=640)
    write_report(Report.model_validate(content()), tmp_path, noise)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page) < 6_000_000
    shown = page.count("data:image/jpeg") // 4
    assert 0 < shown <= 6
    if shown < 6:
        assert f"{6 - shown} more did not fit" in page


def test_wide_pictures_are_scaled_down_and_keep_their_shape(tmp_path):
    write_report(Report.model_validate(content()), tmp_path, pictures(height=200, width=1000))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert [(image["width"], image["height"]) for image in images] == [("640", "128")] * 4
    data = base64.b64decode(images[0]["src"].split(",")[1])
    assert data.startswith(b"\xff\xd8")


def test_the_amplified_difference_is_what_the_caption_says(html):
    dense = np.full((8, 8, 3), 100, np.uint8)
    apart, factor = difference(dense, dense + np.uint8(3))
    assert factor == 32
    assert (apart == 96).all()
    apart, factor = difference(dense, dense + np.uint8(100))
    assert factor == 2
    assert (apart == 200).all()
    assert "|Dense − sparse| × 1" in html  # noise against noise is not amplified


def test_pictures_of_unequal_size_are_refused():
    one = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UserError, match=r"market: sparse is \(4, 6, 3\)"):
        Picture("market", 1, one, one, np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(UserError, match="not uint8"):
        Picture("market", 1, one.astype(np.float32), one, one)


# Figures as text


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (digits(2586.3), "2,586"),
        (digits(0.012345), "0.01235"),
        (digits(0), "0.000"),
        (prefixed(2_586_000_000_000, "MAC"), "2,586 GMAC"),
        (prefixed(10_700_000, ""), "10.7 M"),
        (prefixed(5, "MAC", 10**9), "0.00000000500 GMAC"),
        (signed(-0.118, 2), "−0.12"),
        (signed(0.5, 1), "+0.5"),
        (signed(-0.001, 2), "0.00"),
    ],
)
def test_figures_are_written_as_in_a_paper(shown, wanted):
    assert shown == wanted


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_breaks_out_of_a_markdown_cell(text):
    shown = markdown_text(text)
    assert "\n" not in shown
    assert "<" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*\|", shown)


def test_a_report_cannot_be_built_with_a_name_that_the_schema_lacks():
    with pytest.raises(ValidationError, match="bdpsnr"):
        Report.model_validate(edited(bdpsnr=1))
