"""What the processes of a launch share out, and where they meet."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path

import pytest
import soundfile
from warm_python import warm_python

from abhinaya.processes import map_in_shares

ROOT = Path(__file__).resolve().parents[1]


def test_one_process_maps_all_in_order_and_shows_its_progress(caplog):
    caplog.set_level("INFO", logger="abhinaya")
    assert map_in_shares(lambda number: number**2, [3, 1, 2], description="squaring") == [9, 1, 4]
    assert caplog.messages[-1] == "squaring: 3 of 3"
    assert map_in_shares(str, []) == []


@pytest.mark.slow
def test_two_processes_look_at_each_clip_once_and_name_who_is_late(tmp_path):
    """Every process decoded and hashed all audio."""
    script = tmp_path / "launched.py"
    script.write_text(
        textwrap.dedent("""
            import json, logging, os, sys, time
            from pathlib import Path
            from abhinaya import processes
            from abhinaya.loading import clips as module
            import torch
            from abhinaya.loading.clips import Clip, digest_clips, split_readable
            from abhinaya.nn.backbone import LayerMix

            logging.basicConfig(level=logging.INFO)
            processes._PATIENCE_S = 0.2
            folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
            seen = []
            for name in ("audio_digest", "audio_duration_s", "read_audio"):
                def look(path, name=name, look=getattr(module, name)):
                    seen.append([name, path.name])
                    return look(path)
                setattr(module, name, look)
            processes.join_launch()
            if rank == 1:
                time.sleep(3)
            processes.meet()
            clips = [Clip(f"{n}.wav", folder / f"{n}.wav") for n in range(5)]
            clips = module._fill_durations(clips)
            readable, problems = split_readable(clips)
            found = [[c.utterance, c.duration_s] for c in readable], [p.utterance for p in problems]
            result = {"found": found, "digests": digest_clips(clips), "seen": seen}
            mix = LayerMix(1, 1, standardize=True)
            frames = torch.tensor([2.0, 4.0] if rank == 0 else [9.0]).reshape(1, 1, -1, 1)
            mix.fit([(frames, torch.ones(1, frames.shape[2], dtype=torch.bool))])
            result["standardized"] = [mix.mean.item(), mix.std.item()]
            (folder / f"{rank}.json").write_text(json.dumps(result))
            processes.meet()
        """)
    )
    for number in range(4):  # the fifth is missing
        soundfile.write(tmp_path / f"{number}.wav", [0.1 * number] * 16_000 * (number + 1), 16_000)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [warm_python(), *launcher, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "waiting for process 1 of 0 to 1" in done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    names = [f"{number}.wav" for number in range(5)]
    assert first["found"] == [[[names[n], n + 1.0] for n in range(4)], ["4.wav"]]
    assert [entry[0] for entry in first["digests"]] == names
    assert len({entry[2] for entry in first["digests"]}) == 5
    assert (first["found"], first["digests"]) == (second["found"], second["digests"])
    # Mean of 2, 4, 9 is 5; variance is (9 + 1 + 16) / 3.
    for result in (first, second):
        assert result["standardized"] == pytest.approx([5.0, (26 / 3) ** 0.5])
    looks = ("audio_digest", "audio_duration_s", "read_audio")
    seen = sorted(first["seen"] + second["seen"])
    assert seen == [[look, name] for look in looks for name in names]
    assert len(first["seen"]) - len(second["seen"]) == 3  # of five clips one has three
