"""The closed-form start: draws of the law that noisy images have, from the moments of the training split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medpipe.diffusion import gaussian
from medpipe.diffusion.gaussian import Covariance


def correlated(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Images whose values rise and fall together: a few strong directions, then a floor."""
    generator = torch.Generator().manual_seed(seed)
    strong = torch.randn(n, 3, generator=generator) @ torch.randn(3, d, generator=generator)
    return strong + 0.1 * torch.randn(n, d, generator=generator)


def noise(n: int, *shape: int) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize(("n", "d"), [(3000, 40), (60, 500)])
def test_draws_have_the_covariance_of_the_noisy_images(n: int, d: int) -> None:
    images = correlated(n, d) - correlated(n, d).mean(0)
    drawn = Covariance.fit(images).draw(noise(40_000, d), sigma=2.0)
    wanted = images.T @ images / n + 4 * torch.eye(d)
    assert (torch.cov(drawn.T) - wanted).norm() / wanted.norm() < 0.05


def test_the_draw_is_where_the_exact_path_from_far_above_leads() -> None:
    images = correlated(2000, 16)
    images = images - images.mean(0)
    values, vectors = torch.linalg.eigh((images.T @ images / 2000).double())
    start, far, sigma = noise(5, 16), 1e6, 3.0
    exact = ((start.double() * far) @ vectors * ((values + sigma**2) / (values + far**2)).sqrt()) @ vectors.T
    assert torch.allclose(Covariance.fit(images).draw(start, sigma), exact.float(), atol=1e-3)


def test_the_mean_follows_what_is_asked_for_and_is_the_plain_mean_where_nothing_is() -> None:
    """Class moves the mean by ±1, the covariate by 2 a unit; a third of the covariates are not known."""
    n, d = 600, 8
    first = (torch.arange(n) % 2).float()
    covariate = noise(n, 1)[:, 0]
    known = (torch.arange(n) % 3 > 0).float()
    images = 0.5 + (2 * first - 1)[:, None] + 2 * (covariate * known)[:, None] + 0.1 * noise(n + 1, d)[:n]
    values = torch.stack((1 - first, first, covariate * known), dim=1)
    present = torch.stack((torch.ones(n), torch.ones(n), known), dim=1)
    moments = gaussian.fit(images, values, present, ["a" if one == 0 else "b" for one in first])
    asked = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    there = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    begun = moments.start(torch.zeros(3, d), asked, there, ["b", "b", None], 3.0)
    assert begun.mean(1).tolist() == pytest.approx([3.5, 1.5, images.mean().item()], abs=0.15)


def test_large_classes_have_a_covariance_of_their_own(tmp_path: Path) -> None:
    images = correlated(170, 12).reshape(170, 1, 3, 4)
    classes = ["many"] * 150 + ["few"] * 19 + [None]
    values = torch.tensor([[float(name == "many"), float(name == "few")] for name in classes])
    present = torch.tensor([[float(name is not None)] * 2 for name in classes])
    moments = gaussian.fit(images, values, present, classes)
    assert sorted(moments.covariances) == [gaussian.ALL, "class:many", gaussian.REST]
    again = gaussian.load(tmp_path, gaussian.save(tmp_path, moments))
    drawn = [kind.start(noise(170, 1, 3, 4), values, present, classes, 3.0) for kind in (moments, again)]
    assert drawn[0].shape == images.shape
    assert torch.allclose(*drawn, atol=1e-5)


def test_two_saves_have_the_same_bytes(tmp_path: Path) -> None:
    moments = gaussian.fit(correlated(150, 12), torch.zeros(150, 0), torch.zeros(150, 0), [None] * 150)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        gaussian.save(tmp_path / name, moments)
    assert (tmp_path / "one" / gaussian.FILE).read_bytes() == (tmp_path / "two" / gaussian.FILE).read_bytes()
