import collections
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process's memory is limited in other ways")
def test_two_thousand_damaged_photos_are_read_or_refused_in_bounded_time_and_memory(tmp_path):
    command = [sys.executable, HERE / "damaged_photos.py", tmp_path, "2000", "0"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, env=environment)
    left = [path.name for path in tmp_path.iterdir()]
    assert done.returncode == 0, f"{left}\n{done.stderr[-3000:]}"
    outcomes = [line.split(" ", 1)[1].split(":", 1)[0] for line in done.stdout.splitlines()]
    assert len(outcomes) >= 2000
    # Or the damage would be too little or too much to find anything.
    assert all(count > 200 for count in collections.Counter(outcomes).values())
    assert set(outcomes) == {"read", "refused"}
