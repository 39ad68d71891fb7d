from statistics import fmean

import pytest

from mrda.evaluation.paper import paper, paper_rows

METHODS = {
    "II": ["Bicubic", "RCAN", "SwinIR", "Bicubic+ZSSR", "IKC", "DAN", "AdaTarget", "DASR", "MRDA_S"],
    "III": ["DnCNN+RCAN", "DnCNN+DAN", "DnCNN+IKC", "DASR", "MRDA_S"],
    "IV": ["RealSR", "BSRGAN", "Real-ESRGAN", "MM-RealSR", "MRDA_S-GAN"],
    "V": [f"MRDA_{row}" for row in ("T1", "T2", "T3", "S1", "S2", "S3", "S4", "S5", "S6")],
}


def test_every_table_is_whole():
    tables = paper()
    assert [row.method for row in tables.table_ii] == METHODS["II"]
    assert [row.method for row in tables.table_iii] == METHODS["III"]
    assert [row.method for row in tables.table_iv] == METHODS["IV"]
    assert [row.method for row in tables.table_v] == METHODS["V"]
    assert all(list(row.scores) == ["Set5", "Set14", "BSD100", "Urban100", "Manga109"] for row in tables.table_ii)
    assert all(list(row.psnr_y) == [0, 10, 20] for row in tables.table_iii)
    assert all(list(row.scores) == ["RealSRSet", "NTIRE2020-T1"] for row in tables.table_iv)
    assert [row.fixed_upscaler for row in tables.table_vi] == [False, True]
    assert all(list(row.psnr_y) == [0, 1.2, 2.4, 3.6] for row in tables.table_vi)


def test_sums_over_the_columns_guard_against_slips():
    """Summed by hand from the printed tables, so that a digit that changes is seen."""
    tables = paper()
    assert sum(row.scores["Set5"].psnr_y for row in tables.table_ii) == pytest.approx(262.83)
    assert sum(row.scores["Manga109"].ssim_y for row in tables.table_ii) == pytest.approx(7.3772)
    assert sum(row.psnr_y[20][8] for row in tables.table_iii) == pytest.approx(114.40)
    assert sum(row.scores["NTIRE2020-T1"].lpips for row in tables.table_iv) == pytest.approx(1.7569)
    assert sum(row.psnr_y for row in tables.table_v) == pytest.approx(231.48)
    assert tables.table_vi[1].psnr_y == {0: 26.48, 1.2: 26.47, 2.4: 26.25, 3.6: 25.41}


@pytest.mark.parametrize(
    ("folder", "bicubic"),
    [
        ("Set5", (24.57, 0.7108)),
        ("SET14", (22.79, 0.6032)),
        ("B100", (23.29, 0.5786)),
        ("bsd100", (23.29, 0.5786)),
        ("BSDS100", (23.29, 0.5786)),
        ("urban100", (20.35, 0.5532)),
        ("Manga109", (21.50, 0.6933)),
    ],
)
def test_gaussian8_has_table_ii_by_the_folders_name(folder, bicubic):
    rows = paper_rows(folder, "gaussian8", 4)
    assert [row.method for row in rows] == METHODS["II"]
    assert (rows[0].psnr_y, rows[0].ssim_y) == bicubic
    assert all(row.noise_level is None and row.by_kernel == () for row in rows)


def test_mrda9_on_set14_has_table_iii():
    rows = paper_rows("Set14", "mrda9", 4)
    assert [(row.method, row.noise_level) for row in rows] == [
        (method, level) for method in METHODS["III"] for level in (0, 10, 20)
    ]
    last = (24.71, 24.79, 24.87, 24.86, 24.90, 24.80, 24.69, 24.54, 23.81)
    assert rows[-1].by_kernel == last
    assert rows[-1].psnr_y == fmean(last)
    assert rows[-1].ssim_y is None


def test_real_has_table_iv():
    rows = paper_rows("RealSRSet", "real", 4)
    assert [row.method for row in rows] == METHODS["IV"]
    assert rows[-1][:3] == ("MRDA_S-GAN", 27.16, 0.8010)
    assert paper_rows("NTIRE2020-T1", "real", 4)[-1][:3] == ("MRDA_S-GAN", 27.04, 0.7533)


@pytest.mark.parametrize(
    ("folder", "protocol", "scale"),
    [
        ("Set5", "gaussian8", 2),
        ("Set5", "gaussian8", 3),
        ("holiday", "gaussian8", 4),
        ("RealSRSet", "gaussian8", 4),
        ("Set5", "mrda9", 4),
        ("Set14", "dasr9", 4),
        ("Set5", "bicubic", 4),
        ("Set5", "real", 4),
    ],
)
def test_no_rows_where_the_paper_has_none(folder, protocol, scale):
    assert paper_rows(folder, protocol, scale) == []
