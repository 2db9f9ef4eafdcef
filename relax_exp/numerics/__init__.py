"""Numbers and how they are computed: named random streams, optimizers, faster products, CUDA graphs."""
