"""A token embedding that also looks up what the last few tokens are together.

N-Grammer (Roy et al. 2022, arXiv 2207.06366) and over-tokenized transformers (Huang et al. 2025,
arXiv 2501.16975). A table learns frequent combinations for the price of a lookup. The blocks learn
the rest.

B batch, T sequence, D model, V vocabulary, N the longest n-gram.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.model.cache import NO_TOKEN
from minigpt.model.dropout import Dropout
from minigpt.model.sizes import check_dropout


class NgramEmbedding(nn.Embedding):
    """The token's vector plus one for each n-gram that ends with the token.

    longest: n of the longest n-gram; the shortest are bigrams.
    rows: vectors for each n. An n-gram is the number that its tokens spell in base V + 1, modulo
        rows. Different n-grams may share a vector; none do while (V + 1)^n <= rows. A prime number
        spreads the others best.
    dropout: on the sum of the n-grams' vectors, so that the blocks do not come to rely on them.

    Raises ValueError for sizes that make no table.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        longest: int = 4,
        rows: int = 16_381,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab_size, d_model, _weight=torch.empty(vocab_size, d_model))
        if longest < 2:
            raise ValueError(f"longest={longest} must be at least 2 (bigrams)")
        if rows < 1:
            raise ValueError(f"rows={rows} must be at least 1")
        check_dropout(dropout)
        self.rows = rows
        self.context = longest - 1  # tokens before the first one of a call that matter
        self.ngrams = nn.Parameter(torch.empty(self.context * rows, d_model))
        self.dropout = Dropout(dropout)

    def forward(
        self, tokens: Tensor, before: Tensor | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """(B, T) int64 -> (B, T, D).

        before: (B, N - 1), the tokens before these, NO_TOKEN where there is none.
        documents: (B, T), which document each token belongs to; n-grams stay inside a document.
        """
        rows = self.ngram_rows(tokens, before, documents)
        looked_up = F.embedding_bag(rows, self.ngrams, mode="sum")
        return super().forward(tokens) + self.dropout(looked_up.view(*tokens.shape, -1))

    def ngram_rows(self, tokens: Tensor, before: Tensor | None, documents: Tensor | None) -> Tensor:
        """(B T, N - 1): the rows in `ngrams` of the n-grams that end with each token."""
        length, n = tokens.shape[1], self.context
        earlier = tokens.new_full((len(tokens), n), NO_TOKEN) if before is None else before
        sequence = torch.cat([earlier, tokens], dim=1)
        number, rows = tokens, []
        for back in range(1, n + 1):
            previous = sequence[:, n - back : n - back + length]
            if documents is not None:
                same = documents == F.pad(documents, (back, 0), value=NO_TOKEN)[:, :length]
                previous = torch.where(same, previous, NO_TOKEN)
            number = (number * (self.num_embeddings + 1) + previous + 1) % self.rows
            rows.append(number + (back - 1) * self.rows)
        return torch.stack(rows, dim=-1).flatten(0, 1)
