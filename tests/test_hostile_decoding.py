"""Damaged and forged files, weights and bundles end in one clear error, through whole decoders.

The container and the entropy coder have tests of their own; here real networks decode, by torch
(DCVC-HEM, I frames by a network) and by onnxruntime (FVC, lossless I frames). All attacks of
attacks.py in full: benchmarks/hostile.py.
"""

import json
import shutil
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import attacks
import numpy as np
import pytest
import targets
import torch
from attacks import CUT, DAMAGE, REFUSED, WHOLE

import lvc.decode
from lvc.coder import PayloadError
from lvc.container import Reader
from lvc.errors import UserError
from lvc.intra import LosslessPictures, NetworkPictures, create_pictures
from lvc.player import check_size
from vcodecs import registry
from vcodecs.coding import TorchNetworks

SEEDS = range(100)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return {
        "torch": targets.tiny_case(folder / "hem", "dcvc_hem", bundle=False),
        "onnxruntime": targets.tiny_case(folder / "fvc", "fvc"),
    }


@pytest.fixture(scope="module", params=targets.RUNTIMES)
def target(request, cases, tmp_path_factory):
    found = targets.Target(cases[request.param], request.param, tmp_path_factory.mktemp("target"))
    yield found
    torch.set_flush_denormal(False)


def ends(target, found):
    """How often attacks ended how; each of them as it is allowed to."""
    counted = Counter()
    for attack in found:
        ending = target.attempt(attack)
        assert not (problem := target.problem(attack, ending)), f"{attack.name}: {problem}"
        counted[ending.how] += 1
    return counted


# ---------------------------------------------------------------------- damage


def test_a_file_cut_anywhere_shows_its_whole_frames_and_says_that_it_is_cut(target):
    counted = ends(target, attacks.truncations(target.original))
    assert counted[REFUSED] == len(target.original.start)
    assert counted[CUT] == targets.FRAMES + 1
    assert counted.total() == len(target.original.data) == sum(counted.values())


def test_a_flipped_bit_outside_of_payloads_is_told_with_its_packet(target):
    counted = ends(target, attacks.flipped_heads(target.original, step=3))
    assert counted[REFUSED] > 500 and counted[DAMAGE] > 300 and len(counted) == 2


def test_flipped_bits_of_payloads_are_told_with_their_packet(target):
    assert ends(target, attacks.flipped_payloads(target.original, SEEDS)) == {DAMAGE: len(SEEDS)}


def test_payloads_with_right_checksums_never_pass_as_other_pictures(target):
    counted = ends(target, attacks.resealed_payloads(target.original, SEEDS))
    assert counted[DAMAGE] > 0.9 * len(SEEDS)


def test_what_is_wrong_with_a_payload_is_said(target):
    found = attacks.resealed_payloads(target.original, range(30))
    messages = {target.attempt(attack).message for attack in found}
    said = ("longer than what it codes", "than were coded", "than was coded", "no symbol")
    assert any(part in message for message in messages for part in said)
    assert not any("network" in m for m in messages if "other picture" in m)


def test_without_digests_damage_may_show_but_not_crash_or_take_long(target):
    found = attacks.resealed_payloads(target.original, SEEDS, digests=False)
    start = time.perf_counter()
    counted = ends(target, found)
    assert time.perf_counter() - start < 3 * len(SEEDS) * max(target.seconds, 0.02)
    assert counted.keys() <= {DAMAGE, WHOLE}


def test_payloads_of_noise_zeros_and_other_packets_are_damage_or_pictures(target):
    assert ends(target, attacks.made_up_payloads(target.original, SEEDS))[DAMAGE] > 0


def test_damaged_frames_are_decoded_alike_every_time(target):
    for attack in attacks.resealed_payloads(target.original, range(20), digests=False):
        one, other = target.attempt(attack), target.attempt(attack)
        assert len(one.pictures) == len(other.pictures)
        assert targets.alike(one.pictures, other.pictures) == len(one.pictures)


# ---------------------------------------------------------------------- forged values


