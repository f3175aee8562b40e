"""Rates of the devices that a plan may be made for. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a device can do at best.

    Attributes:
        name: for the output.
        memory_gib: of its own memory.
        product_tflops: matrix products in true float32, as heads take them.
        convolution_tflops: convolutions of float32 tensors; torch lets cuDNN take TF32 for these.
        bf16_tflops: convolutions and products in bfloat16.
        memory_gb_s: read and written in a second, 10^9 bytes.
        link_gb_s: sent in a second by one device to its neighbours, 10^9 bytes.
        latency_us: of one collective operation.
        source: where the rates come from, for the output.
    """

    name: str
    memory_gib: float
    product_tflops: float
    convolution_tflops: float
    bf16_tflops: float
    memory_gb_s: float
    link_gb_s: float
    latency_us: float
    source: str


_SHEET = "rates of its data sheet, nothing run on one"

DEVICES = {
    "h100": Device(
        name="h100",
        memory_gib=79.0,
        product_tflops=67.0,
        convolution_tflops=494.0,
        bf16_tflops=989.0,
        memory_gb_s=3350.0,
        link_gb_s=450.0,
        latency_us=20.0,
        source=f"H100 SXM, 80 GB: {_SHEET}",
    ),
    "a100": Device(
        name="a100",
        memory_gib=79.0,
        product_tflops=19.5,
        convolution_tflops=156.0,
        bf16_tflops=312.0,
        memory_gb_s=2039.0,
        link_gb_s=300.0,
        latency_us=20.0,
        source=f"A100 SXM, 80 GB: {_SHEET}",
    ),
}
