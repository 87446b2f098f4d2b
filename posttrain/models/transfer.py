"""Small tensors of the host brought to where a model is."""

import torch


def on_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """``tensor`` on ``device``; a GPU gets it in its own time, from pinned memory, and the host does not wait.

    From pageable memory the host would wait until all that is queued on the GPU is done.
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
