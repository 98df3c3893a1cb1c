"""The terms of the Koopman loss by their definitions and closed forms, and the autoencoder by what it must learn."""

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from torch.nn import functional as F

from hartley.representation import (
    KoopmanAutoencoder,
    gaussian_lagged_mi,
    koopman_loss,
    latent_entropy,
    ridge_koopman,
    temporal_infonce,
    water_filling,
)
from strategies import law, seeds


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed % 2**62), dtype=torch.float64)


def with_spectrum(*variances: float) -> torch.Tensor:
    """Latents whose covariance has these eigenvalues exactly, in a turned basis."""
    d = len(variances)
    signs = torch.cat([torch.eye(d), -torch.eye(d)]).double() * torch.tensor(variances, dtype=torch.float64).sqrt()
    return signs @ torch.linalg.qr(drawn(0, d, d))[0]


# Entropy of the latents


def test_entropy_of_known_spectra():
    assert float(latent_entropy(with_spectrum(3.0, 1.0))) == pytest.approx(0.562335, abs=1e-6)
    assert float(latent_entropy(with_spectrum(3.0, 1.0)).exp()) == pytest.approx(1.754765, abs=1e-6)
    assert float(latent_entropy(with_spectrum(2.0, 2.0, 2.0, 2.0))) == pytest.approx(math.log(4), abs=1e-12)
    assert float(latent_entropy(with_spectrum(5.0, 5.0, 0.0, 0.0))) == pytest.approx(math.log(2), abs=1e-6)
    assert float(latent_entropy(with_spectrum(5.0, 0.0, 0.0))) == pytest.approx(0, abs=1e-6)