def test_a_rate_that_the_codec_has_not_is_damage_of_its_packet(target):
    rated = "hem" in target.case.name
    counted = ends(target, attacks.forged_rates(target.original))
    assert counted == ({DAMAGE: 9} if rated else {DAMAGE: 3, WHOLE: 6})


def test_absurd_headers_end_in_one_line_or_in_the_same_pictures(target, tmp_path):
    source, made = tmp_path / "forged.lvc", tmp_path / "made.mkv"
    counted = Counter()
    for attack in list(attacks.forged_headers(target.original))[::5]:
        targets.overwrite(source, attack.data)
        case, runtime = target.case, target.runtime
        ending = targets.ending_of(*targets.decode_by_command(case, runtime, source, made))
        assert ending.how in attack.ends, f"{attack.name}: {ending.how} {ending.message}"
        if ending.how == WHOLE and not attack.others:
            assert target.alike(ending) == len(target.pictures), attack.name
        counted[ending.how] += 1
    assert counted[REFUSED] > 15 and counted[WHOLE] > 1


@pytest.fixture
def player(target):
    """A command line that decodes with `target`: what it answers to a file of these fields."""

    def answer(tmp_path, fields, *more):
        data = attacks.assembled(attacks.header_of(fields), target.original.packets)
        targets.overwrite(tmp_path / "forged.lvc", data)
        return targets.run_command(
            lvc.decode.main, "decode", tmp_path / "forged.lvc", tmp_path / "x.mkv", *more
        )

    return answer


def test_pictures_that_take_much_memory_have_to_be_asked_for(target, player, tmp_path):
    fields = target.original.header | {"width": 4096, "height": 2305}
    bundle = ["--bundle", target.case.folder]
    told = player(tmp_path, fields, *bundle)
    assert told.status == 2 and "4096x2305, more than 9437184 pixels" in told.error
    assert "--most-pixels 9441280" in told.error
    allowed = player(tmp_path, fields, *bundle, "--most-pixels", 9441280)
    assert "not a readable bundle" in allowed.error


def test_a_player_takes_pictures_up_to_its_limit(target):
    with Reader(target.case.file) as reader:
        header = replace(reader.header, width=4096, height=2304)
    check_size(header, target.path, 4096 * 2304)
    with pytest.raises(UserError, match="4096x2304, more than 9437183 pixels"):
        check_size(header, target.path, 4096 * 2304 - 1)


def test_a_few_bytes_that_claim_large_pictures_cost_no_networks(cases):
    """The hyper latent of 4096x2304 is not in the payload: told before any graph runs."""
    payload = attacks.Original(cases["torch"].file).packets[0].payload
    networks = TorchNetworks(registry.codec_of(cases["torch"].intra_weights))
    networks.run = None
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError, match=r"ends before what it codes|bits that are no"):
            NetworkPictures(networks).decode(payload, 2304, 4096, 1.0)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", ["--5", "-", "²", "+5", "1_0", "9" * 200])
def test_odd_numbers_in_the_options_of_i_frames_are_told(value):
    with pytest.raises(UserError, match="qp"):
        create_pictures(f"hevc:qp={value}")


def test_a_picture_of_no_numbers_is_damage(target):
    networks, _ = target.decoder
    packet = target.original.packets[1]

    class Broken(type(networks)):
        def run(self, graph, inputs):
            made = super().run(graph, inputs)
            return {k: v * np.float32("nan") if k == "frame" else v for k, v in made.items()}

    broken = object.__new__(Broken)
    broken.__dict__ = networks.__dict__
    ending = decoded_by(target, broken)
    assert (ending.how, ending.frame) == (DAMAGE, packet.frame)
    assert "no numbers" in ending.message


def decoded_by(target, networks):
    """How the original ends with other networks for its P frames."""
    other = object.__new__(targets.Target)
    other.__dict__ = target.__dict__ | {"decoder": (networks, target.decoder[1]), "_seen": {}}
    whole = attacks.Attack("original", target.original.data, 0, frozenset({DAMAGE}))
    return other.attempt(whole)


