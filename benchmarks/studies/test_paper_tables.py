"""The commands of the page on the paper's tables, on generated pictures in the data's layouts."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.datasets import STL10
from torchvision.models import resnet34

from benchmarks.__main__ import main
from benchmarks.tasks import cub200, stl10
from benchmarks.tasks.data.pictures import PictureData
from benchmarks.tasks.data.stand_ins import write_cub200, write_stl10

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "paper_tables.md"
WRITE = {"stl10": (write_stl10, 40, 10), "cub200": (write_cub200, 12, 4)}
LOAD = {"stl10": stl10.load_data, "cub200": cub200.load_data}
TINY = ("--weights", "none", "--epochs", "1", "--quick", "--prototypes", "2")
OURS = [f"B{blocks}{rest}" for rest in ("", ", this package's weights and vote")
        for blocks in ("4", "34", "234")]  # fmt: skip
FITTED = ["KMEx (K=2)", *OURS, "ProtoPNet"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep networks in a folder of their own; no data is set; a stand-in has other checksums."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    for name in WRITE:
        monkeypatch.setenv(f"CAPTUM_KMEX_{name.upper()}", "")
        monkeypatch.delenv(f"CAPTUM_KMEX_{name.upper()}")


def _words(task: str, folder: Path) -> list[str]:
    """Return the page's command for a task."""
    (line,) = re.findall(rf"^python -m (benchmarks study .*--task {task} .*?)(?:#|$)",
                         PAGE.read_text(), re.MULTILINE)  # fmt: skip
    assert " DIR" in line
    return shlex.split(line.replace(" DIR", f" {folder}"))[1:]


def _stand_in(task: str, folder: Path) -> None:
    write, n_train, n_test = WRITE[task]
    write(folder, n_train, n_test)


def _table(page: str, title: str) -> dict[str, list[str]]:
    section = page.partition(f"## {title}")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[2:]}


def _mean(cell: str) -> float:
    return float(cell.partition(" ")[0])


@torch.no_grad()
def _seen(data: PictureData, network: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logits, embeddings, labels of the test pictures and the head, by torchvision."""
    state = load_file(network)
    model = resnet34(num_classes=len(data.class_names))
    model.fc = torch.nn.Linear(512, len(data.class_names), bias=False)
    model.load_state_dict(state)
    model.eval()
    pictures = [data.test[i] for i in range(len(data.test))]  # type: ignore[arg-type]
    images, labels = (torch.stack(column) for column in zip(*pictures, strict=True))
    embeddings: list[Tensor] = []
    model.fc.register_forward_pre_hook(lambda _, inputs: embeddings.append(inputs[0]))
    logits = model(images)
    return logits, embeddings[0], labels, state["fc.weight"]


@pytest.mark.slow
@pytest.mark.parametrize("task", list(WRITE))
def test_the_command_of_the_page_prints_both_tables(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _stand_in(task, tmp_path / "data")
    words = [*_words(task, tmp_path / "data"), *TINY, "--folder", str(tmp_path / "out")]
    main(words)
    printed = capsys.readouterr().out
    network = tmp_path / "hub" / "captum_kmex" / f"{task}.safetensors"
    assert f"trained {network}: validation accuracy" in printed
    assert "--weights none --epochs 1" in printed
    assert "is not in the table" not in printed
    page = (tmp_path / "out" / "tables.md").read_text()
    assert page in printed
    cosines, predictions = _table(page, "Table 1"), _table(page, "Table 2")
    assert list(cosines) == ["Classifier prototypes", *FITTED]
    assert list(predictions) == ["ResNet34", *FITTED]

    logits, embeddings, labels, head = _seen(LOAD[task](), network)
    right = (logits.argmax(1) == labels).double().mean().item() * 100
    for accuracy, fidelity, _ in predictions.values():
        assert 0 <= _mean(accuracy) <= 100
        # who agrees with the network is right as often as it is, but for where it disagrees
        assert abs(_mean(accuracy) - right) <= 100 - _mean(fidelity) + 0.11
    assert _mean(predictions["ResNet34"][0]) == pytest.approx(right, abs=0.051)
    for own, others in cosines.values():
        assert all(math.isfinite(_mean(cell)) and abs(_mean(cell)) <= 1 for cell in (own, others))
    rows, columns = (
        x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (embeddings, head)
    )
    expected = np.mean([row @ columns[int(c)] for row, c in zip(rows, labels, strict=True)])
    assert _mean(cosines["Classifier prototypes"][0]) == pytest.approx(expected, abs=0.00051)

    main(words)  # what was done stays done
    again = capsys.readouterr().out
    assert again == page
    with pytest.raises(SystemExit, match="of other options"):
        main([*words, "--prototypes", "1"])
    with pytest.raises(SystemExit, match="--epochs 1, not with --weights none --epochs 2; pass"):
        main([*words, "--epochs", "2"])


@pytest.mark.parametrize("task", list(WRITE))
def test_without_network_it_says_what_to_do_about_the_weights(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    _stand_in(task, tmp_path / "data")
    message = r"no network.*put https://.*\.pth at .*--weights FILE, .*--weights none"
    with pytest.raises(SystemExit, match=f"{task}: .*{message}"):
        main(_words(task, tmp_path / "data"))


@pytest.mark.parametrize("task", list(WRITE))
def test_without_data_it_says_how_to_pass_them(task: str) -> None:
    with pytest.raises(SystemExit, match=r"needs your own copy.*or pass it with --data"):
        main(["study", "paper_tables", "--task", task])
