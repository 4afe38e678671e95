"""mars-sglang: SGLang serves LLM agents as programs, not as unrelated requests."""

__version__ = "0.1.0"
