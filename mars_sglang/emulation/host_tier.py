"""What CUDA gives SGLang's HiCache and an emulated GPU has to stand in for.

The copies are real, between two small pools in host memory, so prefixes that come back from
the host tier are checked by SGLang's own accounting. Their time is the link's: a step that
needs KV from the host takes the longer of computing and loading, because the real one loads
layer by layer beneath the computation.
"""


def install() -> None:
    """Make ``--hicache-io-backend direct --hicache-mem-layout layer_first`` work without CUDA."""
    from sglang.srt.mem_cache.pool_host import common, mha

    common.ALLOC_MEMORY_FUNCS["cpu"] = _allocate
    mha.transfer_kv_direct = _copy_tokens


def tokens_of(transfers) -> int:
    """Tokens that a list of SGLang's ``L2Transfer`` moves."""
    return sum(len(transfer.host_indices) for transfer in transfers)


def _allocate(dims, dtype, device, pin_memory, allocator, registration_granularity_bytes=None):
    return allocator.allocate(dims, dtype=dtype, device=device)


def _copy_tokens(src_layers, dst_layers, src_indices, dst_indices, page_size) -> None:
    for source, destination in zip(src_layers, dst_layers, strict=True):
        destination[dst_indices] = source[src_indices]
