import json

import pytest
from synthetic import absent, gpu_record, record

from benchmarks import tables
from benchmarks.records import load
from mrda.core import markdown


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_takes_the_better_layout_of_each_provider(records):
    lines = tables.document(records).splitlines()
    assert cells(lines[0])[:4] == ["Shape", "dtype", "released (ms)", "released_compiled (ms)"]
    assert cells(lines[2]) == [
        *("(1, 64, 180, 320)", "float32"),
        *("40.00", "9.000", "6.000", "2.000", "4.000"),
        *("10.0x", "1.5x", "2.0x"),
    ]
    assert all(line.count("|") == lines[0].count("|") for line in lines[:3])
    notes = "\n".join(lines[3:])
    assert "Each provider in the better of its two layouts" in notes
    assert "a processor (instructions x86_64_v9) with 2 threads, torch 2.13.0" in notes
    assert "Slower than" not in notes
    assert "3.0 MiB, which is the inputs; by the released way 7.0 MiB" in notes


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


def test_columns_without_a_value_are_left_out_and_settings_that_differ_are_told():
    lines = tables.document(gpu_records()).splitlines()
    assert cells(lines[0])[9] == "than the compiled peer"
    assert cells(lines[0])[2:8] == [
        *("launch", "released (ms)", "released_tf32 (ms)", "released_compiled (ms)", "copy (ms)", "mrda_kernels (ms)"),
    ]
    assert cells(lines[2])[2:] == ["eager", "8.000", "4.000", "3.000", "1.000", "1.250", "6.4x", "2.4x", "1.2x"]
    assert cells(lines[3])[2:] == ["graph", "-", "-", "-", "0.900", "1.000", "-", "-", "1.1x"]
    notes = "\n".join(lines[4:])
    assert "All in one layout, NCHW." in notes
    assert "Measured on NVIDIA X1 (driver not recorded) with" in notes
    assert "driver 580.1" in tables.document([{**r, "driver": "580.1"} for r in gpu_records()])
    assert "Not measured: shift_add_compiled, 1x (not compiled)." in notes


def test_the_blocks_table_has_both_ops_with_their_peak_memory():
    records = [
        gpu_record(name, ms, op=op, peak_bytes=mib * 2**20)
        for op in ("rdab", "trunk")
        for name, ms, mib in (("released", 6.0, 9), ("mrda_kernels", 3.0, 4), ("convolutions", 2.0, 1))
    ]
    lines = tables.document(records).splitlines()
    assert [cells(line)[0] for line in lines[2:4]] == ["rdab", "trunk"]
    # no peer was compiled, so that there is no column for it
    assert cells(lines[2])[3:] == ["6.000", "2.000", "3.000", "2.0x", "1.5x", "4", "9"]


def test_a_compiled_peer_that_is_faster_is_said_in_words():
    records = [gpu_record("released_compiled", 0.9), gpu_record("mrda_kernels", 1.0)]
    notes = tables.document(records)
    said = "Slower than the compiled peer is ours at (1, 64, 180, 320) float32 forward eager (0.9x as fast)."
    assert said in notes.splitlines()


def test_old_records_count_as_plain_calls(records):
    assert {key[-1] for key in tables.best_layouts(records)} == {"eager"}


def test_three_rows_are_those_of_the_forward_in_float32(records):
    other = [record("released", 9.0, mode="forward_backward"), record("released", 9.0, shape=(1, 1, 1, 1))]
    kept = [record("released", 8.0), record("released_compiled", 4.0), record("mrda_kernels", 2.0)]
    lines = tables.three_rows([*records, *other], kept).splitlines()
    assert [cells(line)[1:] for line in lines[2:5]] == [["40.00", "1.0x"], ["6.000", "6.7x"], ["4.000", "10.0x"]]
    assert "then 2.0x and 4.0x" in lines[-1]


