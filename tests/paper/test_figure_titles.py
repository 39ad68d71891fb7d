import pytest

from mrda.paper.figures.canvas import shorten


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", ""),
        ("a" * 25, "a" * 25),
        ("a" * 13 + "b" * 13, "a" * 12 + "…" + "b" * 12),
        ("x" * 12 + "y" * 400, "x" * 12 + "…" + "y" * 12),
    ],
)
def test_long_names_lose_their_middle(name, shown):
    assert shorten(name) == shown


def test_the_axis_tells_the_psnr_itself(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    from mrda.paper.figures import adaptation

    drawn = []
    monkeypatch.setattr(adaptation, "save_figure", lambda figure, path: drawn.append(figure))
    # So close together that matplotlib would write 22.3 above the axis, and tiny differences beside it.
    scores = [
        adaptation.AdaptationScore("a", "meta", step, "photo", "blur", 22.3048 + 1e-5 * step, None) for step in range(3)
    ]
    adaptation.save_adaptation(scores, tmp_path / "f.png", title="")
    (figure,) = drawn
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    assert axis.get_offset_text().get_text() == ""
    assert axis.get_ticklabels()[0].get_text().startswith("22.30")
