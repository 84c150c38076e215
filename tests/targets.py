"""Whole decoders with real networks under attack, and what has to become of each attack.

A case is one small file with its weights and its bundle; a target decodes it, by torch or by
onnxruntime. `Target.attempt` decodes an attack of attacks.py and says how it ended, and
`Target.problem` whether that was not allowed.
"""

import contextlib
import io
import random
import shutil
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import hem
import numpy as np
from attacks import CUT, DAMAGE, REFUSED, WHOLE, Original, flipped
from reference_fill import picture
from test_real_bits import make, shrunk

import lvc.decode
import vcodecs.__main__
from lvc.container import Reader
from lvc.decode import open_bundle, opened
from lvc.errors import UserError
from lvc.packets import DamageError
from lvc.pictures import as_picture
from lvc.player import Player
from lvc.runtimes import Setting
from lvc.video import open_sink, open_source
from prune.onnx_export.bundle import Size, export_bundle
from vcodecs import checkpoints, registry
from vcodecs.coding import TorchNetworks

HEIGHT, WIDTH, FRAMES, PERIOD = 52, 60, 5, 3
INTRA = {
    "dcvc": "hevc:qp=30",
    "elf_vc": "lossless",
    "fvc": "lossless",
    "slimvc": "lossless",
}  # of other codecs a network
RUNTIMES = ("torch", "onnxruntime")
LONGEST_MESSAGE = 500

# ------------------------------------------------------------------------------ cases


@dataclass(frozen=True)
class Case:
    """A folder with a file, the weights and the bundle that decode it; `intra` codes I frames."""

    name: str
    folder: Path
    intra: str

    @property
    def file(self):
        return self.folder / "video.lvc"

    @property
    def weights(self):
        return self.folder / "video.safetensors"

    @property
    def intra_weights(self):
        return self.folder / "intra.safetensors"

    @property
    def bundle(self):
        return self.folder / "bundle"

    def decoding(self, runtime, bundle=None, weights=None, intra_weights=None):
        """Options of the command lines that decode the file."""
        if runtime == "onnxruntime":
            return ["--bundle", bundle or self.bundle, "--threads", "1"]
        options = ["--weights", weights or self.weights]
        if self.intra_weights.exists():
            options += ["--intra-weights", intra_weights or self.intra_weights]
        return options


def tiny_case(folder, codec, kind="dense", bundle=True):
    """A case of lively made-up weights, "dense" or "shrunk"; a bundle takes seconds to make."""
    made, intra = make(codec), None
    if codec not in INTRA:
        intra = hem.lively(hem.INTRA)
    if kind == "shrunk":
        made, intra = shrunk(made).eval(), intra and shrunk(intra).eval()
    return make_case(folder, f"{codec} {kind}", made, INTRA.get(codec), intra, bundle)


def make_case(folder, name, codec, spec, intra=None, bundle=True):
    """Weights, bundles and the file of a codec; `spec` codes I frames, else the codec `intra`."""
    folder = Path(folder)
    case = Case(name, folder, spec or f"network:checkpoint={folder / 'intra.safetensors'}")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.save(codec, case.weights)
    if bundle:
        export_bundle(codec, case.bundle, Size(128, 128))
    if intra is not None:
        checkpoints.save(intra, case.intra_weights)
    if intra is not None and bundle:
        export_bundle(intra, case.bundle / "intra", Size(128, 128))
    with open_sink(folder / "clip.mkv", WIDTH, HEIGHT, 25) as sink:
        for i in range(FRAMES):
            sink.write(as_picture(picture(HEIGHT, WIDTH, phase=0.1 * i).numpy()))
    points = codec.rates()
    rate = ["--rate", 0.43 * points[-1]] if len(points) > 1 else []
    options = ["--weights", case.weights, "--intra", case.intra, "--intra-period", PERIOD, *rate]
    told = run_command(vcodecs.__main__.main, "encode", folder / "clip.mkv", case.file, *options)
    assert told.status == 0, told.text
    return case


# ------------------------------------------------------------------------------ decoding


@dataclass(frozen=True)
class Ending:
    """How decoding ended: REFUSED, DAMAGE, CUT, WHOLE, or what should never happen.

    `frame`: the packet that DAMAGE names. `pictures`: what was shown before.
    """

    how: str
    pictures: list = field(repr=False, default_factory=list)
    message: str = ""
    frame: int | None = None


