"""Models whose modules have a ``train()`` of their own are evaluated by it and set back exactly."""

from __future__ import annotations

import inspect
import threading

import pytest
import torch
from nets import LAYERS, SmallNet, make_net
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution
from captum_kmex.model.modes import Modes


class FrozenNorm(nn.Module):
    """Keeps its batch norm in evaluation mode, as detection and fine-tuning code does."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.norm = make_net(), nn.BatchNorm2d(1)
        self.norm.running_mean += 0.3

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.norm(x))

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.norm.eval()
        for parameter in self.norm.parameters():
            parameter.requires_grad_(False)
        return self


class Merging(nn.Conv2d):
    """Merges an update into its weights for evaluation, as LoRA layers do; returns nothing."""

    def __init__(self) -> None:
        super().__init__(1, 1, 1, bias=False)
        self.update, self.is_merged = nn.Parameter(torch.full((1, 1, 1, 1), 0.5)), False
        self.calls: list[bool] = []

    def train(self, mode=True):
        self.calls.append(mode)
        if mode == self.is_merged:
            with torch.no_grad():
                self.weight += -self.update if mode else self.update
            self.is_merged = not mode
        super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.is_merged else self.weight + self.update
        return nn.functional.conv2d(x, weight)


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.net = Merging(), make_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.first(x))


class BatchStatistics(FrozenNorm):
    """Normalises by the batch's statistics always, also in evaluation."""

    def train(self, mode: bool = True) -> BatchStatistics:
        nn.Module.train(self, mode)
        self.norm.train(True)
        return self


class Looping(SmallNet):
    """Its ``train`` is a training loop, which nobody may start."""

    def train(self, loader, epochs=3):
        raise AssertionError("training began")


class Switching(SmallNet):
    """Knows its mode by a name, and evaluates by an ``eval`` of its own."""

    phase = "train"

    def train(self, mode: bool = True) -> Switching:
        self.phase = "train" if mode else "test"
        return super().train(mode)

    def eval(self) -> Switching:
        super().eval()
        self.phase = "eval"
        return self

    def forward(self, x: Tensor) -> Tensor:
        assert self.phase != "train"
        return super().forward(x)


def seeded(make):
    """Return a maker of models that are all alike."""

    def made() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make()

    return made


MODELS = {
    "frozen": FrozenNorm,
    "merging": Adapted,
    "statistics": BatchStatistics,
    "switching": Switching,
    "looping": Looping,
    "nested_loop": lambda: nn.Sequential(nn.Identity(), Looping()),
}
MODELS = {name: seeded(make) for name, make in MODELS.items()}
IGNORED = "ignore::captum_kmex.exceptions.TrainModeWarning"


def put(model: nn.Module, mode: bool) -> nn.Module:
    """Set a mode as its owner does: by ``train``, or by hand where that is a loop."""
    if any(isinstance(module, Looping) for module in model.modules()):
        for module in model.modules():
            module.training = mode
    elif mode:
        model.train()
    else:
        model.eval()
    return model


def state(model: nn.Module) -> list[object]:
    """Return everything of a model that a ``train`` may change, but for running statistics."""
    modules = list(model.modules())
    return [
        [module.training for module in modules],
        [getattr(module, "is_merged", None) for module in modules],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.detach().clone().tolist() for parameter in model.parameters()],
        getattr(model, "phase", "test") == "train",
    ]


def partly(model: nn.Module) -> nn.Module:
    """Leave the model in evaluation mode, but for one of its modules."""
    put(model, False)
    next(module for module in model.modules() if isinstance(module, nn.ReLU)).training = True
    return model


