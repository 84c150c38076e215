"""Rate-distortion evaluation: quality measures, Bjontegaard deltas, the coding loop, reports."""

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lvc.anchor import ClipCoder
from prune.data import open_source
from prune.data.source import ClipError, ClipInfo, Source
from prune.evaluation.metrics import PSNR_CAP, bd, ms_ssim, psnr, why_no_ms_ssim
from prune.evaluation.rate_distortion import evaluate, evaluate_clip
from prune.evaluation.spread import Spread
from prune.report.schema import Quality
from vcodecs import CodedFrame, Reference, UserError
from vcodecs.intra import CodedPicture, IntraCodec, create_intra

QUICK = settings(max_examples=30, deadline=None, derandomize=True)


class HalfWay(nn.Module):
    """Moves `step` of the way from the reference to the frame, for `bits` a frame."""

    def __init__(self, step=0.5, bits=1000.0):
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step))
        self.dropout = nn.Dropout()
        self.bits = bits
        self.calls = []

    def forward(self, frame, reference, rate=None):
        step = self.step + (0 if rate is None else 0.1 * rate)
        picture = (reference.frame + step * (frame - reference.frame)).clamp(0, 1)
        bits = torch.full((frame.shape[0],), self.bits * (1 + (rate or 0)))
        learns = self.training or self.dropout.training or torch.is_grad_enabled()
        call = {"seen": reference.frame, "gave": picture, "rate": rate, "learns": learns}
        self.calls.append(call)
        streams = {"motion": bits / 4, "latent": bits * 3 / 4}
        return CodedFrame(frame=picture, reference=Reference(frame=picture), bits=streams)


class Flat(IntraCodec):
    """Codes a picture as its mean, in `size` bytes."""

    name = "flat"

    def __init__(self, size=25):
        self.size = size
        self.encoded = 0

    def encode(self, frame, rate=None):
        self.encoded += 1
        mean = round(255 * float(frame.mean())) / 255
        return CodedPicture(torch.full_like(frame, mean), 8 * self.size)


class Clips(Source):
    """Clips from memory; an exception in place of a clip is raised when it is read."""

    name = "memory"

    def __init__(self, clips, skipped=None):
        self.clips = clips
        self.skipped = skipped or {}

    def __len__(self):
        return len(self.clips)

    def info(self, index):
        clip = self.clips[index]
        shape = (9, 3, 32, 32) if isinstance(clip, Exception) else clip.shape
        return ClipInfo(f"clip{index}", shape[0], shape[2], shape[3], 25.0)

    def read(self, index, start=0, count=None):
        if isinstance(self.clips[index], Exception):
            raise self.clips[index]
        return self.clips[index][start : start + count]


def noise(frames=5, height=32, width=48, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (frames, 3, height, width), dtype=np.uint8)


def as_tensor(picture):
    return torch.from_numpy(picture)[None] / 255.0


def as_picture(tensor):
    return (tensor[0] * 255).round().byte().permute(1, 2, 0).numpy()


# Quality


