"""What the README shows in Python runs as it stands there, but for paths and the time it takes."""

import re
from pathlib import Path

import av
from toys import clip

README = Path(__file__).parents[1] / "README.md"


def write_clip(path, frames=9):
    """A lossless video of a toy clip, 128x128."""
    pixels = (clip(frames, side=128) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width = stream.height = 128
        stream.pix_fmt = "yuv444p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


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
    assert "Channels that go together" in told and "(65.0% fewer)" in told and " dB, " in told
    assert (tmp_path / "bundle" / "bundle.json").is_file()
    assert (tmp_path / "small.safetensors").is_file()
