"The fast numbers are captum's, on networks with random numbers."

import numpy as np
import pytest
import torch
from test_attribution import ASKING, CODES, GRADIENTS, NETWORKS, random_coder, random_note
from torch import nn

from icdrat.coder.network import LabelAttentionCoder
from icdrat.rationale.attribution.explain import draw_seed, explain
from icdrat.rationale.attribution.perturbation import lime_draws, shapley_draws
from icdrat.rationale.attribution.reference import apart, drawing

EXACT = {m: {} for m in [*GRADIENTS, *ASKING]}
EXACT["deeplift"]["rule"] = "gradient"


def both(coder, note, name, ours=None, **options):
    ask = lambda by, extra: explain(coder, [note], {note.id: CODES}, name, progress=False, by=by, **options, **extra)
    return ask("icdrat", EXACT[name] if ours is None else ours), ask("captum", {})


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("seed", range(2))
def test_every_method_gives_the_numbers_of_captum(name, network, seed):
    coder, note = random_coder(network, seed), random_note(seed, 9)
    found = both(coder, note, name)
    assert apart(*found, least=1 if name in ASKING else 1e-30) < (1e-5 if name in ("lime", "kernel_shap") else 1e-7)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("network", NETWORKS)
def test_in_single_precision_too(name, network):
    coder, note = random_coder(network, 5), random_note(5, 9)
    coder = LabelAttentionCoder(coder.network.float(), coder.reader, CODES)
    assert apart(*both(coder, note, name), least=1 if name in ASKING else 1e-30) < 1e-5


@pytest.mark.parametrize(
    "name, options",
    [
        ("input_x_gradient", dict(reduce="sum")),
        ("attingrad", dict(norm="note")),
        ("integrated_gradients", dict(n_steps=7)),
        ("gradient_shap", dict(n_samples=3, noise=0.3, seed=4)),
        ("occlusion", dict(operator="delete", signed=True)),
        ("occlusion", dict(norm="note")),
        ("lime", dict(operator="delete", penalty=0.001, width=0.5, per_word=20, seed=3)),
        ("kernel_shap", dict(operator="delete", per_word=6, seed=2)),
        ("kernel_shap", dict(most=5)),
    ],
)
def test_options_mean_the_same(name, options):
    coder, note = random_coder("blocks", 1), random_note(1, 9)
    assert apart(*both(coder, note, name, **options), least=1) < 1e-5


@pytest.mark.parametrize("curve", [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.Softplus, nn.ELU])
def test_deeplift_is_captums_where_captums_adds_up(curve):
    coder, note = random_coder("blocks", 2), random_note(2)

    class Modules(type(coder.network)):
        def __init__(self, network):
            nn.Module.__init__(self)
            self.embedding, self.head, self.curve = network.embedding, network.head, curve()

        def encode(self, x, real):
            blocks = (x * real[..., None]).view(-1, self.block, x.shape[-1])
            return self.curve(blocks + blocks.sum(1, keepdim=True) / 3).view(x.shape)

    coder = LabelAttentionCoder(Modules(coder.network), coder.reader, CODES)
    coder.network.head.query.data.zero_()
    assert apart(*both(coder, note, "deeplift", ours={})) < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_draws_are_those_of_captum(seed):
    with drawing(seed):
        expected = torch.cat([torch.bernoulli(torch.full((1, 20), 0.5)) for _ in range(6)]).bool().numpy()
    np.testing.assert_array_equal(lime_draws(20, 6, seed), expected)
    rows = shapley_draws(20, 300, seed)
    assert rows[0].all() and not rows[1].any() and set(rows[2:].sum(1)) <= set(range(1, 20))


def test_captum_leaves_the_generators_as_they_were():
    torch.manual_seed(0), np.random.seed(0)
    expected = torch.rand(3), np.random.random(3)
    torch.manual_seed(0), np.random.seed(0)
    explain(random_coder("caml", 0), [random_note(0)], {"n0": CODES}, "gradient_shap", progress=False, by="captum")
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.random(3) == expected[1]).all()
    assert draw_seed(0, "a") != draw_seed(1, "a")
