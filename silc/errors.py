"""How a run ends early on purpose. A mistake that can be known before training starts is a ValueError instead."""


class RunStopped(RuntimeError):
    """Training cannot usefully go on; the message says why and what to do.

    The weights of the last checkpoint are good.
    """
