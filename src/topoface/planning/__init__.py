"""What a training run will need before it is started: memory of a device, bytes sent, time of a step."""

from topoface.planning.devices import DEVICES, Device
from topoface.planning.setting import Setting

__all__ = ["DEVICES", "Device", "Setting"]
