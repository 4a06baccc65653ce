import numpy as np
import pytest
import torch

from hansa_client.training.augmentation import add_noise, augment_images, crop, flip, mixup
from hansa_common.training_plan import AugmentationPlan


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(1, 256, (200, 6, 5, 3), dtype=torch.uint8, generator=generator(9))


def test_flip_with_the_same_draws_is_its_own_inverse(images: torch.Tensor) -> None:
    flipped = flip(images, generator())
    assert not torch.equal(flipped, images)
    assert torch.equal(flip(flipped, generator()), images)


def test_flip_mirrors_about_half_of_the_images_left_and_right(images: torch.Tensor) -> None:
    flipped = flip(images, generator())
    mirrored = torch.from_numpy(images.numpy()[:, :, ::-1].copy())
    same = (flipped == images).flatten(1).all(dim=1)
    assert ((flipped == mirrored).flatten(1).all(dim=1) | same).all()
    assert 70 < int(same.sum()) < 130


def test_crop_cuts_each_image_out_of_its_padded_self_at_every_place(images: torch.Tensor) -> None:
    cropped = crop(images, 2, generator())
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    padded = np.pad(images.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = set()
    for index, found in enumerate(cropped.numpy()):
        windows = {
            (row, column): padded[index, row : row + 6, column : column + 5] for row in range(5) for column in range(5)
        }
        matches = [place for place, window in windows.items() if np.array_equal(window, found)]
        assert len(matches) == 1
        places.add(matches[0])
    assert len(places) == 25


def test_noise_has_the_standard_deviation_asked_for() -> None:
    noise = add_noise(torch.zeros(100, 1000), 0.25, generator()).numpy()
    assert noise.std() == pytest.approx(0.25, rel=0.01)
    assert abs(noise.mean()) < 0.005


def test_mixup_blends_features_with_the_partners_by_lambda() -> None:
    labels = torch.arange(50)
    features = torch.randn(50, 4, generator=generator(3))
    mixed = mixup(features, labels, 0.4, generator())
    expected = mixed.share * features + (1 - mixed.share) * features[mixed.partners]
    torch.testing.assert_close(mixed.features, expected)
    assert sorted(mixed.partners.tolist()) == labels.tolist()
    assert not torch.equal(mixed.partners, labels)


def test_the_lambda_of_mixup_follows_the_beta_distribution() -> None:
    alpha, draw = 0.5, generator()
    features, labels = torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
    shares = np.array([mixup(features, labels, alpha, draw).share for _ in range(2000)])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)  # of Beta(alpha, alpha)


def test_a_plan_without_changes_leaves_the_images_alone(images: torch.Tensor) -> None:
    assert augment_images(images, AugmentationPlan(), generator()) is images


def test_draws_depend_on_the_generator_only(images: torch.Tensor) -> None:
    plan = AugmentationPlan(flip=True, crop=2)
    first, again, other = (augment_images(images, plan, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
