"""The out-of-tree platform that lets SGLang start with no GPU."""

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform


class EmulatedPlatform(CpuDeviceMixin, SRTPlatform):
    """A CPU that claims nothing: SGLang then takes its torch-native allocators and writers.

    ``OOT`` rather than ``CPU``, because SGLang's own CPU engine wants kernels for AMX.
    """

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    capabilities = PlatformCapabilities()

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_dispatch_key_name(self) -> str:
        return "native"

    def init_backend(self) -> None:
        from mars_sglang.emulation import adapters, host_tier

        adapters.install()
        host_tier.install()
