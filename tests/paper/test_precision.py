import json

import pytest
import torch
from PIL import Image

from mrda.networks import MLN, MRDAStudent, save_network
from mrda.paper.studies import precision

TINY = {"scale": 4, "num_feat": 8, "num_blocks": 2, "den_width": 4}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    torch.manual_seed(0)
    pixels = torch.randint(256, (96, 100, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).resize((100, 96)).save(folder / "a.png")
    return folder


def test_what_each_way_loses_is_measured(tmp_path, photos, capsys):
    torch.manual_seed(0)
    students = [tmp_path / f"student{number}.safetensors" for number in range(2)]
    for path in students:
        save_network(MRDAStudent(**TINY), path)
    file = tmp_path / "out.json"
    precision.main(["--weights", *map(str, students), "--data", str(photos), "--json", str(file)])
    results = json.loads(file.read_text())
    assert results["student0"]["photos"]["psnr_y"] != results["student1"]["photos"]["psnr_y"]
    result = results["student1"]["photos"]
    assert set(result["loss"]) == {"bfloat16 features", "float16 features", "float16 file"}
    for way, loss in result["loss"].items():
        assert loss == pytest.approx(result["psnr_y"]["nothing"] - result["psnr_y"][way], abs=1e-12)
        assert 0 < abs(loss) < 0.1  # each is another computation, and no other network
    assert "| student1 | photos | bfloat16 features |" in capsys.readouterr().out


def test_other_weights_are_one_sentence(tmp_path, photos, capsys):
    save_network(MLN(scale=2, num_feat=4, num_body=1), tmp_path / "mln.safetensors")
    with pytest.raises(SystemExit):
        precision.main(["--weights", str(tmp_path / "mln.safetensors"), "--data", str(photos)])
    assert "must hold an MRDAStudent" in capsys.readouterr().err