FOUND = {
    "training": lambda m: put(m, True),
    "evaluation": lambda m: put(m, False),
    "partly": partly,
}


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("found", FOUND.values(), ids=FOUND)
def test_logits_are_those_of_eval_and_everything_comes_back(make, found, images):
    expected = put(make(), False)(images)
    model = found(make())
    before = state(model)
    prefix = next(name for name, _ in model.named_modules() if name.endswith("stage1"))[:-6]
    attr = LayerKMeansAttribution(model, [prefix + name for name in LAYERS], n_clusters=2)
    torch.testing.assert_close(attr.explain(images).logits, expected.detach())
    assert state(model) == before


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_everything_comes_back_after_an_error(make, images):
    model = put(make(), True)
    before = state(model)
    with pytest.raises((RuntimeError, ValueError)):
        ClassifierPrototypes(model).attribute(images[:, :, :0])
    assert state(model) == before


@pytest.mark.filterwarnings(IGNORED)
def test_parts_found_in_evaluation_stay_in_it_with_all_they_did(images):
    model = put(Adapted(), True)
    model.first.train(False)
    before = state(model)
    ClassifierPrototypes(model).attribute(images)
    assert state(model) == before
    assert model.first.is_merged


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_in_evaluation_mode_is_left_alone(make, images):
    model = put(make(), False)
    if isinstance(model, Adapted):
        model.first.calls.clear()
    ClassifierPrototypes(model).attribute(images)
    assert not isinstance(model, Adapted) or model.first.calls == []


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("where", [False, True], ids=["eval", "train"])
def test_flags_come_back_when_train_itself_fails(images, where):
    class Failing(SmallNet):
        is_failing = False

        def train(self, mode: bool = True) -> Failing:
            super().train(mode)
            if self.is_failing and mode is where:
                raise RuntimeError("not now")
            return self

    model = Failing().train()
    model.drop.training = False
    before = [module.training for module in model.modules()]
    model.is_failing = True
    with pytest.raises(RuntimeError, match="not now"):
        ClassifierPrototypes(model).attribute(images)
    assert [module.training for module in model.modules()] == before
    model.is_failing = False
    ClassifierPrototypes(model).attribute(images)
    assert [module.training for module in model.modules()] == before


@pytest.mark.filterwarnings(IGNORED)
def test_the_last_thread_gives_the_mode_back(images):
    class Waiting(Switching):
        def __init__(self) -> None:
            super().__init__()
            self.barrier = threading.Barrier(3)

        def forward(self, x: Tensor) -> Tensor:
            self.barrier.wait(30)
            return super().forward(x)

    model = Waiting().train()
    failures: list[BaseException] = []

    def explain() -> None:
        try:
            ClassifierPrototypes(model).attribute(images)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=explain) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert model.phase == "train"
    assert all(module.training for module in model.modules())


SIGNATURES = {
    "mode": lambda self, mode=True: nn.Module.train(self, mode),
    "mode_without_default": lambda self, mode: nn.Module.train(self, mode),
    "flag": lambda self, is_training=True: nn.Module.train(self, is_training),
    "passed_on": lambda self, *args, **kwargs: nn.Module.train(self, *args, **kwargs),
    "more_options": lambda self, mode=True, deep=True: nn.Module.train(self, mode),
}
LOOPS = {
    "loader": lambda self, loader: 1 / 0,
    "loader_and_epochs": lambda self, loader=None, epochs=3: 1 / 0,
    "nothing": lambda self: 1 / 0,
    "mode_and_loader": lambda self, mode, loader: 1 / 0,
}


@pytest.mark.parametrize("name", [*SIGNATURES, *LOOPS])
def test_a_train_that_takes_no_mode_is_never_called(name):
    calls = []

    def train(self, *args, **kwargs):
        calls.append(args)
        return {**SIGNATURES, **LOOPS}[name](self, *args, **kwargs)

    train.__signature__ = inspect.signature({**SIGNATURES, **LOOPS}[name])
    model = type("Own", (SmallNet,), {"train": train})()
    modes = Modes(model)
    modes.evaluate()
    assert not any(module.training for module in model.modules())
    modes.restore()
    assert all(module.training for module in model.modules())
    assert calls == ([(False,), (True,)] if name in SIGNATURES else [])
