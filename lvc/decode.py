"""`decode` and `info` on the command line, for whatever runs the networks."""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

from .bundle import BUNDLE, BundleNetworks, read_bundle
from .container import Header, Reader
from .display import UNSTATED, Display
from .errors import UserError
from .intra import IntraDecoder, NetworkPictures, create_pictures
from .levels import BundleLevels, open_networks
from .packets import DamageError
from .player import MOST_PIXELS, Player, check_size, check_weights
from .program import Levels
from .runtimes import PRECISIONS, RUNTIMES, Arithmetic, Setting, check_setting
from .video import open_sink

INTRA_FOLDER = "intra"
"""Folder in a bundle: where the bundle of its learned I frames is."""

INT8_FOLDER = "int8"
"""Folder in a bundle: where the bundle of its graphs of 8 bits is."""

GRIDSAMPLE_FOLDER = "gridsample"
"""Folder in a bundle with deformable convolutions: the bundle that has them as sampling."""

Opener = Callable[[], tuple[Levels, str]]
"""Loads networks and says, for errors, where they are from."""


def opened(header: Header, video: Opener, intra: Opener) -> tuple[Levels, IntraDecoder]:
    """Decoders of a file's P frames and of its I frames, the weights of both checked.

    `intra` is only called where a network has coded the I frames.
    """
    networks, what = video()
    check_weights(header.weights, networks.identity, what)
    if "weights" not in header.intra:
        spec = header.intra["codec"] + (f":{o}" if (o := header.intra.get("options")) else "")
        try:
            return networks, create_pictures(spec)
        except UserError as error:
            raise UserError(f"the file's I frames: {error}") from error
    inner, what = intra()
    check_weights(header.intra["weights"], inner.identity, what)
    return networks, NetworkPictures(inner)


def open_bundle(folder: Path, header: Header, setting: Setting) -> tuple[Levels, IntraDecoder]:
    """A bundle for the P frames, and for the I frames the one inside it or a conventional codec.

    Learned I frames are float32 always: there are few of them, and all behind them builds on them.
    """

    def bundle(
        place: Path, setting: Setting, intra: bool
    ) -> tuple[BundleNetworks | BundleLevels, str]:
        bound = header.arithmetic is not None
        networks = open_networks(place, header.margin, setting, intra, bound)
        networks.check_size(header.height, header.width)
        return networks, str(place)

    def video() -> tuple[Levels, str]:
        networks, place = bundle(bundle_at(folder, setting), setting, False)
        check_arithmetic(header, networks.arithmetic)
        return networks, place

    learned = replace(setting, precision="fp32")
    return opened(header, video, lambda: bundle(folder / INTRA_FOLDER, learned, True))


def bundle_at(folder: Path, setting: Setting) -> Path:
    """The bundle for this setting: `folder`, or the one in it of 8 bits or for OpenVINO.

    UserError where there is none.
    """
    if setting.precision == "int8":
        folder = folder / INT8_FOLDER
        if not folder.is_dir():
            raise UserError(f"{folder}: there are no graphs of 8 bits: export.precision: int8")
    there = read_bundle(folder) if (folder / BUNDLE).exists() else {}
    if setting.runtime == "openvino" and there.get("deformable") == "DeformConv":
        folder = folder / GRIDSAMPLE_FOLDER
        if not folder.is_dir():
            raise UserError(
                f"{folder}: there is no such bundle, and OpenVINO has no deformable convolutions: "
                "export it with --deformable GridSample"
            )
    return folder


def check_arithmetic(header: Header, there: Arithmetic | None) -> None:
    """UserError where a file's bits have to be read by another arithmetic than is `there`."""
    needed = header.arithmetic
    if needed is None or needed == there:
        return
    if there and needed.graphs and (needed.runtime, "int8") == (there.runtime, there.precision):
        raise UserError(
            f"the file was made by other graphs of 8 bits ({needed.graphs[:12]}...) than these "
            f"({there.graphs[:12]}...): give the bundle that it was encoded by"
        )
    raise UserError(
        f"the file was made for {needed.runtime} in {needed.precision}, and its bits cannot be "
        f"read otherwise: decode it with --bundle, --runtime {needed.runtime} and --precision "
        f"{needed.precision}"
    )


