import json

import pytest
from PIL import Image

from mrda.evaluation.protocols import noisy_name
from mrda.paper.studies import release


def test_legs_are_joined_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(release, "DOCS", tmp_path)
    logs = []
    for number, records in enumerate(([{"step": 10, "l1": 0.5}, {"step": 20}], [{"step": 5, "l1": 0.25}])):
        logs.append(tmp_path / f"{number}.jsonl")
        logs[-1].write_text("".join(f"{json.dumps(record)}\n" for record in records))
    release.main(["curve", f"first:8:{logs[0]}", f"second:2:{logs[1]}", "--name", "ours"])
    joined = [json.loads(line) for line in (tmp_path / "ours.jsonl").read_text().splitlines()]
    assert [(r["leg"], r["step"], r["images"]) for r in joined] == [
        ("first", 10, 80),
        ("first", 20, 160),
        ("second", 5, 170),
    ]
    with Image.open(tmp_path / "ours.png") as picture:
        assert picture.width > 500


def test_the_table_has_the_papers_rows(tmp_path, capsys):
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"datasets": {"Set5": {"mrda_s": {"psnr_y": 29.5, "ssim_y": 0.8}}}}))
    page = tmp_path / "page.md"
    page.write_text("<!-- weights:begin -->\n<!-- weights:end -->\n")
    release.main(["table", str(scores), "--update", str(page)])
    text = page.read_text()
    assert "| Set5 | mrda_s | 29.50 | 0.8000 |" in text
    assert "| Set5 | MRDA_S (paper) | 31.98 | 0.8872 |" in text
    assert "DASR (paper)" in text
    assert "IKC" not in text
    assert capsys.readouterr().out in text


def test_the_noisy_protocols_have_a_row_for_each_level_in_a_section_of_their_own(tmp_path):
    summary = {"psnr_y": 24.5, "ssim_y": 0.7}
    conditions = {noisy_name(f"k{number}", level): summary for number in range(1, 10) for level in (0, 10, 20)}
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"datasets": {"Set14": {"mrda_s": {**summary, "per_condition": conditions}}}}))
    page = tmp_path / "page.md"
    page.write_text("<!-- noisy:begin -->\n<!-- noisy:end -->\n")
    release.main(["table", str(scores), "--protocol", "mrda9", "--section", "noisy", "--update", str(page)])
    assert "| Set14 | mrda_s | 10 | 24.50 | 0.7000 |" in page.read_text()
    assert "MRDA_S (paper)" in page.read_text()
    assert "| k9 |" in page.read_text()
    release.main(["table", str(scores), "--protocol", "mrda9", "--section", "noisy", "--short", "--update", str(page)])
    assert "| Set14 | mrda_s | 10 | 24.50 | 0.7000 |" in page.read_text()
    assert "| k9 |" not in page.read_text()


def test_the_overview_has_a_row_for_each_data_set():
    scores = {"Set5": {"mrda_s": {"psnr_y": 29.5, "ssim_y": 0.8}}, "mine": {"mrda_s": {"psnr_y": 20, "ssim_y": 0.5}}}
    header, _, *rows = release.overview(scores).splitlines()
    assert header == "| PSNR-Y (dB) / SSIM-Y | mrda_s | RCAN (paper) | DASR (paper) | MRDA_S (paper) |"
    assert rows == [
        "| Set5 | 29.50 / 0.8000 | 26.60 / 0.7598 | 31.46 / 0.8789 | 31.98 / 0.8872 |",
        "| mine | 20.00 / 0.5000 | - | - | - |",
    ]


def test_runs_stand_side_by_side(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- compare:begin -->\n<!-- compare:end -->\n")
    runs = []
    for name, method, psnr in (("T1", "mrda_s", 26.5), ("T2", "mrda_t", 27.25)):
        methods = {"bicubic": {"psnr_y": 24, "ssim_y": 0.6}, method: {"psnr_y": psnr, "ssim_y": 0.7}}
        (tmp_path / name).write_text(json.dumps({"datasets": {"Set5": methods}}))
        runs.append(f"{name}={tmp_path / name}")
    release.main(["compare", *runs, "--update", str(page)])
    assert page.read_text().splitlines()[3:6] == [
        "| Set5 | bicubic | 24.00 | 0.6000 |",
        "| Set5 | T1 | 26.50 | 0.7000 |",
        "| Set5 | T2 | 27.25 | 0.7000 |",
    ]


def test_a_missing_file_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit):
        release.main(["table", str(tmp_path / "none.json")])
    assert "No such file" in capsys.readouterr().err
