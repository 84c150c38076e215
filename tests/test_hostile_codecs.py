"""Damaged files of the codecs that the tests of hostile decoding leave out, a few of each attack.

All attacks in full, also on these: benchmarks/hostile.py.
"""

from collections import Counter

import attacks
import pytest
import targets
import torch
from attacks import CUT, DAMAGE, REFUSED

SEEDS = range(12)
CODECS = ("dcvc_sdd", "elf_vc", "slimvc")


@pytest.fixture(scope="module", params=CODECS)
def case(request, tmp_path_factory):
    return targets.tiny_case(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module", params=targets.RUNTIMES)
def target(request, case, tmp_path_factory):
    yield targets.Target(case, request.param, tmp_path_factory.mktemp("target"))
    torch.set_flush_denormal(False)


def ends(target, found):
    """How often attacks ended how; each of them as it is allowed to."""
    counted = Counter()
    for attack in found:
        ending = target.attempt(attack)
        assert not (problem := target.problem(attack, ending)), f"{attack.name}: {problem}"
        counted[ending.how] += 1
    return counted


def test_cut_files_show_their_whole_frames_and_say_that_they_are_cut(target):
    counted = ends(target, attacks.truncations(target.original, step=97))
    assert (
        counted[REFUSED]
        and counted[CUT] + counted[DAMAGE]
        and counted.keys()
        <= {
            REFUSED,
            CUT,
            DAMAGE,
        }
    )


def test_flipped_bits_are_told(target):
    assert ends(target, attacks.flipped_payloads(target.original, SEEDS)) == {DAMAGE: len(SEEDS)}
    heads = ends(target, attacks.flipped_heads(target.original, step=61))
    assert heads[REFUSED] and heads[DAMAGE] and len(heads) == 2


def test_payloads_with_right_checksums_never_pass_as_other_pictures(target):
    counted = ends(target, attacks.resealed_payloads(target.original, SEEDS))
    assert counted[DAMAGE] >= len(SEEDS) - 2


def test_without_digests_damage_may_show_but_not_crash(target):
    assert ends(target, attacks.resealed_payloads(target.original, SEEDS, digests=False))
    assert ends(target, attacks.made_up_payloads(target.original, range(3)))[DAMAGE]


def test_a_rate_that_the_codec_has_not_is_damage_of_its_packet(target):
    assert ends(target, attacks.forged_rates(target.original)) == {DAMAGE: 9}