# ---------------------------------------------------------------------- conventional I frames


@pytest.fixture(scope="module")
def lossless():
    picture = np.random.default_rng(0).integers(0, 256, (3, 36, 52), np.uint8)
    return LosslessPictures(), picture, LosslessPictures().compress(picture)


def test_a_conventional_picture_that_cannot_be_decoded_is_damage(lossless):
    coder, _, data = lossless
    for wrong in (b"", b"\0", data[:2], bytes(100), b"\xff" * 100):
        with pytest.raises(PayloadError):
            coder.decode(wrong, 36, 52, None)


def test_damaged_pictures_are_not_decoded_with_the_memory_behind_them(lossless):
    coder, picture, data = lossless
    assert np.array_equal(coder.decompress(data, 36, 52), picture)
    for length in (len(data) // 2, len(data) - 20, len(data) - 3):
        behind = (bytes(64), b"\xff" * 64, b"\x5a" * 64)
        cut = [memoryview(data[:length] + memory)[:length] for memory in behind]
        assert len({outcome(lambda d: coder.decompress(d, 36, 52), data) for data in cut}) == 1


def outcome(decompress, data):
    try:
        return decompress(data).tobytes()
    except UserError as error:
        return str(error)


# ---------------------------------------------------------------------- weights and bundles


def test_a_spoilt_file_of_weights_or_of_a_bundle_is_refused(target, tmp_path):
    case, runtime, made = target.case, target.runtime, tmp_path / "made.mkv"
    found = targets.spoilt_decoders(case, runtime, tmp_path / "spoilt", range(1))
    for name, options in found:
        if name.startswith("bundle.json bit"):
            continue  # bundle.json has no checksum of its own
        told, pictures = targets.decode_by_command(case, runtime, case.file, made, **options)
        assert targets.ending_of(told, pictures).how == REFUSED, f"{name}: {told}"


def test_other_weights_are_refused(target, cases, tmp_path):
    case, runtime, made = target.case, target.runtime, tmp_path / "made.mkv"
    others = [other for other in cases.values() if other != case]
    for name, options in targets.wrong_decoders(case, runtime, others):
        told, pictures = targets.decode_by_command(case, runtime, case.file, made, **options)
        assert targets.ending_of(told, pictures).how == REFUSED, f"{name}: {told}"


def test_weights_of_video_are_refused_where_a_header_claims_them_for_i_frames(cases, tmp_path):
    case = cases["torch"]
    original, source = attacks.Original(case.file), tmp_path / "forged.lvc"
    forged = {"intra": {"codec": "dcvc_hem", "weights": original.header["weights"]}}
    header = attacks.header_of(original.header | forged)
    targets.overwrite(source, attacks.assembled(header, original.packets))
    told, _ = targets.decode_by_command(
        case, "torch", source, tmp_path / "x.mkv", intra_weights=case.weights
    )
    assert told.status == 2 and "the networks need 'reference'" in told.error


def test_a_bundle_of_one_frame_size_refuses_files_of_another(cases, tmp_path):
    case = cases["onnxruntime"]
    bundle = Path(shutil.copytree(case.bundle, tmp_path / "bundle"))
    content = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(content | {"size": [128, 128]}))
    made = tmp_path / "x.mkv"
    told, _ = targets.decode_by_command(case, "onnxruntime", case.file, made, bundle=bundle)
    assert (
        told.status == 2
        and "exported for frames of 128x128 alone, but the video's are 64x64" in told.error
    )


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 27.0 MiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 9"),
        RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"),
    ],
)
def test_memory_that_does_not_suffice_is_one_line(error, capsys):
    def command():
        raise error

    assert lvc.decode.exit_status(command) == 2
    assert capsys.readouterr().err.startswith("error: there is not enough memory")


def test_other_exceptions_are_bugs_and_are_not_hidden():
    with pytest.raises(RuntimeError, match="a bug"):
        lvc.decode.exit_status(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))
