"""LoRA on a GPU that is not there: adapters are loaded, scheduled and evicted, and nothing is computed with them."""

from types import SimpleNamespace


def install() -> None:
    """Make ``--lora-backend torch_native`` work without CUDA; of an adapter only the config is read."""
    from sglang.srt.lora.backend.lora_registry import LORA_SUPPORTED_BACKENDS

    LORA_SUPPORTED_BACKENDS["torch_native"] = _backend


def _backend() -> type:
    from sglang.srt.lora.backend.torch_backend import TorchNativeLoRABackend
    from sglang.srt.lora.lora import LoRAAdapter

    # The loader of dummy weights has none for adapters.
    LoRAAdapter.initialize_weights = lambda adapter: None

    class EmulatedLoRABackend(TorchNativeLoRABackend):
        """The model has no layer that would ask which adapter a row is for."""

        def prepare_lora_batch(self, forward_batch, *args, **kwargs) -> None:
            self.batch_info = SimpleNamespace()

    return EmulatedLoRABackend
