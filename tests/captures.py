"""What stands in for the capture of a CUDA graph where there is no GPU."""

from relax_exp.numerics.cuda_graph import WARM_UPS


def recorded(call):
    """What a capture does, without a GPU: some calls to warm up, and then a replay that makes the call again."""
    for _ in range(WARM_UPS):
        call()
    return call
