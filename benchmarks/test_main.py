"""The one command names its parts and hands them the rest of the line."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main


def test_help_has_a_line_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    for name in ("quality", "speed", "models", "train", "study"):
        assert f"\n    {name} " in printed


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["quality", "--help"], "--preset"),
        (["speed", "--help"], "--group"),
        (["models", "--help"], "--each"),
        (["train", "--help"], "image_folder"),
        (["study", "--help"], "export_cost"),
        (["study", "export_cost", "--help"], "--rounds"),
        (["study", "paper_tables", "--help"], "--weights"),
    ],
    ids=["quality", "speed", "models", "train", "study", "export_cost", "paper_tables"],
)
def test_every_command_explains_its_options(
    words: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    printed = capsys.readouterr().out
    assert f"python -m benchmarks {' '.join(words[:-1])}" in printed
    assert option in printed


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["quantity"])
    assert "quality" in capsys.readouterr().err
