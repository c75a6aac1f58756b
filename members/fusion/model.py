"""Several encoders as one backbone: the vector in which their legs meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from abhinaya.errors import BadValueError
from abhinaya.nn.backbone import Backbone, LayerMix
from members.fusion.config import Layer
from members.fusion.fuse import CrossFusion, DeepFusion

__all__ = ["FusionBackbone", "Leg"]


class Leg(Backbone):
    """The hidden states of one encoder that the config asks for.

    Args:
        reader: backbone of the encoder; for `layer: last` it gives the last hidden state alone,
            else all of them.
        layer: see `Layer`.
        key: of the config, for messages.

    Raises:
        BadValueError: if the encoder has no such layer.
    """

    def __init__(self, reader: Backbone, layer: Layer, key: str) -> None:
        super().__init__()
        self.encoder = reader.encoder
        # Methods only: what else the reader has is not part of this model.
        self._encode = reader.forward_pretrained
        self._settings = reader.encode_settings
        self._repeated_layers = reader.repeated_layers
        self.layer = layer
        self.n_features = reader.n_features
        encoder: Any = reader.encoder
        n_layers: int = encoder.config.num_hidden_layers
        if isinstance(layer, int) and layer > n_layers:
            raise BadValueError(
                f"{key}.layer is {layer}, but the encoder has {n_layers} blocks. Give a number "
                f"from 0, the input of the first one, to {n_layers}."
            )
        self.layer_mix = LayerMix(n_layers + 1 if layer == "weighted" else 1, self.n_features)

    @property
    def encode_settings(self) -> dict[str, Any]:
        """Those of the reader, so that last or all layers are stored once for its member too."""
        chosen = {} if self.layer in ("last", "weighted") else {"layer": self.layer}
        return self._settings | chosen

    @property
    def repeated_layers(self) -> list[str]:
        """Those of the reader, which knows how it runs them."""
        return self._repeated_layers

    def forward_pretrained(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen hidden states, shape (B, N, T, D), and the mask (B, T)."""
        states, mask = self._encode(**inputs)
        if isinstance(self.layer, int):
            states = states[:, self.layer, None]
        elif self.layer == "mean":
            states = states.mean(dim=1, keepdim=True)
        return states, mask

    def forward_trained(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames (B, T, D), mixed if the layers are weighted, and the mask as it came."""
        return self.layer_mix(states), mask


class FusionBackbone(Backbone):
    """One vector of each utterance, as a single frame, from the legs of several encoders.

    Its inputs are those of each leg under `NAME.KEY`. Hidden states and masks are mappings by leg,
    because those of different encoders fit into no common tensor.

    Args:
        legs: the encoders by name.
        fusion: how they meet.
    """

    def __init__(self, legs: Mapping[str, Leg], fusion: DeepFusion | CrossFusion) -> None:
        super().__init__()
        self.legs = nn.ModuleDict(dict(legs))
        self.fusion = fusion
        self.n_features = fusion.n_features
        self.pretrained = tuple(f"legs.{name}.encoder" for name in legs)

    @property
    def parts(self) -> dict[str, Backbone]:
        """The legs by name."""
        legs: Any = self.legs
        return dict(legs.items())

    @property
    def is_frozen(self) -> bool:
        """True if no parameter of any encoder is trained."""
        return all(leg.is_frozen for leg in self.parts.values())

    @property
    def repeated_layers(self) -> list[str]:
        """Those of legs and fusion; none where one leg has none, for they may share names."""
        named = [leg.repeated_layers for leg in self.parts.values()]
        if not all(named):
            return []
        return sorted({self.fusion.layer_class.__name__, *(n for names in named for n in names)})

    def forward_pretrained(self, **inputs: Tensor) -> tuple[Any, Any]:
        """Return hidden states and masks by leg; stored ones among the inputs are taken as such."""
        states, masks = {}, {}
        for name, leg in self.parts.items():
            own = {
                key.removeprefix(f"{name}."): value
                for key, value in inputs.items()
                if key.startswith(f"{name}.")
            }
            states[name], masks[name] = leg.find_states(own)
        return states, masks

    def forward_trained(self, states: Any, mask: Any) -> tuple[Tensor, Tensor]:
        """Return the fused vector as one frame, shape (B, 1, D), and a mask (B, 1)."""
        frames = [leg.forward_trained(states[n], mask[n])[0] for n, leg in self.parts.items()]
        vector = self.fusion(frames, list(mask.values()))
        # Of no value's making, so that it is known where the model is run without values.
        whole = torch.ones(len(vector), 1, dtype=torch.bool, device=vector.device)
        return vector.unsqueeze(1), whole

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory in the layers of the encoders that are trained."""
        for leg in self.parts.values():
            if not leg.is_frozen:
                leg.enable_gradient_checkpointing()
