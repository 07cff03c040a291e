"""The baseline sg2im: network, discriminators, trainer, opened run, published checkpoints."""
