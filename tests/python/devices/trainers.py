"""Trainings by Lightning and by transformers where the tensors of a test are made."""

from __future__ import annotations

from typing import Any

import torch


def options_of_trainers(package: Any) -> dict[str, Any]:
    """What a Trainer of that package has to be given to train there."""
    device = torch.empty(0).device
    if device.type in ("cpu", "cuda"):
        return {"accelerator": device.type, "devices": 1}

    class There(package.accelerators.Accelerator):
        def setup_device(self, device: torch.device) -> None:
            """Has nothing to set up."""

        def teardown(self) -> None:
            """Has nothing to take down."""

        @staticmethod
        def parse_devices(devices: int) -> int:
            return devices

        @staticmethod
        def get_parallel_devices(devices: int) -> list[torch.device]:
            return [device]

        @staticmethod
        def auto_device_count() -> int:
            return 1

        @staticmethod
        def is_available() -> bool:
            return True

        @staticmethod
        def name() -> str:
            return device.type

    strategy = package.strategies.SingleDeviceStrategy(device=device)
    return {"accelerator": There(), "strategy": strategy, "devices": 1}


def arguments_of_trainers(transformers: Any, folder: Any, **settings: Any) -> Any:
    """TrainingArguments of a training there."""
    device = torch.empty(0).device
    if device.type == "cuda":
        return transformers.TrainingArguments(str(folder), **settings)
    arguments = transformers.TrainingArguments(str(folder), use_cpu=True, **settings)
    if device.type != "cpu":
        import accelerate

        assert arguments.device.type in ("cpu", device.type)  # sets accelerate up, once a process
        accelerate.PartialState._shared_state["device"] = device
        arguments.__dict__["_setup_devices"] = device
        arguments.dataloader_pin_memory = False
    return arguments
