"""mars-sglang: SGLang serves LLM agents as programs, not as unrelated requests."""

__version__ = "0.1.0"


def __getattr__(name: str):
    # Only an agent that asks for it loads sockets.
    if name == "tool_call":
        from mars_sglang.tools.call import tool_call

        return tool_call
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