def decode_file(
    source: Path,
    target: Path,
    opener: Callable[[Header], tuple[Levels, IntraDecoder]],
    given: argparse.Namespace,
) -> None:
    """Decode `source` to `target`. Damage: what was decoded up to it is kept, and it is told.

    `given`: the options of `add_commands`. UserError, before anything is opened, where a picture
    has more than `most_pixels` or there is no frame `start`.
    """
    with Reader(source) as reader:
        header = reader.header
        check_size(header, source, given.most_pixels)
        _check_part(given, reader)
        networks, intra = opener(header)
        left = None if reader.frames is None else reader.frames - given.start
        progress = FrameProgress(min(filter(None, (left, given.frames)), default=None))
        size, rate = (header.width, header.height), Fraction(*header.fps)
        with open_sink(target, *size, rate, header.display) as sink:
            try:
                shown_frames = Player(reader, networks, intra).pictures(given.start)
                for shown in islice(shown_frames, given.frames):
                    sink.write(shown.picture, shown.time)
                    progress.step(shown.bits, header.width * header.height)
            except DamageError:
                if progress.frames:
                    sink.keep()
                raise
            finally:
                progress.end()
        if not reader.complete:
            print(f"{source}: has no index, its encoding was cut short", file=sys.stderr)


def _check_part(given: argparse.Namespace, reader: Reader) -> None:
    if given.start < 0 or (given.frames is not None and given.frames < 1):
        raise UserError("--start counts frames from 0, --frames from 1")
    if reader.frames is not None and given.start >= reader.frames:
        raise UserError(f"--start {given.start}: {reader.path} has {reader.frames} frames")


def info(source: Path) -> str:
    """The contents of a file, as lines of text."""
    with Reader(source) as reader:
        h = reader.header
        kinds: dict[str, list[int]] = {"I": [], "P": []}
        damage, times = "", (0, 0)  # of the first frame and the last
        try:
            for packet in reader.packets():
                kinds[packet.kind].append(packet.length)
                times = (times[0] if packet.frame else packet.time or 0, packet.time or 0)
        except DamageError as error:
            damage = str(error)
    frames = sum(map(len, kinds.values()))
    total = sum(map(sum, kinds.values()))
    intra = ", ".join(f"{key} {value[:12]}" for key, value in h.intra.items())
    lines = [
        f"codec:    {h.codec} {h.preset}, weights {h.weights[:12]}...",
        f"I frames: {intra}; every {h.intra_period} frames",
        *([f"made for: {h.arithmetic}"] if h.arithmetic else []),
        f"picture:  {h.width}x{h.height}, {h.fps[0]}/{h.fps[1]} frames a second",
        f"frames:   {frames} ({len(kinds['I'])} I, {len(kinds['P'])} P)",
        *_shown(h.display),
    ]
    if frames:
        bpp = 8 * total / frames / (h.width * h.height)
        rate = Fraction(*h.fps)
        if h.display.time_base and frames > 1:
            rate = (frames - 1) / (Fraction(*h.display.time_base) * (times[1] - times[0]))
            lines.append(f"length:   {float(frames / rate):.2f} s, each frame at its own time")
        kilobits = float(8 * total / frames * rate / 1000)
        lines.append(f"rate:     {bpp:.4f} bits a pixel, {kilobits:.0f} kbit/s")
    if damage:
        lines.append(f"damaged:  {damage}")
    elif not reader.complete:
        lines.append("index:    missing: the encoding was cut short")
    return "\n".join(lines)


def _shown(display: Display) -> list[str]:
    """Lines of `info` about a display that is not plain."""
    lines = []
    if display.aspect != (1, 1):
        lines.append(f"pixels:   {display.aspect[0]}:{display.aspect[1]}")
    stated = {"primaries": display.primaries, "transfer": display.transfer}
    stated |= {"matrix": display.matrix}
    colours = [f"{name} {number}" for name, number in stated.items() if number != UNSTATED]
    colours += ["full range"] * display.full_range
    return lines + ([f"colours:  {', '.join(colours)}"] if colours else [])


