"""What the README shows in Python runs as it stands there, but for paths and the time it takes."""

import re
from pathlib import Path

import pytest
from toys import clip

from lvc.pictures import as_picture
from lvc.video import open_sink

README = Path(__file__).parents[1] / "README.md"


def write_clip(path, frames=9):
    """A lossless video of a toy clip, 128x128."""
    with open_sink(path, 128, 128, 25) as sink:
        for frame in clip(frames, side=128):
            sink.write(as_picture(frame[None].numpy()))


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(import prune\n.*?)```", README.read_text(), re.DOTALL)
    write_clip(tmp_path / "clip.mkv")
    for path in ("/data/clips", "/data/test"):
        assert path in block
        block = block.replace(path, str(tmp_path / "clip.mkv"))
    block, count = re.subn(r"steps=\d+", "steps=2", block)
    assert count == 2
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    told = capsys.readouterr().out
    assert "Channels that go together" in told and " dB, " in told
    assert all(
        float(part) == pytest.approx(65, abs=1) for part in re.findall(r"([\d.]+)% fewer", told)
    )
    assert (tmp_path / "bundle" / "bundle.json").is_file()
    assert (tmp_path / "small.safetensors").is_file()
