import json
from pathlib import Path

import pytest
from synthetic import absent, gpu_record, record

from benchmarks import table, tables
from benchmarks.records import load

ROOT = Path(table.__file__).resolve().parent.parent
BEGIN, END = table.markers(table.SECTION)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_readme_table_takes_the_better_layout_of_each_provider(records):
    lines = tables.document(records).splitlines()
    assert cells(lines[2]) == [
        *("(1, 64, 180, 320)", "float32", "forward"),
        *("40.00", "6.00", "2.00", "4.00"),
        *("10.0x", "1.5x", "2.0x"),
    ]
    assert all(line.count("|") == lines[0].count("|") for line in lines[:3])
    notes = "\n".join(lines[3:])
    assert "a processor with 2 threads, torch 2.13.0" in notes
    assert "2.0x to 2.5x as fast" in notes
    assert "3.0 MiB, which is the inputs; by the released way 7.0 MiB" in notes


def test_screen_table_has_each_record_in_columns(records):
    shown = tables.details(records)
    assert [row[6] for row in shown.rows] == [r["provider"] for r in records]
    assert {row[:6] for row in shown.rows} == {
        ("rda_conv2d", "(1, 64, 180, 320)", "float32", layout, "forward", "eager") for layout in ("nchw", "nhwc")
    }
    lines = shown.text().splitlines()
    assert len(lines) == 1 + len(records)
    start = lines[0].index("provider")
    assert all(line[start:].startswith(r["provider"]) for line, r in zip(lines[1:], records, strict=True))


def gpu_records():
    return [
        gpu_record("released", 8.0),
        gpu_record("released_tf32", 4.0),
        gpu_record("released_compiled", 3.0),
        absent(gpu_record("shift_add_compiled", 0.0), "not compiled"),
        gpu_record("mrda_kernels", 1.25),
        gpu_record("mrda_kernels_triton", 2.0),
        gpu_record("copy", 1.0),
        gpu_record("mrda_kernels", 1.0, launch="graph"),
        gpu_record("copy", 0.9, launch="graph"),
    ]


def test_gpu_table_compares_with_the_best_peer_and_the_copys_bandwidth():
    lines = tables.document(gpu_records()).splitlines()
    assert cells(lines[2]) == [
        *("(1, 64, 180, 320)", "float32", "forward", "eager", "released_compiled"),
        *("3.000", "8.000", "1.000", "1.250", "6.4x", "2.4x", "80 %"),
    ]
    assert cells(lines[3])[3:] == ["graph", "-", "-", "-", "0.900", "1.000", "-", "-", "90 %"]
    notes = "\n".join(lines[4:])
    assert "All in one layout, NCHW." in notes
    assert "Measured on NVIDIA X1" in notes
    assert "Not measured: shift_add_compiled, 1x (not compiled)." in notes


def test_block_table_has_both_ops_with_their_peak_memory():
    records = [
        gpu_record(name, ms, op=op, peak_bytes=mib * 2**20)
        for op in ("rdab", "trunk")
        for name, ms, mib in (("released", 6.0, 9), ("mrda_kernels", 3.0, 4), ("convolutions", 2.0, 1))
    ]
    lines = tables.document(records).splitlines()
    assert [cells(line)[0] for line in lines[2:4]] == ["rdab", "trunk"]
    assert cells(lines[2])[5:] == [
        "released (none compiled)",
        "6.00",
        "6.00",
        "2.00",
        "3.00",
        "2.0x",
        "2.0x",
        "4.0",
        "9.0",
    ]


def test_old_records_count_as_plain_calls(records):
    assert {row.launch for row in tables.best_layouts(records)} == {"eager"}


def write(path, records):
    path.write_text(json.dumps(records))
    return path


def test_update_replaces_what_is_between_the_markers_and_nothing_else(records, tmp_path, capsys):
    results, readme = write(tmp_path / "speed.json", records), tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):  # a second update changes nothing
        table.main([str(results), "--update", str(readme)])
        content = tables.document(records)
        assert readme.read_text() == f"before\n{BEGIN}\n{content}{END}\nafter\n"
    table.main([str(results)])
    assert capsys.readouterr().out == content


@pytest.mark.parametrize("text", ["no markers", f"{END} {BEGIN}", BEGIN])
def test_update_without_markers_is_refused_and_leaves_the_file(records, tmp_path, text, capsys):
    results, readme = write(tmp_path / "speed.json", records), tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(SystemExit) as end:
        table.main([str(results), "--update", str(readme)])
    assert end.value.code == 2
    assert "must hold one" in capsys.readouterr().err
    assert readme.read_text() == text


@pytest.mark.parametrize("content", ["not JSON", "{}", "[]", '[{"op": "another"}]', "[1]"])
def test_file_without_records_is_refused(tmp_path, content):
    path = tmp_path / "speed.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as end:
        table.main([str(path)])
    assert end.value.code == 2


def test_a_gpu_is_not_yet_measured_until_there_is_a_result_of_one(records, tmp_path):
    write(tmp_path / "cpu.json", records)
    (tmp_path / "demo.json").write_text("{}")
    assert table.gpus(tmp_path) == "On a GPU: not yet measured.\n"
    write(tmp_path / "x1.json", [*gpu_records(), *({**r, "shape": [64, 64, 64, 64]} for r in gpu_records())])
    write(tmp_path / "x1_rda_block.json", [gpu_record("mrda_kernels", 1.0, op="rdab")])
    text = table.gpus(tmp_path)
    assert "not yet measured" not in text
    assert text.startswith("The operator on NVIDIA X1:\n\n| Shape")
    assert "(64, 64, 64, 64)" not in text  # no headline
    assert "RDA blocks" not in text
    assert "a processor" not in text


def test_folder_of_gpu_results_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        table.main(["--gpus", str(tmp_path / "nowhere")])
    assert "must be a folder of results" in capsys.readouterr().err


def test_pages_of_the_repository_are_what_its_results_give():
    results = ROOT / "benchmarks" / "results"
    pages = {
        ("docs/performance.md", "speed"): tables.document(load(results / "rda_conv_cpu.json")),
        ("docs/performance.md", "speed-kept-memory"): tables.document(load(results / "rda_conv_cpu_kept_memory.json")),
        ("docs/performance.md", "speed-gpu"): table.gpus(results),
        ("README.md", "speed-model"): tables.document(load(results / "model_cpu.json")),
    }
    for (page, section), content in pages.items():
        text = (ROOT / page).read_text()
        assert table.insert(text, content, section) == text, (page, section)


def test_summary_of_a_cpu_has_no_place_for_the_reference(records):
    more = [*records, record("mrda_kernels_reference", 1.0)]
    assert tables.summary(more) == tables.summary(records)