class Remembering(Player):
    """A player that decodes anew only what does not begin as a file it has seen.

    `seen`: from the packets so far to what they left behind; None of them is looked up where the
    header is another one.
    """

    def __init__(self, reader, networks, intra, seen, learning=False):
        super().__init__(reader, networks, intra)
        self._seen, self._learning, self._so_far = seen, learning, ()

    def _decode(self, packet, height, width):
        self._so_far = (*self._so_far, (packet.kind, packet.payload, packet.rate))
        if self._so_far in self._seen:
            self._before, decoded = self._seen[self._so_far]
            return decoded
        decoded = super()._decode(packet, height, width)
        if self._learning:
            self._seen[self._so_far] = self._before, decoded
        return decoded


class Target:
    """A case's file and one decoder of it; `pictures` are the original's, `seconds` it took."""

    def __init__(self, case, runtime, scratch):
        self.case, self.runtime = case, runtime
        self.path = Path(scratch) / "attacked.lvc"
        self.original = Original(case.file)
        with Reader(case.file) as reader:
            self.decoder = open_decoder(case, runtime, reader.header)
        self._seen = {}
        for learning in (False, False, True):  # the first one also loads and warms up
            begin = time.perf_counter()
            ending = self._decode(self.original.data, learning)
            self.seconds = time.perf_counter() - begin
        assert (ending.how, len(ending.pictures)) == (WHOLE, FRAMES), ending.message
        self.pictures = ending.pictures

    def attempt(self, attack):
        return self._decode(attack.data)

    def _decode(self, data, learning=False):
        overwrite(self.path, data)
        shown, reader = [], None
        try:
            with warnings.catch_warnings(), Reader(self.path) as reader:
                warnings.simplefilter("error")  # such as numpy's of an overflow
                player = Remembering(reader, *self.decoder, self._seen, learning)
                shown.extend(frame.picture for frame in player.pictures())
        except DamageError as error:
            return Ending(DAMAGE, shown, str(error), error.frame)
        except UserError as error:
            how = REFUSED if reader is None else "an error that names no packet"
            return Ending(how, shown, str(error))
        except Exception as error:
            return Ending(f"a crash: {type(error).__name__}", shown, str(error))
        return Ending(WHOLE if reader.complete else CUT, shown)

    def problem(self, attack, ending):
        """What is not as it has to be; nothing where all is well."""
        whole = max(attack.packet, 0)
        if ending.how not in attack.ends:
            return f"ended with {ending.how}: {ending.message}"
        if ending.how in (DAMAGE, REFUSED) and (said := unclear(ending.message, self.path)):
            return said
        if ending.how == DAMAGE and not (
            ending.frame == len(ending.pictures) and ending.frame >= whole
        ):
            return f"names packet {ending.frame} after {len(ending.pictures)} pictures"
        if ending.how == DAMAGE and ending.frame > whole and not attack.others:
            return f"packet {attack.packet} was decoded though it is damaged"
        if ending.how != REFUSED and len(ending.pictures) < whole:
            return f"{len(ending.pictures)} pictures of {whole} that were whole"
        alike = self.alike(ending)
        if alike < (whole if attack.others else len(ending.pictures)):
            return f"shows another picture {alike}"
        return ""

    def alike(self, ending):
        """How many of the pictures are the original's, until the first other one."""
        return alike(ending.pictures, self.pictures)


def alike(pictures, originals):
    """How many pictures are the same from the first on."""
    pairs = enumerate(zip(pictures, originals, strict=False))
    unlike = (i for i, (one, other) in pairs if not np.array_equal(one, other))
    return next(unlike, min(len(pictures), len(originals)))


def open_decoder(case, runtime, header):
    """Networks and I frame decoder of a case."""

    def torch_networks(weights):
        return TorchNetworks(registry.codec_of(weights), header.margin), str(weights)

    if runtime == "onnxruntime":
        return open_bundle(case.bundle, header, Setting(threads=1))
    return opened(
        header, lambda: torch_networks(case.weights), lambda: torch_networks(case.intra_weights)
    )


