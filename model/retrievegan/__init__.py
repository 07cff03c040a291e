"""The whole RetrieveGAN: network, composition, decoder, discriminators, trainer, opened run."""
