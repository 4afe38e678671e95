"""The model that computes nothing, takes as long as the emulated GPU would, and answers with words."""

import torch
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from torch import nn

from mars_sglang.emulation.dictation import Dictation
from mars_sglang.emulation.hooks import require_applied
from mars_sglang.emulation.process import emulated_gpu

#: Above any bias or penalty that a request can add, at any temperature.
_CERTAIN = 1e4


class MarsEmulatedForCausalLM(nn.Module):
    """SGLang's view of a model. Keeps no KV and reads none: only the bookkeeping around it is real."""

    def __init__(self, config, quant_config=None) -> None:
        super().__init__()
        require_applied()
        self.config = config
        self.vocab = config.vocab_size
        # SGLang asks a model's parameters for its device and data type.
        self.unused = nn.Parameter(torch.zeros(1), requires_grad=False)
        self._words = config.emulated["words"]
        self._bare_words = config.emulated["bare_words"]
        self._line_ends = frozenset(config.emulated["line_ends"])
        self._logits = torch.zeros(0, self.vocab, dtype=torch.float32)
        self._gpu = emulated_gpu()
        self._gpu.dictation = Dictation(config.eos_token_id)

    def load_weights(self, weights) -> None:
        """There are none."""

    @torch.no_grad()
    def forward(self, input_ids, positions, forward_batch, *args, **kwargs) -> LogitsProcessorOutput:
        gpu = self._gpu
        lengths = forward_batch.seq_lens_cpu
        lengths = (forward_batch.seq_lens if lengths is None else lengths).tolist()
        if forward_batch.forward_mode.is_extend():
            extends = forward_batch.extend_seq_lens_cpu
            step_s = gpu.cost.step_s(list(zip(extends, forward_batch.extend_prefix_lens_cpu, strict=True)))
            stats = gpu.pacer.prefill
            last_ids = input_ids[torch.tensor(extends).cumsum(0) - 1].tolist()
            token_ids = self._next_tokens(forward_batch.rids, lengths, last_ids)
        else:
            step_s = gpu.cost.step_s((), len(lengths), sum(lengths))
            stats = gpu.pacer.decode
            token_ids = self._next_tokens(forward_batch.rids, lengths)
        output = LogitsProcessorOutput(next_token_logits=self._logits_for(token_ids))
        # With one certain token every way of sampling gives it; the greedy way is the cheapest.
        if forward_batch.sampling_info is not None:
            forward_batch.sampling_info.is_all_greedy = True
        if lengths:
            gpu.run_step(step_s, stats)
        return output

    def _next_tokens(self, rids: list[str], lengths: list[int], last_ids: list[int] | None = None) -> list[int]:
        """One token per row: what was dictated, else a word that depends only on the position.

        ``last_ids`` are the last prompt tokens of rows that start or resume an answer: after the
        end of a line a word has no space before it.
        """
        words, bare, dictation = self._words, self._bare_words, self._gpu.dictation
        tokens = [words[length % len(words)] for length in lengths]
        if last_ids is not None:
            for row, last in enumerate(last_ids):
                if last in self._line_ends:
                    tokens[row] = bare[lengths[row] % len(bare)]
        if dictation:
            for row, rid in enumerate(rids):
                if (token := dictation.next_token(rid, lengths[row])) is not None:
                    tokens[row] = token
        return tokens

    def _logits_for(self, token_ids: list[int]) -> torch.Tensor:
        rows = len(token_ids)
        if rows > self._logits.shape[0]:
            self._logits = torch.zeros(rows, self.vocab, dtype=torch.float32)
        logits = self._logits[:rows]
        # Sampling writes into its logits (masks, penalties), so what it left has to go.
        logits.zero_()
        logits.scatter_(1, torch.tensor(token_ids, dtype=torch.int64).view(rows, 1), _CERTAIN)
        return logits


EntryClass = MarsEmulatedForCausalLM
