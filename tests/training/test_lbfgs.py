import numpy as np
import torch
from scipy.optimize import minimize as minimized
from torch import Tensor

from upcycle.training.lbfgs import minimize


def bowls(stiffness: Tensor, lowest: Tensor) -> tuple[list[int], object]:
    """Quadratic losses [H] with their lowest points [H, P]; and how often they were asked."""
    asked = [0]

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        asked[0] += 1
        away = points - lowest
        return (stiffness * away.square()).sum(dim=1) / 2, stiffness * away

    return asked, evaluate


def test_problems_of_very_different_stiffness_are_solved_side_by_side() -> None:
    stiffness = torch.tensor([[1.0, 10.0, 100.0], [1e-3, 1e-2, 1e-3], [5.0, 5.0, 5.0]])
    lowest = torch.tensor([[1.0, -2.0, 3.0], [4.0, 0.5, -1.0], [0.0, 0.0, 7.0]])
    asked, evaluate = bowls(stiffness, lowest)
    found = minimize(
        evaluate,  # type: ignore[arg-type]
        torch.zeros(3, 3),
        first=torch.full((3,), 0.01),
        small=torch.full((3,), 1e-6),
    )
    torch.testing.assert_close(found, lowest, rtol=1e-3, atol=1e-3)
    assert asked[0] < 60


def test_a_first_step_that_is_far_too_long_is_halved() -> None:
    _, evaluate = bowls(torch.ones(1, 2), torch.tensor([[3.0, -1.0]]))
    found = minimize(
        evaluate,  # type: ignore[arg-type]
        torch.zeros(1, 2),
        first=torch.tensor([1e3]),
        small=torch.tensor([1e-5]),
    )
    torch.testing.assert_close(found, torch.tensor([[3.0, -1.0]]), rtol=1e-4, atol=1e-4)


def test_what_is_solved_stays_where_it_is() -> None:
    lowest = torch.tensor([[3.0, -1.0]])
    asked, evaluate = bowls(torch.ones(1, 2), lowest)
    found = minimize(evaluate, lowest, first=torch.ones(1), small=torch.tensor([1e-5]))  # type: ignore[arg-type]
    assert (1, True) == (asked[0], torch.equal(lowest, found))


def test_it_finds_what_scipys_finds() -> None:
    random = np.random.default_rng(0)
    inputs, signs = random.normal(size=(40, 5)), np.where(random.random(40) < 0.5, -1.0, 1.0)

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        points = points.detach().requires_grad_()
        margins = (points @ torch.tensor(inputs).T) * torch.tensor(signs)
        losses = torch.nn.functional.softplus(-margins).mean(dim=1) + 0.005 * points.square().sum(dim=1)
        return losses.detach(), torch.autograd.grad(losses.sum(), points)[0]

    def one(point: np.ndarray) -> tuple[float, np.ndarray]:  # type: ignore[type-arg]
        losses, gradients = evaluate(torch.tensor(point)[None])
        return losses.item(), gradients[0].numpy()

    expected = minimized(one, np.zeros(5), jac=True, method="L-BFGS-B", tol=1e-12).x
    start = torch.zeros(1, 5, dtype=torch.float64)
    found = minimize(evaluate, start, first=torch.ones(1), small=torch.full((1,), 1e-8))
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-4, atol=1e-5)
