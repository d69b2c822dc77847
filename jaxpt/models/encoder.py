"""A backbone with a head, and how it is initialised and run."""

import flax.linen as nn


class Encoder(nn.Module):
    """A backbone with a head on it. Transfer takes the backbone and leaves the head."""

    backbone: nn.Module
    head: nn.Module

    def __call__(self, images, train: bool):
        """Images → (head output [batch, …], features [batch, dim])."""
        features, _ = self.backbone(images, train)
        return self.head(features, train), features


def init(encoder: Encoder, key, images):
    """Fresh (parameters, batch statistics); ``images`` float [batch, …] give the shapes."""
    variables = encoder.init(key, images[:1], False)
    return variables["params"], variables.get("batch_stats", {})


def encode(encoder: Encoder, params, batch_stats, images, *, train: bool):
    """(head output, features, batch statistics after this pass)."""
    variables = {"params": params, "batch_stats": batch_stats}
    if not train:
        return *encoder.apply(variables, images, False), batch_stats
    (output, features), changed = encoder.apply(variables, images, True, mutable=["batch_stats"])
    return output, features, changed.get("batch_stats", {})
