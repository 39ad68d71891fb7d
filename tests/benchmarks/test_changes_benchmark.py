import json

import pytest
import torch

from benchmarks import changes, model


@pytest.fixture
def network(monkeypatch):
    network = model.random_network("cpu", num_feat=8, num_blocks=2, den_width=4)
    monkeypatch.setattr(changes, "random_network", lambda device: network)
    monkeypatch.setattr(changes, "SECONDS", 0.0)
    monkeypatch.setattr(changes, "MIN_ROUNDS", 1)
    return network


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_undoing_a_change_changes_no_result(network, dtype):
    lr = torch.rand(1, 3, 9, 11)
    models = changes.undone(network, dtype)
    assert len(models) == 3
    with torch.no_grad():
        expected = models.pop(changes.AS_IT_IS)(lr)
        for undone, run in models.items():
            difference = (run(lr).float() - expected).abs().max()
            assert difference <= (1e-5 if dtype == torch.float32 else 0.05), undone


def test_the_command_writes_records_and_the_page(network, tmp_path, capsys):
    page, file = tmp_path / "page.md", tmp_path / "changes.json"
    page.write_text("<!-- changes:begin -->\n<!-- changes:end -->\n")
    changes.main(["--size", "9", "11", "--json", str(file), "--update", str(page)])
    records = json.loads(file.read_text())
    assert {r["dtype"] for r in records} == {"float32", "bfloat16"}
    assert all(r["ratio"] == 1 for r in records if r["undone"] == changes.AS_IT_IS)
    assert changes.document(records) in page.read_text()
    assert "the upscaler's convolutions one after the other" in capsys.readouterr().out
