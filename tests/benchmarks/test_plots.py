import json
import re

import pytest
from synthetic import absent, record

from benchmarks import plots
from benchmarks.records import save


@pytest.fixture
def results(tmp_path, records):
    folder = tmp_path / "results"
    folder.mkdir()
    save(folder / "cpu.json", [*records, record("mrda_kernels", 8.0, mode="forward_backward")])
    steps = [{"stage": "teacher", "way": way, "images_per_second": 3.0} for way in ("released", "mrda")]
    (folder / "training_cpu.json").write_text(json.dumps(steps))
    (folder / "jpeg.json").write_text("{}")
    save(folder / "others_alone.json", [record("released", 1.0), absent(record("mrda_kernels", 1.0))])
    return folder


def test_each_record_file_becomes_the_same_picture_every_time(results, tmp_path, capsys):
    plots.main(["--results", str(results), "-o", str(tmp_path)])
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "speed-cpu.svg"),
        str(tmp_path / "speed-training_cpu.svg"),
    ]
    first = {path: path.read_bytes() for path in tmp_path.glob("*.svg")}
    assert all(content.startswith(b"<?xml") for content in first.values())
    plots.main(["--results", str(results), "-o", str(tmp_path)])
    assert {path: path.read_bytes() for path in tmp_path.glob("*.svg")} == first


def test_bars_are_times_of_ours_and_what_is_absent_has_none(records):
    broken = [absent(r) if "compiled" in r["provider"] else r for r in records]
    (axes,) = plots.speed(plots.best_layouts(broken)).axes
    lengths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert lengths == {"released": [10.0], "copy alone": [0.5]}


def test_a_stage_that_was_not_timed_in_a_way_has_no_bar():
    steps = [("teacher", "released", 2.0), ("teacher", "mrda", 3.0), ("student", "mrda", 4.0)]
    (axes,) = plots.training(
        [dict(zip(("stage", "way", "images_per_second"), step, strict=True)) for step in steps]
    ).axes
    lengths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert lengths == {"released": [2.0], "mrda": [3.0, 4.0]}


@pytest.mark.parametrize("option", ["--results", "--output"])
def test_a_folder_that_is_not_there_is_named(option, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        plots.main([option, str(tmp_path / "none")])
    assert re.search(f"{option} is .*none, but must be a folder", capsys.readouterr().err)
