"""What a training has cost in operations."""

from daybreak.core.nets import OwnNet
from daybreak.models.anatomy.trace import count_macs, trace
from daybreak.models.registry import build_net
from daybreak.training.session import Session


def train_flops(session: Session) -> int | None:
    """Floating-point operations of all steps so far: two a multiply-add, the backward pass counted as two forwards.
    None for a net that cannot be traced."""
    channels, batch_size = session.dataset.decode.channels, session.loader.batch_size
    # A copy on the CPU: tracing runs the net.
    net = build_net(session.recipe.model, len(session.dataset.classes), channels, session.extensions.net)
    try:
        if session.features is not None:
            layers = trace(net, session.classifier.size, channels)
            learning = [name for name, p in session.net.named_parameters() if p.requires_grad]
            above = sum(layer.macs for layer in layers if any(name.startswith(f"{layer.name}.") for name in learning))
            below = sum(layer.macs for layer in layers) - above
            images = len(session.features.views) * len(session.dataset.train.labels_N)
            return 2 * (images * below + 3 * session.step * batch_size * above)
        macs = sum(steps * count_macs(net, size, channels) for size, steps in session.sizes.items())
    except Exception:  # whatever torch.fx does not like about a net of somebody's own
        if isinstance(session.recipe.model, OwnNet):
            raise
        return None
    return 3 * 2 * batch_size * macs
