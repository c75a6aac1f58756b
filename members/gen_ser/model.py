"""Gen-SER on top of a frozen speech encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from abhinaya.nn.backbone import Backbone, LayerMix
from abhinaya.nn.classifier import EmotionClassifier, EmotionOutput, row_means
from abhinaya.nn.head import EmotionHead
from members.gen_ser.config import GenSerConfig
from members.gen_ser.estimator import Estimator
from members.gen_ser.transport import Bridge, sample, taxonomy

__all__ = ["LayerMeans", "TransportBackbone", "TransportClassifier", "fit_temperature"]

_FIRST_TEMPERATURE = 0.1
_TEMPERATURES = (0.01, 10.0)


class LayerMeans(LayerMix):
    """The last layer, and a learned, softmax-weighted sum of all layers before it.

    Args:
        n_layers: N, at least 2.
        n_features: D.
        standardize: as in `LayerMix`.
    """

    def __init__(self, n_layers: int, n_features: int, *, standardize: bool) -> None:
        super().__init__(n_layers, n_features, standardize=standardize)
        self.weights = nn.Parameter(torch.zeros(n_layers - 1))

    def forward(self, states: Tensor) -> Tensor:
        """Return features, then conditions, shape (B, T, 2 D), of `states` (B, N, T, D)."""
        assert self.weights is not None
        states = self.scale(states)
        condition = torch.einsum("n,bntd->btd", self.weights.softmax(dim=0), states[:, :-1])
        return torch.cat([states[:, -1], condition], dim=2)


class TransportBackbone(Backbone):
    """Features and condition of each clip, from the means over time of a frozen encoder's layers.

    Args:
        speech: another member's backbone; its encoder is frozen, and it gives the mean over real
            frames of all layers.
        n_layers: how many these are.
        standardize: see `LayerMeans`.
    """

    context = ("seeds",)

    def __init__(self, speech: Backbone, n_layers: int, *, standardize: bool) -> None:
        super().__init__()
        self.encoder = speech.encoder
        # Methods only: what else `speech` has is not part of this model.
        self._encode = speech.forward_pretrained
        self._encode_settings = speech.encode_settings
        self._repeated_layers = speech.repeated_layers
        width = speech.n_features
        self.layer_means = LayerMeans(n_layers, width, standardize=standardize)
        self.n_features = 2 * width

    @property
    def encode_settings(self) -> dict[str, Any]:
        """Those of the other backbone, so that stored features serve both members."""
        return self._encode_settings

    @property
    def repeated_layers(self) -> list[str]:
        """Those of the other backbone, which knows how it runs them."""
        return self._repeated_layers

    def forward_pretrained(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of each layer, shape (B, N, 1, D), and a mask (B, 1)."""
        return self._encode(**inputs)

    def forward_trained(self, states: Tensor, mask: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and condition (B, 1, 2 D), and the mask; the noise is the model's."""
        del seeds
        return self.layer_means(states), mask


class TransportClassifier(EmotionClassifier):
    """Estimates class encodings; the cosine to the encoding of each class is its logit.

    The head holds the encodings, scaled to length 1 / temperature, and is not trained: a logit is a
    cosine over the temperature, and the embedding is the estimate, scaled to length one.

    Args:
        backbone: gives features and condition.
        config: all the rest.
        n_classes: K.

    Raises:
        BadValueError: if the width does not suit the classes or the attention heads.
    """

    codes: Tensor

    def __init__(self, backbone: Backbone, config: GenSerConfig, n_classes: int) -> None:
        width = backbone.n_features // 2
        codes = taxonomy(n_classes, width)
        head = EmotionHead(width, n_classes, hidden=0).requires_grad_(False)
        temperature = config.temperature or _FIRST_TEMPERATURE
        head.out.weight.copy_(F.normalize(codes, dim=1) / temperature)
        head.out.bias.zero_()
        super().__init__(backbone, nn.Identity(), head)
        self.register_buffer("codes", codes, persistent=False)
        self.estimator = Estimator(width, **config.estimator.model_dump())
        self.bridge = Bridge(**config.bridge.model_dump())
        self.sampler = config.sampler
        self.calibrates = config.temperature is None

    @property
    def temperature(self) -> float:
        """What cosines are divided by."""
        return 1 / float(self.head.out.weight[0].norm())

    def forward(
        self,
        inputs: dict[str, Tensor],
        labels: Tensor | None = None,
        segment_of: Tensor | None = None,
        attributes: Tensor | None = None,
    ) -> EmotionOutput:
        """Return logits, and with labels the loss: the mean squared distance to the encodings.

        In training the estimate is that of one point on the bridge of each row, drawn by its seed;
        else it is the last one of the sampler.

        Args:
            inputs: as for the backbone, with `seeds`, shape (P,).
            labels: class indices (B,).
            segment_of: as in `EmotionClassifier`.
            attributes: none; the config refuses them.
        """
        del attributes
        joined, _ = self.backbone(inputs)
        features, condition = joined.squeeze(1).chunk(2, dim=1)
        targets = None
        if labels is not None:
            targets = self.codes[labels if segment_of is None else labels[segment_of]]
        if self.training and targets is not None:
            t, noise = self._draw(inputs["seeds"])
            bridge = self.bridge
            t = bridge.t_min + (bridge.t_max - bridge.t_min) * t
            x = bridge.mean(targets, features, t) + bridge.deviation(t) * noise
            estimate = self.estimator(x, condition, t)
        else:
            is_noisy = self.sampler.start == "noisy"
            estimate = sample(
                lambda x, t: self.estimator(x, condition, t),
                features,
                self.bridge,
                n_steps=self.sampler.steps,
                method=self.sampler.method,
                noise=self._draw(inputs["seeds"])[1] if is_noisy else None,
            )
        estimate = estimate.float()
        logits, embeddings = self.head(F.normalize(estimate, dim=1))
        if segment_of is not None:
            logits, embeddings = row_means(logits, segment_of), row_means(embeddings, segment_of)
        loss = F.mse_loss(estimate, targets) if targets is not None else None
        return EmotionOutput(loss=loss, logits=logits, embeddings=embeddings)

    def _draw(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return a number in [0, 1) and normal noise for each seed, shapes (B, 1) and (B, D)."""
        times, noise = [], []
        for seed in seeds.tolist():
            generator = torch.Generator().manual_seed(seed)
            times.append(torch.rand(1, generator=generator))
            noise.append(torch.randn(self.codes.shape[1], generator=generator))
        return torch.stack(times).to(seeds.device), torch.stack(noise).to(seeds.device)

    def calibrate(self, logits: NDArray[np.float32], truth: NDArray[np.int64]) -> None:
        """Set the temperature to the one that fits the validation rows best."""
        cosines = logits.astype(np.float64) * self.temperature
        scale = self.temperature / fit_temperature(cosines, truth)
        self.head.out.weight.mul_(scale)

    def trained_names(self) -> list[str]:
        """Return keys of what a checkpoint holds, the head with its temperature among them."""
        names = {*super().trained_names(), "head.out.weight", "head.out.bias"}
        return [name for name in self.state_dict() if name in names]


def fit_temperature(cosines: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Find the T between 0.01 and 10 at which softmax(cosines / T) fits the labels best.

    Args:
        cosines: shape (U, K).
        truth: true class indices, shape (U,).
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(truth))

    def mean_loss(log_t: float) -> float:
        return float(-log_softmax(cosines / np.exp(log_t), axis=1)[rows, truth].mean())

    best = minimize_scalar(mean_loss, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(np.exp(best.x))
