"""Which tokens each request is to be answered with."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence

#: The field of ``custom_params`` that holds the text to answer with.
TEXT_PARAM = "emulate_text"

#: More than any server queues; reached only by requests that were aborted and never ended.
MAX_DICTATED = 65536


class Dictation:
    """Texts to answer with, by request id. Holds the newest :data:`MAX_DICTATED`."""

    def __init__(self, end_token: int, limit: int = MAX_DICTATED) -> None:
        self._end_token = end_token
        self._limit = limit
        self._texts: OrderedDict[str, tuple[int, array]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._texts)

    def put(self, rid: str, prompt_tokens: int, token_ids: Sequence[int]) -> None:
        """Answer ``rid``, whose prompt has ``prompt_tokens``, with these tokens and an end of turn."""
        self._texts.pop(rid, None)
        self._texts[rid] = (prompt_tokens, array("i", token_ids))
        while len(self._texts) > self._limit:
            self._texts.popitem(last=False)

    def next_token(self, rid: str, sequence_tokens: int) -> int | None:
        """The token that follows ``sequence_tokens`` of prompt and answer; None: nothing was dictated.

        Found by length rather than counted, so a request that was retracted and prefilled
        again goes on where it was. Once the end of turn is out the text is forgotten.
        """
        text = self._texts.get(rid)
        if text is None:
            return None
        prompt_tokens, token_ids = text
        index = sequence_tokens - prompt_tokens
        if 0 <= index < len(token_ids):
            return token_ids[index]
        if index == len(token_ids):
            del self._texts[rid]
            return self._end_token
        return None  # A chunk of the prompt: its token is thrown away.