class FrameProgress:
    """One line on the terminal: frames, frames a second, bits a pixel, PSNR where it is known.

    `total` is what a file says of itself; it is not shown any more when there are more frames.
    """

    def __init__(self, total: int | None) -> None:
        self.total, self.frames, self._bits, self._psnr = total, 0, 0.0, 0.0
        self._start = self._shown = time.monotonic()

    def step(self, bits: int, pixels: int, psnr: float | None = None) -> None:
        """One frame more; `bits` of its whole packet, as `info` counts them."""
        self.frames += 1
        self._bits += bits / pixels
        self._psnr += psnr or 0.0
        if time.monotonic() - self._shown > 0.5 and _on_terminal():
            self._shown = time.monotonic()
            print(f"\r{self}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """The line that stays."""
        if self.frames:
            print(f"{chr(13) if _on_terminal() else ''}{self}", file=sys.stderr)

    def __str__(self) -> str:
        pace = self.frames / max(1e-9, time.monotonic() - self._start)
        bar = of = ""
        if self.total and self.frames <= self.total:
            done = 24 * self.frames // self.total
            bar, of = f"[{'=' * done}{' ' * (24 - done)}] ", f"/{self.total}"
        quality = f"  {self._psnr / self.frames:.2f} dB" if self._psnr else ""
        mean = self._bits / self.frames
        return f"{bar}{self.frames}{of} frames  {pace:.2f} fps  {mean:.4f} bpp{quality}"


def _on_terminal() -> bool:
    """A process without a console has no standard error at all."""
    return sys.stderr is not None and sys.stderr.isatty()


def add_commands(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """`decode` and `info`; returns the parser of `decode`, which may get more options."""
    decode = commands.add_parser("decode", help="decode an .lvc file")
    decode.add_argument("source", type=Path, metavar="IN.lvc")
    decode.add_argument("target", type=Path, metavar="OUT", help=".y4m, .mkv, .mp4 or a folder")
    decode.add_argument("--bundle", type=Path, help="folder of ONNX graphs")
    add_setting(decode)
    decode.add_argument(
        "--start", type=int, default=0, help="first frame to show, from 0 (seeks its I frame)"
    )
    decode.add_argument("--frames", type=int, help="at most so many")
    decode.add_argument(
        "--most-pixels",
        type=int,
        default=MOST_PIXELS,
        help="refuse larger pictures, which take much memory (default 4096x2304: %(default)s)",
    )
    shown = commands.add_parser("info", help="say what an .lvc file holds")
    shown.add_argument("source", type=Path, metavar="IN.lvc")
    return decode


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Options of what runs a bundle's graphs: `setting_of`."""
    parser.add_argument(
        "--runtime", choices=RUNTIMES, help="runs the bundle (default: the file's, or onnxruntime)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of its graphs (default: the file's, or fp32); those that decide how bits are read "
        "have that of the file anyhow",
    )
    parser.add_argument("--threads", type=int, default=0, help="of the runtime (default: all)")


def setting_of(given: argparse.Namespace, made_for: Arithmetic | None = None) -> Setting:
    """As the options say, else as a file says that it is made for.

    UserError for a setting that this machine does not have.
    """
    if given.threads < 0:
        raise UserError(f"--threads {given.threads}: give 1 or more, or 0 for all")
    runtime = given.runtime or (made_for.runtime if made_for else "onnxruntime")
    precision = given.precision or (made_for.precision if made_for else "fp32")
    if runtime not in RUNTIMES or precision not in PRECISIONS:
        raise UserError(f"the file was made for {runtime} in {precision}, which is not known here")
    check_setting(runtime, precision)
    return Setting(runtime, precision, given.threads)


def exit_status(command: Callable[[], None]) -> int:
    """Run a command: 0, 2 where the user can put something right (one line says what), 130.

    Memory that does not suffice counts as such.
    """
    try:
        command()
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if not _out_of_memory(error):
            raise
        print("error: there is not enough memory for pictures of this size", file=sys.stderr)
        return 2
    return 0


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: numpy, torch and onnxruntime have no exception in common for it."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "allocate memory" in said or "out of memory" in said


def main(arguments: list[str] | None = None) -> int:
    """The player's command line; its exit status."""
    # The player alone has a command, and another name.
    prog = "python -m lvc" if __package__ == "lvc" else "lvc"
    parser = argparse.ArgumentParser(prog=prog, description="Play .lvc video.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_commands(commands)
    given = parser.parse_args(arguments)
    return exit_status(lambda: _carry_out(given))


def _carry_out(given: argparse.Namespace) -> None:
    if given.command == "info":
        print(info(given.source))
        return
    if given.bundle is None:
        raise UserError("--bundle: give the folder of ONNX graphs that decodes the file")
    decode_file(
        given.source,
        given.target,
        lambda h: open_bundle(given.bundle, h, setting_of(given, h.arithmetic)),
        given,
    )
