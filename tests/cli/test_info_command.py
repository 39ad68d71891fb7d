from pathlib import Path

import torch
from commands import one_sentence, run

from mrda.networks import MRDAStudent

REPOSITORY = Path(__file__).resolve().parents[2]


def test_info_shows_versions_and_backends():
    result = run("info")
    assert result.exit_code == 0, result.stderr
    assert torch.__version__.split("+")[0] in result.stdout
    assert "reference" in result.stdout


def test_info_shows_what_a_weights_file_holds(weights):
    result = run("info", weights)
    assert result.exit_code == 0, result.stderr
    network = MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4)
    count = sum(p.numel() for p in network.parameters())
    for words in ("MRDAStudent", f"{count:,}"):
        assert words in result.stdout
    assert "scale         2" in result.stdout


def test_info_refuses_what_holds_no_weights(tmp_path, photo):
    result = run("info", photo)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
