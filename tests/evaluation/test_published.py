from statistics import fmean

import pytest

from mrda.evaluation.paper import paper_rows
from mrda.evaluation.published import published, published_rows


def test_the_tables_are_whole():
    tables = published()
    assert [(row.scale, row.method) for row in tables.gaussian8] == [
        *((4, method) for method in ("DANv2", "DCLS", "KDSR_S-M", "KDSR_S-L")),
        (2, "DANv2"),
        (3, "DANv2"),
    ]
    for row in (*tables.gaussian8, *tables.dasr_iso):
        assert list(row.scores)[:4] == ["Set5", "Set14", "BSD100", "Urban100"]
    for row in tables.dasr_iso:
        assert all(scores[1] > scores[3] < scores[2] for scores in row.scores.values())  # the widest blur is the worst
    for row in (*tables.dasr9, *tables.mrda9):
        levels = sorted(row.psnr_y)
        assert levels == ([0, 5, 10] if row in tables.dasr9 else [0, 10, 20])
        assert all(a > b for a, b in zip(row.psnr_y[levels[0]], row.psnr_y[levels[2]], strict=True))


def test_the_papers_own_rows_come_first():
    rows = published_rows("Set5", "gaussian8", 4)
    own = paper_rows("Set5", "gaussian8", 4)
    assert rows[: len(own)] == own
    assert [(row.method, row.psnr_y, row.ssim_y, row.source) for row in rows[len(own) :]] == [
        ("DANv2", 32.00, 0.8885, "KDSR's paper"),
        ("DCLS", 32.12, 0.8890, "KDSR's paper"),
        ("KDSR_S-M", 32.02, 0.8892, "KDSR's paper"),
        ("KDSR_S-L", 32.11, 0.8933, "KDSR's paper"),
    ]


@pytest.mark.parametrize(
    ("folder", "protocol", "scale", "method", "values"),
    [
        ("Urban100", "dasr-iso", 2, "CDFormer", (33.11, 32.62, 32.08, 30.47)),
        ("B100", "dasr-iso", 3, "DASR", (28.96, 28.90, 28.62, 28.13)),
        ("Set14", "dasr9", 4, "DnCNN+DCLS", (27.56, 27.49, 26.32, 25.99, 25.88, 26.03, 25.70, 24.65, 23.95)),
        ("Set14", "mrda9", 4, "KDSR_S-M", (27.67, 27.99, 28.14, 28.20, 28.12, 27.99, 27.80, 27.87, 26.52)),
    ],
)
def test_rows_of_several_blurs(folder, protocol, scale, method, values):
    row = next(row for row in published_rows(folder, protocol, scale) if row.method == method)
    assert row.by_kernel == values
    assert row.psnr_y == fmean(values)
    assert row.noise_level in (None, 0)


def test_div2krk_by_its_folders_name():
    for folder in ("DIV2KRK", "DIV2KRK_public"):
        assert published_rows(folder, "div2krk", 2)[-1][:3] == ("DANv2", 32.58, 0.9048)
        assert published_rows(folder, "div2krk", 4)[-1][:3] == ("DANv2", 28.74, 0.7893)


@pytest.mark.parametrize(
    ("folder", "protocol", "scale"),
    [("Set5", "dasr9", 4), ("Set14", "dasr9", 2), ("Set5", "wide", 4), ("holiday", "dasr-iso", 4)],
)
def test_no_rows_where_nobody_prints_any(folder, protocol, scale):
    assert published_rows(folder, protocol, scale) == []