@pytest.fixture
def repository(records, tmp_path, monkeypatch):
    """A page with one section of the records and one of somebody else."""
    (tmp_path / "docs").mkdir()
    begin, end = markdown.markers("speed-operator")
    (tmp_path / "README.md").write_text("nothing\n")
    (tmp_path / "docs" / "scaling.md").write_text("nothing\n")
    (tmp_path / "docs" / "performance.md").write_text(f"before\n{begin}\nold\n{end}\n<!-- mine:begin -->\nafter\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "rda_conv_cpu.json").write_text(json.dumps(records))
    return tmp_path


def test_the_command_replaces_the_sections_it_knows_and_nothing_else(records, repository, capsys):
    for _ in range(2):  # a second update changes nothing
        tables.main([])
        begin, end = markdown.markers("speed-operator")
        written = f"before\n{begin}\n{tables.document(records)}{end}\n<!-- mine:begin -->\nafter\n"
        assert (repository / "docs" / "performance.md").read_text() == written
        assert capsys.readouterr().out == "docs/performance.md: speed-operator\n"
    assert (repository / "README.md").read_text() == "nothing\n"


@pytest.mark.parametrize("text", ["no markers", "<!-- a:end --> <!-- a:begin -->", "<!-- a:begin -->"])
def test_a_page_without_markers_is_refused_and_left_alone(text, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="must hold one <!-- a:begin -->"):
        markdown.Page(page, "a")
    assert page.read_text() == text


@pytest.mark.parametrize("content", ["not JSON", "{}", "[]", '[{"op": "another"}]', "[1]"])
def test_a_file_without_records_is_refused(tmp_path, content):
    path = tmp_path / "speed.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"Expecting value|is not a list of records"):
        load(path)


def test_a_gpu_is_not_yet_measured_until_there_is_a_result_of_one(records, tmp_path):
    (tmp_path / "cpu.json").write_text(json.dumps(records))
    (tmp_path / "demo.json").write_text("{}")
    assert tables.gpus(tmp_path) == "On a GPU: not yet measured.\n"
    other_shape = [{**r, "shape": [64, 64, 64, 64]} for r in gpu_records()]
    (tmp_path / "x1.json").write_text(json.dumps([*gpu_records(), *other_shape]))
    (tmp_path / "x1_rda_block.json").write_text(json.dumps([gpu_record("mrda_kernels", 1.0, op="rdab")]))
    text = tables.gpus(tmp_path)
    assert "not yet measured" not in text
    assert text.startswith("The operator on NVIDIA X1:\n\n| Shape")
    assert "(64, 64, 64, 64)" not in text  # no headline
    assert "RDA blocks" not in text
    assert "a processor" not in text


def test_pages_of_the_repository_are_what_its_results_give():
    shown = tables.shown()
    assert {path.name for path, _ in shown} == {"README.md", "performance.md", "scaling.md"}
    for path, section in shown:
        text = path.read_text()
        assert markdown.insert(text, tables.SECTIONS[section](), section) == text, (path, section)


def test_the_table_of_a_cpu_has_no_place_for_the_reference(records):
    more = [*records, record("mrda_kernels_reference", 1.0)]
    assert tables.comparison(more) == tables.comparison(records)


def modelled(kernel, predicted_ms, dtype="bfloat16"):
    machine = {"arch": "sm_90", "registers": 99, "shared_bytes": 1024, "copy_ms": 1.0, "measured_ms": None}
    return {"kernel": kernel, "dtype": dtype, "instructions_per_element": 9.5, "predicted_ms": predicted_ms} | machine


def test_predicted_kernels_make_up_the_network():
    half, upscaler = modelled("rda_conv3x3", 0.01), modelled("upscaler", 0.06)
    others = [modelled("upscaler", 9.0, "float16"), modelled("rda_conv3x3", None)]
    said = tables.gpu_model([half, upscaler, *others])
    assert "| upscaler | bfloat16 | sm_90 | 9.5 | 99 | 1.0 | 1.000 | 0.060 | - |" in said
    assert "The 54 half blocks and the upscaler of the published network in bfloat16: 0.600 ms predicted" in said
    assert "half blocks" not in tables.gpu_model([half])