def overwrite(path, data):
    """Put `data` into a file; one that is emptied again and again would wait for the disk."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()


def unclear(message, path):
    """Why this is no clear error of one line about a file; nothing where it is."""
    if not message.startswith(f"{path}: ") or "\n" in message:
        return f"not one line about the file: {message!r}"
    return "a very long message" if len(message) > LONGEST_MESSAGE + len(str(path)) else ""


# ------------------------------------------------------------------------------ command lines


@dataclass(frozen=True)
class Told:
    """What a command line answered: its status, and what it printed as errors."""

    status: int | str
    text: str

    @property
    def error(self):
        """The one line that says what is wrong; nothing where there is none, or several."""
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        return lines[0] if len(lines) == 1 and self.text.endswith(lines[0] + "\n") else ""


def run_command(main, *arguments):
    """A command line without a process of its own; an exception is its status, by name."""
    errors = io.StringIO()
    with (
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", RuntimeWarning)
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        except Exception as error:
            status = f"a crash: {type(error).__name__}: {error}"
    return Told(status, errors.getvalue())


def decode_by_command(case, runtime, source, target, **options):
    """Decode with the command line that has `runtime`: (what was told, the pictures made)."""
    target.unlink(missing_ok=True)
    main = lvc.decode.main if runtime == "onnxruntime" else vcodecs.__main__.main
    told = run_command(main, "decode", source, target, *case.decoding(runtime, **options))
    if not target.exists():
        return told, []
    with open_source(target) as made:
        return told, list(made)


def ending_of(told, pictures):
    """What a command line's answer means, as an `Ending`."""
    if told.status == 0 and "error: " not in told.text:
        return Ending(CUT if "cut short" in told.text else WHOLE, pictures)
    if told.status != 2 or not told.error:
        return Ending(f"status {told.status}", pictures, told.text)
    if "damaged at byte" in told.error:
        frame = int(told.error.partition(", packet ")[2].partition(":")[0])
        return Ending(DAMAGE, pictures, told.error, frame)
    if "is whole by its checksum" in told.error:
        frame = int(told.error.partition(": packet ")[2].partition(" ")[0])
        return Ending(DAMAGE, pictures, told.error, frame)
    how = "refused, but pictures were kept" if pictures else REFUSED
    return Ending(how, pictures, told.error)


# ------------------------------------------------------------------------------ bundles, weights


def spoilt_decoders(case, runtime, folder, seeds):
    """(name, options of `Case.decoding`): one file of a bundle, or of weights, missing or wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    if runtime == "onnxruntime":
        shutil.copytree(case.bundle, folder)
        options = {"bundle": folder}
    else:
        folder.mkdir()
        options = {}
        for key in ("weights", "intra_weights"):
            if getattr(case, key).exists():
                options[key] = Path(shutil.copy(getattr(case, key), folder))
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = file.read_bytes()
        for name, wrong in _spoilt_data(data, seeds):
            file.unlink(missing_ok=True)
            if wrong is not None:
                file.write_bytes(wrong)
            yield f"{file.relative_to(folder)} {name}", options
        file.write_bytes(data)


def _spoilt_data(data, seeds):
    yield "missing", None
    for length in (0, 1, len(data) // 2, len(data) - 2):
        yield f"cut at {length}", data[:length]
    for seed in seeds:
        place = random.Random(seed).randrange(8 * len(data))
        yield f"bit {place} flipped", flipped(data, [place])


def wrong_decoders(case, runtime, others):
    """(name, options): whole weights and bundles, but of other codecs, or of the other frames."""
    for other in others:
        if runtime == "onnxruntime":
            yield f"bundle of {other.name}", {"bundle": other.bundle}
        else:
            yield f"weights of {other.name}", {"weights": other.weights}
            if case.intra_weights.exists():
                yield f"I frames: weights of {other.name}", {"intra_weights": other.weights}
    if case.intra_weights.exists():
        if runtime == "onnxruntime":
            yield "bundle of the I frames", {"bundle": case.bundle / "intra"}
        else:
            yield "weights of the I frames", {"weights": case.intra_weights}
    if runtime == "onnxruntime":
        yield "no bundle", {"bundle": case.folder}
    else:
        yield "no weights", {"weights": case.folder / "absent.safetensors"}
        yield "a video for weights", {"weights": case.file}