@QUICK
@given(st.integers(0, 1000), st.integers(1, 3), st.floats(1e-3, 1))
def test_psnr_follows_its_formula_with_one_error_over_the_three_channels(seed, count, size):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(count, 3, 5, 7, generator=generator)
    b = (a + size * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    measured = psnr(a, b)
    assert measured.shape == (count,)
    for n in range(count):
        error = float(((a[n].double() - b[n].double()) ** 2).sum()) / (3 * 5 * 7)
        assert float(measured[n]) == pytest.approx(10 * math.log10(1 / error), abs=1e-4)


def test_identical_frames_have_the_psnr_of_the_cap_and_broken_ones_none():
    frames = torch.rand(2, 3, 8, 8)
    assert psnr(frames, frames).tolist() == [PSNR_CAP, PSNR_CAP]
    assert psnr(frames, frames * math.nan).isnan().all()


def test_ms_ssim_is_one_for_identical_frames_and_falls_with_noise():
    frame = torch.rand(2, 3, 176, 176, generator=torch.Generator().manual_seed(0))
    noisy = (frame + 0.2 * torch.randn(frame.shape)).clamp(0, 1)
    assert ms_ssim(frame, frame).tolist() == pytest.approx([1, 1])
    assert ms_ssim(frame, noisy).shape == (2,) and ms_ssim(frame, noisy).max() < 0.99


def test_frames_too_small_for_ms_ssim_have_none_and_a_reason():
    small, enough = torch.rand(1, 3, 160, 300), torch.rand(1, 3, 161, 161)
    assert ms_ssim(small, small) is None
    why = why_no_ms_ssim(160, 300)
    assert why == "MS-SSIM needs sides of at least 161, the frames have 300x160"
    assert ms_ssim(enough, enough) is not None and why_no_ms_ssim(161, 161) is None


# Bjontegaard

RATES = [0.05, 0.1, 0.2, 0.4]
QUALITIES = [30.0, 33.0, 35.5, 37.2]


@QUICK
@given(shift=st.floats(-2, 2))
def test_a_curve_shifted_in_psnr_has_that_bd_psnr(shift):
    delta = bd(RATES, QUALITIES, RATES, [quality + shift for quality in QUALITIES])
    assert delta.psnr_db == pytest.approx(shift, abs=1e-9)


@QUICK
@given(factor=st.floats(0.6, 1.6))
def test_a_curve_of_more_bits_has_that_bd_rate(factor):
    delta = bd(RATES, QUALITIES, [rate * factor for rate in RATES], QUALITIES)
    assert delta.rate_percent == pytest.approx(100 * (factor - 1), abs=1e-6)


def test_a_worse_curve_has_negative_bd_psnr_and_positive_bd_rate_in_any_order_of_points():
    worse = [quality - 0.5 for quality in QUALITIES]
    delta = bd(RATES, QUALITIES, RATES, worse)
    assert delta.psnr_db < 0 < delta.rate_percent and delta.why is None
    assert bd(RATES[::-1], QUALITIES[::-1], RATES, worse) == delta


@pytest.mark.parametrize(
    ("rates", "qualities", "why"),
    [
        ([0.1], [30], "needs 4 rate points, there are 1"),
        ([], [], "there are 0"),
        (RATES[:3], QUALITIES[:3], "there are 3"),
        (RATES, [30, 33, 32, 37], "to rise"),
        ([0.1, 0.1, 0.2, 0.3], QUALITIES, "to rise"),
        (RATES, [30, math.nan, 35, 37], "finite"),
        ([0, 0.1, 0.2, 0.4], QUALITIES, "above 0"),
    ],
)
def test_curves_that_bd_cannot_compare_give_none_and_a_reason(rates, qualities, why):
    for delta in (bd(rates, qualities, RATES, QUALITIES), bd(RATES, QUALITIES, rates, qualities)):
        assert delta.psnr_db is None and delta.rate_percent is None and why in delta.why


def test_curves_that_share_no_range_have_no_bd():
    delta = bd(RATES, QUALITIES, [rate * 100 for rate in RATES], QUALITIES)
    assert delta.psnr_db is None and delta.rate_percent is not None
    assert delta.why == "the curves share no range of rates"
    delta = bd(RATES, QUALITIES, RATES, [quality + 20 for quality in QUALITIES])
    assert delta.rate_percent is None and delta.psnr_db == pytest.approx(20)


def test_a_small_shared_range_is_said_beside_the_value():
    delta = bd(RATES, QUALITIES, RATES, [quality + 6 for quality in QUALITIES])
    assert delta.rate_percent is not None and "share only 9% of their range of PSNR" in delta.why


# One clip


def test_the_first_frame_of_each_gop_is_an_i_frame():
    result = evaluate_clip(HalfWay(), noise(7), Flat(), None, gop=3)
    assert "".join(result.frame_kind) == "IPPIPPI"


def test_bits_per_pixel_are_all_bits_over_all_pixels_i_frames_included():
    result = evaluate_clip(HalfWay(bits=1000), noise(5, 32, 48), Flat(size=25), None, gop=3)
    i_bits, p_bits, pixels = 8 * 25, 1000, 32 * 48
    assert result.bpp == pytest.approx((2 * i_bits + 3 * p_bits) / (5 * pixels), rel=1e-12)
    assert result.p_bpp == pytest.approx(p_bits / pixels, rel=1e-12)
    assert [round(bpp * pixels) for bpp in result.frame_bpp] == [200, 1000, 1000, 200, 1000]


def test_psnr_is_averaged_over_frames_and_over_p_frames():
    result = evaluate_clip(HalfWay(), noise(5), Flat(), None, gop=3)
    assert result.psnr == pytest.approx(np.mean(result.frame_psnr))
    assert result.p_psnr == pytest.approx(np.mean([result.frame_psnr[t] for t in (1, 2, 4)]))


def test_every_p_frame_starts_from_the_previous_reconstruction():
    codec, intra, frames = HalfWay(), Flat(), noise(6)
    evaluate_clip(codec, frames, intra, None, gop=4)
    i_frames = [intra.encode(as_tensor(frames[t])).frame for t in (0, 4)]
    assert len(codec.calls) == 4
    expected = [i_frames[0], codec.calls[0]["gave"], codec.calls[1]["gave"], i_frames[1]]
    for call, reference in zip(codec.calls, expected, strict=True):
        assert torch.equal(call["seen"], reference)


def test_the_measured_quality_is_that_of_the_codecs_pictures():
    codec, frames = HalfWay(step=0.7), noise(3)
    result = evaluate_clip(codec, frames, Flat(), None, gop=3, keep=(2,))
    gave = codec.calls[1]["gave"]
    assert result.frame_psnr[2] == pytest.approx(float(psnr(gave, as_tensor(frames[2]))))
    assert list(result.decoded) == [2] and np.array_equal(result.decoded[2], as_picture(gave))


def test_the_codec_runs_without_gradients_in_eval_mode_and_gets_its_modes_back():
    codec = HalfWay().train()
    codec.dropout.eval()
    evaluate_clip(codec, noise(3), Flat(), None, gop=3)
    assert not any(call["learns"] for call in codec.calls)
    assert codec.training and not codec.dropout.training
    nn.init.constant_(codec.step, math.nan)
    with pytest.raises(UserError, match="not finite"):
        evaluate_clip(codec, noise(3), Flat(), None, gop=3)
    assert codec.training and not codec.dropout.training


def test_frames_of_161_pixels_have_ms_ssim_and_smaller_ones_say_why_not():
    large = evaluate_clip(HalfWay(step=1.0), noise(2, 161, 170), Flat(), None, gop=2)
    assert 0.4 < large.ms_ssim < 1 and large.why is None
    small = evaluate_clip(HalfWay(step=1.0), noise(2, 160, 170), Flat(), None, gop=2)
    assert small.ms_ssim is None and "170x160" in small.why


@pytest.mark.parametrize(("frames", "gop"), [(1, 8), (4, 1), (4, 0)])
def test_a_structure_without_p_frames_is_refused(frames, gop):
    with pytest.raises(UserError, match="no P frame"):
        evaluate_clip(HalfWay(), noise(frames), Flat(), None, gop=gop)


def test_a_real_intra_codec_gives_the_i_frames_their_real_bits():
    frames, intra = noise(2), create_intra("hevc:qp=30")
    result = evaluate_clip(HalfWay(), frames, intra, None, gop=2)
    coded = intra.encode(as_tensor(frames[0]))
    assert result.frame_bpp[0] == coded.bits / (32 * 48)
    assert result.frame_psnr[0] == pytest.approx(float(psnr(coded.frame, as_tensor(frames[0]))))


# Whole evaluations


def both(**options):
    dense, sparse = HalfWay(step=0.8, bits=2000), HalfWay(step=0.75, bits=2200)
    arguments = {"intra": Flat(), "rates": [None], "frames": 5, "gop": 5} | options
    source = arguments.pop("source", None) or Clips([noise(5, seed=s) for s in (1, 2)])
    return evaluate({"dense": dense, "sparse": sparse}, source, **arguments), dense, sparse


def test_all_codecs_start_from_the_same_i_frames_each_coded_once():
    intra = Flat()
    _, dense, sparse = both(intra=intra, gop=3, rates=[0, 1])
    assert intra.encoded == 2 * 2
    starts = (0, 2, 3, 5)  # calls after an I frame: 3 P frames a clip and rate
    for call in starts:
        assert torch.equal(dense.calls[call]["seen"], sparse.calls[call]["seen"])


def test_averages_are_the_means_over_the_clips():
    evaluation, _, _ = both()
    for codec in ("dense", "sparse"):
        values = [(p.results[codec].bpp, p.results[codec].psnr) for p in evaluation.points]
        average = evaluation.average(codec, None)
        assert (average.bpp, average.psnr) == pytest.approx(np.mean(values, axis=0))


def test_every_codec_is_run_at_every_rate_on_every_clip():
    evaluation, dense, _ = both(rates=[0, 1])
    coded = [(point.clip, point.rate) for point in evaluation.points]
    assert coded == [(clip, rate) for clip in ("clip0", "clip1") for rate in (0, 1)]
    assert {call["rate"] for call in dense.calls} == {0, 1}
    low, high = evaluation.average("dense", 0), evaluation.average("dense", 1)
    assert low.bpp < high.bpp and low.psnr < high.psnr


def test_only_the_frames_and_clips_asked_for_are_coded():
    source = Clips([noise(9, seed=s) for s in range(4)])
    evaluation, dense, _ = both(source=source, frames=3, clips=2)
    assert evaluation.clips == ("clip0", "clip1") and len(dense.calls) == 2 * 2


def test_clips_that_cannot_be_used_are_left_out_counted_and_named():
    torn, gone = ClipError("clip0", "cannot be decoded"), UserError("clip4 went away")
    clips = [torn, noise(5), noise(4), noise(5, 8, 48), gone]
    evaluation, _, _ = both(source=Clips(clips, skipped={"torn.mp4": "is not a video"}))
    assert evaluation.clips == ("clip1",)
    assert evaluation.quality_entry("memory")["clips"] == 1
    assert evaluation.warnings == (
        "evaluation: 5 of 6 clips were left out",
        "left out: torn.mp4: is not a video",
        "left out: clip0: cannot be decoded",
        "left out: clip2: 4 frames, 5 needed",
        "left out: clip3: 48x8 pixels, 16x16 needed",
        "left out: clip4: clip4 went away",
    )


def test_no_usable_clip_is_an_error_that_gives_a_reason():
    with pytest.raises(UserError, match="none of its 1 clips can be used; clip0: 3 frames"):
        both(source=Clips([noise(3)]))


def test_files_that_are_damaged_are_left_out(tmp_path):
    stream = ClipCoder("h264", 20).compress(noise(4))
    (tmp_path / "good.h264").write_bytes(b"".join(stream))
    (tmp_path / "torn.mkv").write_bytes(b"not a video")
    evaluation, _, _ = both(source=open_source(str(tmp_path)), frames=4)
    assert evaluation.clips == ("good",)
    assert len(evaluation.warnings) == 2 and "torn.mkv" in evaluation.warnings[1]


def test_an_endless_source_needs_a_number_of_clips():
    with pytest.raises(UserError, match="say how many"):
        both(source=open_source("procedural"))


def test_a_codec_that_gives_no_numbers_is_named_with_clip_and_frame():
    codecs = {"dense": HalfWay(), "sparse": HalfWay(bits=math.inf)}
    with pytest.raises(UserError, match=r"sparse codec on clip clip0: frame 1: .*not finite"):
        evaluate(codecs, Clips([noise(3)]), Flat(), [None], frames=3, gop=3)


def test_progress_counts_up_to_the_total():
    seen = []
    clips = [noise(5), ClipError("clip1", "torn"), noise(5)]
    both(source=Clips(clips), rates=[0, 1], progress=lambda *step: seen.append(step))
    done, totals, texts = zip(*seen, strict=True)
    assert done == tuple(range(1, 9)) and totals[-1] == 8
    assert texts[0].startswith("clip0, dense at rate 0: ") and texts[0].endswith(" dB")


def test_pictures_show_the_last_p_frame_of_the_first_clips():
    source = Clips([noise(4, seed=s) for s in range(5)])
    evaluation, dense, sparse = both(source=source, frames=4, gop=3, rates=[1, 0])
    assert [picture.clip for picture in evaluation.pictures] == ["clip0", "clip1", "clip2"]
    first = evaluation.pictures[0]
    assert first.frame == 2 and first.rate == 1  # frame 3 is an I frame
    assert np.array_equal(first.original, source.clips[0][2].transpose(1, 2, 0))
    for name, codec in (("dense", dense), ("sparse", sparse)):
        assert np.array_equal(first.decoded[name], as_picture(codec.calls[1]["gave"]))
    assert both(pictures=0)[0].pictures == ()


def test_the_same_evaluation_twice_gives_the_same_numbers():
    assert both()[0].quality_entry("x") == both()[0].quality_entry("x")


# The report's entry


def test_the_entry_fits_the_report_and_says_why_values_are_missing():
    entry = both()[0].quality_entry("memory")
    quality = Quality.model_validate(json.loads(json.dumps(entry)))
    assert (quality.clips, quality.frames, quality.intra) == (2, 5, "flat")
    assert quality.bd_psnr_db is None and "4 rate points" in quality.reason("bd_psnr_db")
    dense = quality.points[0].dense
    assert dense.ms_ssim is None and "48x32" in dense.reason("ms_ssim")
    assert quality.points[0].rate is None and quality.clips_detail[1].clip == "clip1"


def test_psnr_lost_and_bpp_gained_are_differences_of_the_codecs():
    detail = both()[0].quality_entry("memory")["clips_detail"][0]
    dense, sparse = detail["dense"], detail["sparse"]
    assert detail["psnr_lost_db"] == dense["psnr"] - sparse["psnr"] > 0
    assert detail["bpp_gained"] == sparse["bpp"] - dense["bpp"] > 0


def test_four_rates_give_bjontegaard_deltas_of_the_averages():
    evaluation, _, _ = both(rates=[0, 0.5, 1, 1.5])
    entry = evaluation.quality_entry("memory")
    assert Quality.model_validate(entry).points[1].rate == 0.5
    curves = [
        [point[codec][value] for point in entry["points"]]
        for codec in ("dense", "sparse")
        for value in ("bpp", "psnr")
    ]
    delta = bd(*curves)
    assert (entry["bd_psnr_db"], entry["bd_rate_percent"]) == (delta.psnr_db, delta.rate_percent)
    assert delta.psnr_db < 0 < delta.rate_percent


def test_an_intra_period_shorter_than_the_clip_is_stated():
    assert both(gop=3)[0].quality_entry("memory")["intra"] == "flat, one I frame in 3"


def test_an_entry_needs_a_dense_and_a_sparse_codec():
    evaluation = evaluate({"dense": HalfWay()}, Clips([noise(3)]), Flat(), [None], 3, 3)
    assert evaluation.average("dense", None).bpp > 0
    with pytest.raises(ValueError, match="no codec named sparse"):
        evaluation.quality_entry("memory")


# Clips spread over processes


@given(count=st.integers(1, 4), clips=st.integers(1, 5), shown=st.integers(0, 3))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_clips_spread_over_processes_give_every_one_of_them_the_same_evaluation(
    count, clips, shown
):
    made = [noise(3 if seed % 3 == 2 else 5, seed=seed) for seed in range(clips)]
    whole, _, _ = both(source=Clips(made), rates=[0, 1], pictures=shown)
    meeting = threading.Barrier(count)
    said = [None] * count

    def gathered(rank):
        def exchange(found):
            said[rank] = found
            meeting.wait(30)
            heard = list(said)
            meeting.wait(30)
            return heard

        return exchange

    def one(rank):
        spread = Spread(rank, count, gathered(rank))
        return both(source=Clips(made), rates=[0, 1], pictures=shown, spread=spread)[0]

    with ThreadPoolExecutor(count) as pool:
        for found in pool.map(one, range(count)):
            assert found.points == whole.points
            assert found.warnings == whole.warnings
            assert [p.clip for p in found.pictures] == [p.clip for p in whole.pictures]