@law(seeds(), st.integers(2, 12), st.integers(1, 9), st.floats(1e-3, 1e3))
def test_entropy_is_between_0_and_ln_d_and_does_not_see_coordinates(seed, n, d, scale):
    z = drawn(seed, n, d)
    found = float(latent_entropy(z))
    assert -1e-12 <= found <= math.log(min(n, d)) + 1e-12
    turn = torch.linalg.qr(drawn(seed + 1, d, d))[0]
    assert float(latent_entropy(scale * z @ turn + 5)) == pytest.approx(found, abs=1e-6)
    wide = F.pad(z, (0, 20))  # 20 features that do not vary: the other side of the Gram matrix
    assert float(latent_entropy(wide)) == pytest.approx(found, abs=1e-5)
    values = torch.linalg.eigvalsh(torch.cov(z.T).reshape(d, d)).clamp(min=0)
    shares = values / values.sum()
    assert found == pytest.approx(float(-torch.xlogy(shares, shares).sum()), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_dead_representation_has_no_entropy(dtype):
    dead = torch.full((50, 6), 1234.5678, dtype=dtype, requires_grad=True)
    found = latent_entropy(dead)
    assert found.item() == 0.0
    found.backward()
    assert dead.grad is not None
    assert not dead.grad.any()


def test_a_little_life_far_from_the_origin_is_seen():
    z = 1000 + 0.01 * drawn(0, 200, 4)
    assert float(latent_entropy(z.float())) == pytest.approx(float(latent_entropy(z)), abs=1e-3)
    assert float(latent_entropy(z)) > 1.3


@law(seeds(), st.integers(3, 8), st.integers(1, 6), examples=15)
def test_entropy_has_the_gradient_of_its_differences(seed, n, d):
    z = drawn(seed, n, d).requires_grad_()
    assert torch.autograd.gradcheck(latent_entropy, z, atol=1e-5)


def test_a_dead_mode_has_a_finite_gradient_that_revives_it():
    z = torch.cat([drawn(0, 50, 2), 1e-5 * drawn(1, 50, 1)], 1).float().requires_grad_()
    latent_entropy(z).backward()
    grad = z.grad
    assert grad is not None
    assert grad.isfinite().all()
    with torch.no_grad():
        assert latent_entropy(z + 1e-3 * grad) > latent_entropy(z)


# Coherence in time


def infonce_by_loops(z: torch.Tensor, k: int, tau: float) -> float:
    total, anchors = 0.0, 0
    for sequence in F.normalize(z, dim=-1):
        for n in range(k, len(sequence) - k):
            scores = {m: math.exp(float(sequence[n] @ sequence[m]) / tau) for m in range(len(sequence)) if m != n}
            positive = sum(s for m, s in scores.items() if abs(m - n) <= k)
            total -= math.log(positive / sum(scores.values()))
            anchors += 1
    return total / anchors if anchors else 0.0


@law(seeds(), st.integers(1, 3), st.integers(1, 12), st.integers(1, 3), st.floats(0.1, 2))
def test_infonce_is_its_definition(seed, batch, length, k, tau):
    z = drawn(seed, batch, length, 4)
    found = float(temporal_infonce(z, n_neighbors=k, temperature=tau))
    assert found == pytest.approx(infonce_by_loops(z, k, tau), rel=1e-9, abs=1e-12)
    negatives = max(0, length - 1 - 2 * k)
    assert -1e-12 <= found <= math.log1p(negatives / 2 / k * math.exp(2 / tau)) + 1e-9
    if length <= 2 * k + 1:
        assert found == 0


def test_infonce_of_a_constant_sequence():
    still = torch.ones(2, 12, 3)
    assert float(temporal_infonce(still, n_neighbors=2)) == pytest.approx(math.log(11 / 4), abs=1e-6)
    assert float(temporal_infonce(0 * still, n_neighbors=2)) == pytest.approx(math.log(11 / 4), abs=1e-6)


def test_infonce_is_lower_for_what_moves_slowly():
    slow = torch.tensor([[[math.cos(t), math.sin(t)] for t in np.linspace(0, math.pi, 16)]])
    assert temporal_infonce(slow) < temporal_infonce(
        slow[:, torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    )


def test_gradients_reach_short_windows_and_zero_latents():
    for z in (torch.zeros(1, 4, 2), torch.zeros(2, 12, 2)):
        z.requires_grad_()
        temporal_infonce(z).backward()
        assert z.grad is not None
        assert z.grad.isfinite().all()


# The operator


@law(seeds(), st.integers(1, 5))
def test_a_small_ridge_recovers_exact_dynamics(seed, d):
    k = drawn(seed, d, d) / d**0.5
    z = drawn(seed + 1, 3, 10 + d, d)
    assert torch.allclose(ridge_koopman(z, z @ k, ridge=1e-10), k, atol=1e-5)


@law(seeds(), st.integers(1, 7), st.integers(1, 7), st.floats(0.01, 10))
def test_both_sides_of_the_ridge_agree_and_more_shrinks(seed, steps, d, ridge):
    z, z_next = drawn(seed, 2, steps, d), drawn(seed + 1, 2, steps, d)
    expected = torch.stack(
        [torch.linalg.inv(a.T @ a + ridge * torch.eye(d).double()) @ a.T @ b for a, b in zip(z, z_next, strict=True)]
    ).mean(0)
    assert torch.allclose(ridge_koopman(z, z_next, ridge=ridge), expected, atol=1e-8)
    one = [float(ridge_koopman(z[0], z_next[0], ridge=r).norm()) for r in (ridge, 10 * ridge)]
    assert one[1] <= one[0] + 1e-12


# Mutual information in closed form


def test_scalar_information():
    assert gaussian_lagged_mi([[0.9]], [[0.1]], [[1.0]]) == pytest.approx(1.104137, abs=1e-6)


@law(st.floats(0.05, 0.95), st.floats(0.01, 5), st.integers(1, 10))
def test_information_of_a_stationary_process_fades(a, s2, n):
    c = s2 / (1 - a**2)
    found = gaussian_lagged_mi([[a]], [[s2]], [[c]], n)
    assert found == pytest.approx(-0.5 * math.log(1 - a ** (2 * n)), rel=1e-9)
    assert gaussian_lagged_mi([[a]], [[s2]], [[c]], n + 1) <= found


@law(seeds(), st.integers(1, 4), st.integers(1, 4))
def test_information_is_that_of_the_joint_covariance_in_any_coordinates(seed, d, n):
    k, root, spread = drawn(seed, d, d) / d**0.5, drawn(seed + 1, d, d), drawn(seed + 2, d, d)
    noise, c = root.T @ root + 0.1 * torch.eye(d).double(), spread.T @ spread
    power = torch.linalg.matrix_power(k, n)
    after = power.T @ c @ power
    for i in range(n):
        step = torch.linalg.matrix_power(k, i)
        after = after + step.T @ noise @ step
    # det of the conditional covariance, of what follows given what was: I = (ln det after - ln det noise part) / 2
    conditional = after - power.T @ c @ power
    expected = float(torch.logdet(after) - torch.logdet(conditional)) / 2
    assert float(gaussian_lagged_mi(k, noise, c, n)) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    turn = drawn(seed + 3, d, d) + 2 * torch.eye(d)
    back = torch.linalg.inv(turn)
    turned = gaussian_lagged_mi(back @ k @ turn, turn.T @ noise @ turn, turn.T @ c @ turn, n)
    assert float(turned) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_data_processing_with_gaussian_observations():
    """x = z + noise: I(z; z') >= I(z; x') and I(z; x') >= I(x; x'), from joint covariances."""
    k, noise, c, eye = (
        0.6 * torch.eye(2).double(),
        torch.eye(2).double(),
        2 * torch.eye(2).double(),
        torch.eye(2).double(),
    )
    whole = float(gaussian_lagged_mi(k, noise, c))
    seen = float(gaussian_lagged_mi(k, noise + 0.5 * eye, c))  # the observation's noise adds to the step's
    # of x = z + e: the regression of z on x leaves c - c (c + .5)^-1 c
    gain = c @ torch.linalg.inv(c + 0.5 * eye)
    left = k.T @ (c - gain @ c) @ k
    both = float(gaussian_lagged_mi(gain.T @ k, left + noise + 0.5 * eye, c + 0.5 * eye))
    assert whole > seen > both > 0


def test_information_is_differentiable():
    k = drawn(0, 3, 3).requires_grad_()
    eye = torch.eye(3).double()
    assert torch.autograd.gradcheck(lambda k: gaussian_lagged_mi(k, eye, 2 * eye, 3), k)


# Water filling


def test_water_filling_numbers():
    scarce, ample = water_filling([10, 1], 0.5), water_filling([10, 1], 2.0)
    assert scarce.level == pytest.approx(0.6)
    assert scarce.variances == pytest.approx([0.5, 0.0])
    assert ample.level == pytest.approx(1.55)
    assert ample.variances == pytest.approx([1.45, 0.55])


@law(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.floats(0.01, 100), seeds())
def test_water_filling_spends_all_and_nobody_does_better(gains, budget, seed):
    a = np.array(gains)
    variances, level = water_filling(gains, budget)
    assert variances.sum() == pytest.approx(budget, rel=1e-9)
    assert (variances >= 0).all()
    assert (np.abs(variances - (level - 1 / a))[variances > 0] < 1e-9 * level).all()
    assert (level <= 1 / a[variances == 0] + 1e-12).all()
    others = budget * np.random.default_rng(seed).dirichlet(np.ones(len(a)), 200)
    assert np.log1p(a * variances).sum() >= np.log1p(a * others).sum(1).max() - 1e-9


# The loss


def test_loss_is_the_sum_of_its_terms_with_the_entropy_subtracted():
    z, x, k = drawn(0, 3, 10, 4), drawn(1, 3, 10, 5), drawn(2, 4, 4)
    matrix = drawn(3, 4, 5)

    def decoder(z):
        return z @ matrix

    weights: dict[str, Any] = {"mi_weight": 0.3, "consistency_weight": 0.7, "entropy_weight": 0.9}
    terms = koopman_loss(z, x, decoder, k, reconstruction_weight=0.2, **weights)
    assert float(terms.prediction) == pytest.approx(float((z[:, :-1] @ k @ matrix - x[:, 1:]).square().mean()))
    assert float(terms.reconstruction) == pytest.approx(float((z @ matrix - x).square().mean()))
    assert float(terms.consistency) == pytest.approx(float((z[:, :-1] @ k - z[:, 1:]).square().mean()))
    assert float(terms.infonce) == pytest.approx(float(temporal_infonce(z)))
    assert float(terms.entropy) == pytest.approx(float(latent_entropy(z)))
    expected = terms.prediction + 0.2 * terms.reconstruction + 0.7 * terms.consistency
    assert float(terms.total) == pytest.approx(float(expected + 0.3 * terms.infonce - 0.9 * terms.entropy))


def test_the_solved_operator_gets_no_gradient():
    z = drawn(0, 3, 10, 4).requires_grad_()
    none: dict[str, Any] = {"mi_weight": 0.0, "entropy_weight": 0.0, "reconstruction_weight": 0.0}
    koopman_loss(z, z.detach(), lambda z: z.detach(), **none).total.backward()
    solved = ridge_koopman(z[:, :-1].detach(), z[:, 1:].detach())
    by_hand = drawn(0, 3, 10, 4).requires_grad_()
    koopman_loss(by_hand, by_hand.detach(), lambda z: z.detach(), solved, **none).total.backward()
    assert z.grad is not None
    assert by_hand.grad is not None
    assert torch.equal(z.grad, by_hand.grad)


# The autoencoder


def circle(steps: int = 60, turn: float = 0.3, start: float = 0.0) -> np.ndarray:
    angles = start + turn * np.arange(steps)
    return np.stack([np.sin(angles), np.cos(angles), np.sin(angles + 1), np.ones(steps)], 1)


@pytest.fixture(scope="module")
def learned() -> KoopmanAutoencoder:
    return KoopmanAutoencoder(2, operator="ridge", max_iter=80, learning_rate=5e-3, random_state=0).fit(circle())


def test_a_rotation_is_learned(learned):
    start = circle(start=1.7)
    assert np.abs(learned.predict(start[:1], n_steps=20) - start[20]).max() < 0.15
    assert np.abs(np.angle(learned.eigenvalues_)) == pytest.approx(0.3, abs=0.02)
    assert learned.effective_dimension_ == pytest.approx(2, abs=0.05)
    assert learned.scale_[3] == 1.0
    assert learned.simulate(start[:1], 20)[0, :, 3] == pytest.approx(1, abs=0.1)  # a feature that never changes


def test_n_steps_are_a_matrix_power_and_a_simulation_passes_through_them(learned):
    x = circle(7, start=0.5)
    path = learned.simulate(x, 5)
    assert path.shape == (7, 5, 4)
    for n in (1, 3, 5):
        assert learned.predict(x, n_steps=n) == pytest.approx(path[:, n - 1], abs=1e-5)
        by_hand = learned.transform(x) @ np.linalg.matrix_power(learned.operator_, n)
        assert learned.inverse_transform(by_hand) == pytest.approx(path[:, n - 1], abs=1e-5)
    stacked = np.stack([x, x])
    assert learned.simulate(stacked, 5)[1] == pytest.approx(path, abs=1e-6)
    assert learned.transform(torch.tensor(stacked)).shape == (2, 7, 2)


def test_what_is_said_of_the_latents(learned):
    latents = learned.transform(circle())
    assert learned.latent_covariance_ == pytest.approx(np.cov(latents.T), rel=1e-4)
    moduli = np.abs(learned.eigenvalues_)
    assert (np.diff(moduli) <= 1e-12).all()
    assert np.sort_complex(learned.eigenvalues_) == pytest.approx(np.sort_complex(learned.eigenvalues_.conj()))
    assert learned.mutual_information(1) > learned.mutual_information(5) > 0
    assert set(learned.history_) == {"total", "prediction", "reconstruction", "consistency", "infonce", "entropy"}
    assert len(learned.history_["total"]) == learned.n_iter_ == 80


def test_the_learned_operator_turns_and_more_entropy_widens_the_latents():
    narrow, wide = (
        KoopmanAutoencoder(6, max_iter=150, learning_rate=5e-3, random_state=0, entropy_weight=weight).fit(circle())
        for weight in (0.0, 1.0)
    )
    assert np.abs(narrow.predict(circle()[:1], n_steps=10) - circle()[10]).max() < 0.2
    assert np.abs(narrow.operator_ - np.eye(6)).max() > 0.1
    assert wide.effective_dimension_ > narrow.effective_dimension_ + 0.5
    assert wide.history_["entropy"][-1] > narrow.history_["entropy"][-1]


@pytest.mark.parametrize("operator", ["learned", "ridge"])
def test_the_same_seed_gives_the_same_model_and_no_global_seed_moves(operator):
    settings: dict[str, Any] = {"n_components": 2, "operator": operator, "max_iter": 5, "noise": 0.1, "random_state": 3}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    models = [KoopmanAutoencoder(**settings).fit(circle()) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(models[0].operator_, models[1].operator_)
    assert np.array_equal(models[0].predict(circle()), models[1].predict(circle()))


def test_trajectories_of_any_kind():
    fit = KoopmanAutoencoder(2, max_iter=3, random_state=0).fit
    stacked = np.stack([circle(), circle(start=1.0)])
    as_list = fit([circle(), torch.tensor(circle(start=1.0))])
    assert np.array_equal(fit(stacked).operator_, as_list.operator_)
    assert np.array_equal(fit(torch.tensor(stacked)).operator_, as_list.operator_)
    fit([circle(60), circle(20)])
    fit([circle(60), circle(3)])  # all windows as short as the shortest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_of_any_precision_that_want_a_gradient(dtype):
    x = torch.tensor(circle()).to(dtype).requires_grad_()
    plain = x.detach().float().numpy()
    fit = KoopmanAutoencoder(2, max_iter=3, random_state=0).fit
    model = fit(plain)
    for given in (x, x[None], [x], [plain[:30], x[30:]]):
        found = fit(given)
        assert np.array_equal(found.mean_, plain.mean(0, dtype=np.float64))
        assert found.operator_ == pytest.approx(model.operator_, abs=1e-2)
    assert np.array_equal(fit([x, x]).operator_, fit([plain, plain]).operator_)
    assert np.array_equal(model.transform(x), model.transform(plain))
    assert np.array_equal(model.simulate(x[None, :7], 3), model.simulate(plain[None, :7], 3))
    latents = torch.tensor(model.transform(plain)).to(dtype).requires_grad_()
    assert np.array_equal(model.inverse_transform(latents), model.inverse_transform(latents.detach().float().numpy()))


@pytest.mark.parametrize("operator", ["learned", "ridge"])
def test_the_noise_is_that_of_all_windows(operator):
    paths = [circle(30), circle(25, start=2.0) * 2, circle(7, turn=0.5)]
    model = KoopmanAutoencoder(3, operator=operator, window=6, max_iter=5, random_state=0).fit(paths)
    steps = [model.transform(path[at : at + 6]) for path in paths for at in range(len(path) - 5)]
    residuals = np.concatenate([z[1:] - z[:-1] @ model.operator_ for z in steps])
    assert model.noise_covariance_ == pytest.approx(np.cov(residuals, rowvar=False, bias=True), rel=1e-4, abs=1e-9)


def test_windows_never_cross_from_one_trajectory_into_the_next():
    """Two that stand still, at different places: no step of any window moves, so the identity has no residual."""
    still = [np.full((30, 2), value) for value in (-1.0, 1.0)]
    model = KoopmanAutoencoder(2, max_iter=2, random_state=0).fit(still)
    residuals = model.transform(still[0])[1:] - model.transform(still[0])[:-1] @ model.operator_
    assert np.abs(residuals).max() < 0.05
    assert np.trace(model.noise_covariance_) < 1e-3


def test_modules_of_ones_own_are_copied():
    encoder, decoder = nn.Linear(4, 3), nn.Linear(3, 4)
    weight = encoder.weight.detach().clone()
    model = KoopmanAutoencoder(3, encoder=encoder, decoder=decoder, max_iter=3, random_state=0).fit(circle())
    assert torch.equal(encoder.weight, weight)
    assert not torch.equal(model.encoder_.get_parameter("weight"), weight)
    cast(KoopmanAutoencoder, clone(model)).fit(circle())


CHECKED = [
    KoopmanAutoencoder(2, max_iter=2, random_state=0),
    KoopmanAutoencoder(2, operator="ridge", max_iter=2, random_state=0),
]


@parametrize_with_checks(CHECKED)
def test_scikit_learn_finds_its_manners(estimator, check):
    check(estimator)


X = circle()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: latent_entropy(torch.ones(1, 3)), r"z must hold at least two latents; got shape \(1, 3\)"),
        (lambda: temporal_infonce(torch.ones(4, 3)), r"z must have shape \[B, T, D\]; got \(4, 3\)"),
        (lambda: temporal_infonce(torch.ones(1, 4, 3), n_neighbors=0), "n_neighbors must be"),
        (lambda: temporal_infonce(torch.ones(1, 4, 3), temperature=0.0), "temperature must be"),
        (lambda: ridge_koopman(torch.ones(4, 3), torch.ones(3, 3)), r"got \(4, 3\) and \(3, 3\)"),
        (lambda: ridge_koopman(torch.ones(4, 3), torch.ones(4, 3), ridge=0.0), "ridge must be"),
        (lambda: gaussian_lagged_mi([[1.0]], [[0.0]], [[1.0]]), "noise must be symmetric and positive definite"),
        (lambda: gaussian_lagged_mi([[1.0]], [[1.0]], [1.0]), r"must all be \[D, D\]; got \(1, 1\), \(1, 1\), \(1,\)"),
        (lambda: gaussian_lagged_mi([[1.0]], [[1.0]], [[1.0]], 0), "n_steps must be"),
        (lambda: water_filling([1.0, 0.0], 1.0), "gains must be a list of numbers above 0"),
        (lambda: water_filling([1.0], 0.0), "budget must be"),
        (lambda: koopman_loss(torch.ones(2, 1, 3), torch.ones(2, 1, 3), lambda z: z), "with T at least 2"),
        (lambda: KoopmanAutoencoder(operator=cast(Any, "given")).fit(X), "operator must be one of 'learned', 'ridge'"),
        (lambda: KoopmanAutoencoder(window=1).fit(X), "window must be at least 2; got 1"),
        (lambda: KoopmanAutoencoder(entropy_weight=-1.0).fit(X), "entropy_weight must be"),
        (lambda: KoopmanAutoencoder(2, encoder=nn.Linear(4, 3)).fit(X), "encoder must give n_components = 2"),
        (lambda: KoopmanAutoencoder().fit([X, X[:1]]), "at least two steps; got 1 in trajectory 1"),
        (lambda: KoopmanAutoencoder().fit([X, X[:, :2]]), r"as many features each; got \[2, 4\]"),
        (lambda: KoopmanAutoencoder().fit(np.where(X > 0.99, np.nan, X)), "contains NaN"),
        (lambda: KoopmanAutoencoder(2, max_iter=2).fit(X).predict(X[:, :3]), "X has 3 features"),
        (lambda: KoopmanAutoencoder(2, max_iter=2).fit(X).predict(X, n_steps=0), "n_steps must be"),
        (lambda: KoopmanAutoencoder(2, max_iter=2).fit(X).inverse_transform(X), "Z must have 2 components"),
        (lambda: KoopmanAutoencoder(2, learning_rate=1e30, max_iter=9).fit(X), "learning_rate must be lower"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
