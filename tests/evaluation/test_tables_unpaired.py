import csv

from mrda.evaluation.tables_unpaired import markdown_unpaired, summarise_unpaired, write_scores_unpaired
from mrda.evaluation.unpaired import UnpairedRecord

RECORDS = [
    UnpairedRecord("a", "bicubic", 8.0),
    UnpairedRecord("a", "mrda_s", 5.0),
    UnpairedRecord("b", "bicubic", 7.0),
    UnpairedRecord("b", "mrda_s", 1 / 3),
]
UNMEASURED = [record._replace(niqe=None) for record in RECORDS]


def test_summary_is_the_mean_over_images():
    assert summarise_unpaired(RECORDS) == {
        "bicubic": {"niqe": 7.5, "per_image": {"a": 8.0, "b": 7.0}},
        "mrda_s": {"niqe": (5 + 1 / 3) / 2, "per_image": {"a": 5.0, "b": 1 / 3}},
    }
    assert summarise_unpaired(UNMEASURED)["bicubic"] == {"niqe": None, "per_image": {"a": None, "b": None}}


def test_markdown_has_means_and_photos():
    table = markdown_unpaired({"Mine": summarise_unpaired(RECORDS)}, photos={"Mine": (2, 3), "Other": (1, 1)})
    assert table == (
        "| Data set | Method | Photos | NIQE |\n"
        "|---|---|---:|---:|\n"
        "| Mine | bicubic | 2 | 7.5000 |\n"
        "| Mine | mrda_s | 2 | 2.6667 |\n"
        "\n"
        "NIQE of each photo of Mine:\n"
        "\n"
        "| Photo | bicubic | mrda_s |\n"
        "|---|---:|---:|\n"
        "| a | 8.0000 | 5.0000 |\n"
        "| b | 7.0000 | 0.3333 |\n"
        "\n"
        "Mine: 2 of 3 photos.\n"
    )


def test_without_niqe_there_is_no_table_of_photos():
    table = markdown_unpaired({"Mine": summarise_unpaired(UNMEASURED)})
    assert table.splitlines()[2:] == ["| Mine | bicubic | 2 | - |", "| Mine | mrda_s | 2 | - |"]


def test_csv_round_trip_to_the_last_digit(tmp_path):
    path = tmp_path / "scores.csv"
    write_scores_unpaired(path, {"Mine": RECORDS, "Other": UNMEASURED[:1]})
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["dataset", "image", "method", "niqe"]
    assert [(name, *texts, float(niqe) if niqe else None) for name, *texts, niqe in rows] == [
        *(("Mine", *record) for record in RECORDS),
        ("Other", *UNMEASURED[0]),
    ]
    assert list(tmp_path.iterdir()) == [path]
