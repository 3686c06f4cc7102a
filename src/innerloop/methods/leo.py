"""LEO, latent embedding optimisation: a task's classifier is decoded from codes, and the codes adapt; with L2F in front of both."""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from innerloop.errors import InputError
from innerloop.learner import Batch, Learner, Step
from innerloop.losses import model
from innerloop.models import mlp
from innerloop.params import Params, named
from innerloop.steps import in_turn, slope

CODES, WEIGHTS = "adapted.codes", "adapted.weights"


@dataclass(frozen=True)
class Penalties:
    """What is added to LEO's query loss in training, each with its weight; as released for 5-way 1-shot mini-ImageNet.

    Args:
        kl: of the codes' distribution, from N(0, 1).
        encoder: mean squared distance of the codes' start from where they end, taken as a constant.
        weights: half the squared weights of encoder, relation network and decoder.
        orthogonality: mean squared correlation of the decoder's rows.
        dropout: part of the embedding's features that is left out.
    """

    kl: float = 0.756143
    encoder: float = 5.756821e-6
    weights: float = 3.623413e-10
    orthogonality: float = 0.188103
    dropout: float = 0.307651


def leo(
    features: int,
    ways: int,
    codes: int = 64,
    steps: int = 5,
    fine: int = 5,
    rate: float = 1.0,
    fine_rate: float = 0.001,
    penalties: Penalties | None = None,
    attenuated: bool = False,
    generator: torch.Generator | None = None,
) -> Learner:
    """LEO: codes z ~ N(μ, σ²), (μ, σ) = relation(encode(S)); z ← z − a ∘ ∇_z L_S; w ~ N(decode(z)); w ← w − b ∘ ∇_w L_S.

    Inputs are fixed embeddings ``[points, features]``, of length 1 as released: rates and the spread of
    weights are made for that. What adapts is a linear classifier of them.
    Each support example has a code and a classifier's weights for its class, and a class's score
    is the mean over its examples, as in the released code; the support's loss is a sum. a and b
    are learned, one for each code dimension and each feature. Adaptation is listed by step: the
    ``steps`` on codes, then the ``fine`` ones on weights.

    Without ``penalties``, means are taken for samples, nothing is left out, and the loss is the
    cross-entropy alone: that is the learner to evaluate. Training is another learner of the same
    prior: ``train(leo(640, 5), …, phases={0: leo(640, 5, penalties=Penalties())})``.

    Args:
        features: of an embedding.
        ways: classes N of a task, each with as many examples in the support.
        codes: dimensions of a code.
        steps: on codes.
        fine: on weights.
        rate, fine_rate: where a and b begin.
        penalties: of training.
        attenuated: LEO + L2F, z₀ ← σ(g(mean ∇_z L_S)) ∘ z₀ before the steps on codes, and w likewise before those
            on weights; each g an MLP as wide as there are dimensions, told of a constant.
        generator: where weights start from.

    Raises:
        InputError: a size is below 1, or there are no steps.

    >>> learner = leo(features=16, ways=3, codes=4)
    >>> x, y = torch.randn(6, 16), torch.arange(6) % 3
    >>> learner.model(learner.adapt(learner.prior, (x, y))[-1], x).shape
    torch.Size([6, 3])

    Source: Rusu et al. 2019, arXiv:1807.05960, algorithm 1; deepmind/leo. Attenuation: Baik et al. 2020, arXiv:1906.05859, App. E.1.3.
    """
    if min(features, ways, codes, steps) < 1 or fine < 0:
        raise InputError(
            f"there are {features} features, {ways} ways, {codes} codes, {steps} and {fine} steps; give 1 or more, and 0 or more fine ones"
        )
    training = penalties is not None
    penalty = penalties or Penalties(0.0, 0.0, 0.0, 0.0, 0.0)
    spread = sqrt(2 / (features + ways))

    def dropped(x: Tensor) -> Tensor:
        return functional.dropout(x, penalty.dropout) if training and penalty.dropout else x

    def sampled(told: Tensor, offset: float) -> tuple[Tensor, Tensor]:
        """A sample, or the mean, of the Gaussian that is told of, and its divergence from N(0, 1) at that sample."""
        mean, free = told.chunk(2, -1)
        if not training:
            return mean, mean.new_zeros(())
        sd = (free.exp() - (1 - offset)).clamp_min(1e-10)
        noise = torch.randn_like(mean)
        found = mean + sd * noise
        return found, ((found.square() - noise.square()) / 2 - sd.log()).mean()

    def scores(weights: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("pf,nkf->pn", dropped(x), weights) / weights.shape[1]

    def decoded(params: Params, codes: Tensor) -> Tensor:
        return sampled(codes @ params["decoder"].mT, spread)[0]

    def of_codes(params: Params, batch: Batch) -> Tensor:
        return functional.cross_entropy(scores(decoded(params, params[CODES]), batch[0]), batch[1], reduction="sum")

    def of_weights(params: Params, batch: Batch) -> Tensor:
        return functional.cross_entropy(scores(params[WEIGHTS], batch[0]), batch[1], reduction="sum")

    def encode(params: Params, batch: Batch) -> Params:
        x, y = batch
        if len(x) % ways:
            raise InputError(f"the support has {len(x)} examples of {ways} classes; LEO needs equally many of each")
        own = dropped(x) @ params["encoder"].mT
        n = len(own)
        pairs = torch.cat([own[:, None].expand(n, n, codes), own[None].expand(n, n, codes)], -1)
        for k in range(3):
            pairs = pairs @ params[f"relation.{k}"].mT
            pairs = pairs.relu() if k < 2 else pairs
        label = functional.one_hot(y, ways).to(x.dtype)
        told = label.mT @ pairs.mean(1) / label.sum(0)[:, None]
        start, divergence = sampled(told[:, None].expand(ways, n // ways, 2 * codes), 0.0)
        return {**params, CODES: start, "adapted.start": start, "adapted.kl": divergence}

    def move_codes(params: Params, batch: Batch) -> Params:
        g = slope(of_codes, params, batch, {CODES: params[CODES]})[CODES]
        return {**params, CODES: params[CODES] - params["rate.codes"] * g}

    def decode(params: Params, batch: Batch) -> Params:
        return {**params, WEIGHTS: decoded(params, params[CODES])}

    def move_weights(params: Params, batch: Batch) -> Params:
        g = slope(of_weights, params, batch, {WEIGHTS: params[WEIGHTS]})[WEIGHTS]
        return {**params, WEIGHTS: params[WEIGHTS] - params["rate.weights"] * g}

    gates = {CODES: mlp(codes, codes, codes, generator=generator), WEIGHTS: mlp(features, features, features, generator=generator)}

    def forget(name: str) -> Step:
        loss, factors = of_codes if name == CODES else of_weights, model(gates[name], f"gate.{name}")

        def step(params: Params, batch: Batch) -> Params:
            fixed = {key: p.detach() for key, p in params.items()}
            told = slope(loss, fixed, batch, {name: fixed[name]})[name].flatten(0, 1).mean(0)
            return {**params, name: torch.sigmoid(factors(params, told)) * params[name]}

        return step

    def predict(params: Params, x: Tensor) -> Tensor:
        # Before the weights there are codes, which decode to weights; before codes, a task is unknown.
        return scores(params[WEIGHTS] if WEIGHTS in params else decoded(params, params[CODES]), x)

    def loss(params: Params, batch: Batch) -> Tensor:
        value = functional.cross_entropy(predict(params, batch[0]), batch[1])
        if not training:
            return value
        weights = [params["encoder"], params["decoder"], *(params[f"relation.{k}"] for k in range(3))]
        rows = functional.normalize(params["decoder"].mT, dim=1)
        apart = (rows @ rows.mT - torch.eye(codes, dtype=rows.dtype, device=rows.device)).square().mean()
        moved = (params[CODES].detach() - params["adapted.start"]).square().mean()
        value = value + penalty.kl * params["adapted.kl"] + penalty.encoder * moved + penalty.orthogonality * apart
        return value + penalty.weights * torch.stack([w.square().sum() for w in weights]).sum() / 2

    prior: Params = {}
    for name, shape in {
        "encoder": (codes, features),
        **{f"relation.{k}": (2 * codes, 2 * codes) for k in range(3)},
        "decoder": (2 * features, codes),
    }.items():
        prior[name] = nn.init.xavier_uniform_(torch.empty(shape), generator=generator)
    prior |= {"rate.codes": torch.full((codes,), rate), "rate.weights": torch.full((features,), fine_rate)}
    start: tuple[Step, ...] = (encode,)
    last: tuple[Step, ...] = (move_codes,)
    if attenuated:
        prior |= {key: p for name, net in gates.items() for key, p in named(f"gate.{name}", net).items()}
        start = (in_turn(encode, forget(CODES)),)
    first_fine = in_turn(*((decode, forget(WEIGHTS)) if attenuated else (decode,)), move_weights)
    last = (move_codes,) * steps + ((first_fine,) + (move_weights,) * (fine - 1) if fine else ())
    return Learner(prior, (*start, *last), loss, predict, prepared=1)
