"""What CUDA gives SGLang's HiCache and an emulated GPU has to stand in for.

The copies are real, between two small pools in host memory, so prefixes that come back from
the host tier are checked by SGLang's own accounting. Their time is the link's: a step that
needs KV from the host takes the longer of computing and loading, because the real one loads
layer by layer beneath the computation.
"""


def install() -> None:
    """Make ``--hicache-io-backend direct`` work without CUDA, in both of its layouts."""
    from sglang.srt.mem_cache.pool_host import common, mha

    common.ALLOC_MEMORY_FUNCS["cpu"] = _allocate
    mha.transfer_kv_direct = _copy_tokens
    mha.transfer_kv_all_layer_direct_lf_pf = _copy_to_pages
    mha.transfer_kv_per_layer_direct_pf_lf = _copy_layer_from_pages


def tokens_of(transfers) -> int:
    """Tokens that a list of SGLang's ``L2Transfer`` moves."""
    return sum(len(transfer.host_indices) for transfer in transfers)


def _allocate(dims, dtype, device, pin_memory, allocator, registration_granularity_bytes=None):
    return allocator.allocate(dims, dtype=dtype, device=device)


def _copy_tokens(src_layers, dst_layers, src_indices, dst_indices, page_size) -> None:
    for source, destination in zip(src_layers, dst_layers, strict=True):
        destination[dst_indices] = source[src_indices]


def _copy_to_pages(src_ptrs, dst_ptrs, src_indices, dst_indices, page_size) -> None:
    """From all layers of keys, then of values, to host pages of ``[page, layer, token in the page, head, dim]``."""
    layers = len(src_ptrs) // len(dst_ptrs)
    pages, places = dst_indices // page_size, dst_indices % page_size
    for number, source in enumerate(src_ptrs):
        dst_ptrs[number // layers][pages, number % layers, places] = source[src_indices]


def _copy_layer_from_pages(src_ptrs, dst_ptrs, src_indices, dst_indices, layer_id, page_size) -> None:
    pages, places = src_indices // page_size, src_indices % page_size
    for source, destination in zip(src_ptrs, dst_ptrs, strict=True):
        destination[dst_indices] = source[pages, layer_id, places]
