"""Losses and measures of the heads, against values worked out by hand."""

import math

import pytest
import torch

from jobs.training.loop import Spec, make_head, train_epoch
from jobs.training.measures import average_precision, best_temperature, head_loss, measure, positive_weight


@pytest.mark.parametrize(
    ("labels", "weight"),
    [([1, 0, 0, 0], 3.0), ([1, 1, 1, 0], 1 / 3), ([1] + [0] * 50, 10.0), ([0, 0], 1.0), ([1, 1], 1.0)],
)
def test_rare_positives_weigh_more_up_to_a_bound(labels, weight):
    assert positive_weight(torch.tensor(labels)) == pytest.approx(weight)


def test_the_image_loss_is_weighted():
    labels = torch.tensor([1, 0, 0, 0])
    loss = head_loss("image", torch.zeros(4), labels)
    assert float(loss) == pytest.approx(math.log(2) * (3 + 1 + 1 + 1) / 4)


def test_average_precision_by_hand():
    assert average_precision([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision([0.1, 0.9], [0, 1]) == 1.0
    # equal scores cannot be told apart: one step with the precision of all
    assert average_precision([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]) == pytest.approx(0.25)
    assert average_precision([0.5], [0]) is None


def test_temperature_cools_overconfidence_and_lets_the_honest_be():
    torch.manual_seed(0)
    honest = torch.randn(20_000) * 2
    labels = (torch.rand(20_000) < torch.sigmoid(honest)).long()
    assert best_temperature("image", honest, labels) == pytest.approx(1.0, abs=0.1)
    assert best_temperature("image", honest * 5, labels) == pytest.approx(5.0, rel=0.1)
    pairs = torch.stack([torch.zeros(20_000), honest * 5], dim=1)
    assert best_temperature("semantic", pairs, labels) == pytest.approx(5.0, rel=0.1)
    assert best_temperature("image", honest, torch.ones(20_000)) == 1.0


def test_measures_of_nothing_and_of_something():
    assert measure("image", torch.empty(0), torch.empty(0))["dev_accuracy"] is None
    found = measure("semantic", torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    assert found["dev_accuracy"] == 0.5
    found = measure("image", torch.tensor([3.0, -3.0, -1.0]), torch.tensor([1, 0, 1]))
    assert (found["dev_accuracy"], found["dev_positives"]) == (pytest.approx(2 / 3), 2)
    assert found["dev_average_precision"] == 1.0


def separable(head: str, hidden_size: int, seed: int):
    """Batches whose first coordinate is the label."""
    torch.manual_seed(seed)
    width = hidden_size if head == "semantic" else 2 * hidden_size
    for _ in range(8):
        labels = (torch.rand(32) < 0.25).long()
        states = torch.randn(32, width)
        states[:, 0] = 4.0 * labels - 2.0
        yield states, labels


def loss_of(head: str, model):
    return lambda batch: head_loss(head, model(batch[0]), batch[1])


@pytest.mark.parametrize("head", ["image", "semantic"])
def test_loss_falls_on_what_can_be_told_apart(head):
    spec = Spec(head, 8, epochs=6, learning_rate=1e-3, batch_rows=32, accumulate=2, seed=0)
    torch.manual_seed(0)
    model = make_head(head, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate)
    losses = [
        train_epoch(model, optimizer, separable(head, 8, seed), spec.accumulate, loss_of(head, model))
        for seed in range(spec.epochs)
    ]
    assert losses[-1] < losses[0] / 3
    states, labels = next(separable(head, 8, 99))
    assert measure(head, model.eval()(states).detach(), labels)["dev_accuracy"] == 1.0


def test_adding_up_gradients_is_one_step_of_a_larger_batch():
    def trained(accumulate: int, batches):
        torch.manual_seed(0)
        model = make_head("semantic", 4)
        model.layers[3].p = 0.0  # dropout differs between one batch and two
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train_epoch(model, optimizer, iter(batches), accumulate, loss_of("semantic", model))
        return model.layers[1].weight

    torch.manual_seed(1)
    states, labels = torch.randn(8, 4), torch.tensor([0, 1] * 4)
    whole = trained(1, [(states, labels)])
    halves = trained(2, [(states[:4], labels[:4]), (states[4:], labels[4:])])
    assert torch.allclose(whole, halves, atol=1e-6)
