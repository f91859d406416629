"""LSTM and GRU language models: what a causal LM was before Transformers (Mikolov et al. 2010; Merity et al. 2017)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from kdtutor.data.load import as_task
from kdtutor.data.task import Task
from kdtutor.errors import COUNT, FRACTION, KDTutorError
from kdtutor.models.recurrent import CELLS, ordered
from kdtutor.models.shapes import with_vectors
from kdtutor.models.students import drawn, register, special_tokens
from kdtutor.models.vectors import token_vectors


class RecurrentLMConfig(PretrainedConfig):
    """hidden_size: of tokens and of every layer. cell: "lstm" or "gru". The table of tokens is the output layer too."""

    model_type = "kdtutor-recurrent-lm"

    vocab_size: int = 30522
    cell: str = "lstm"
    hidden_size: int = 256
    num_hidden_layers: int = 1
    dropout: float = 0.2
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    tie_word_embeddings: bool = True
    use_cache: bool = False


class RecurrentReader(nn.Module):
    """Layers of one recurrent network each, which read a text from its first token on."""

    def __init__(self, config: RecurrentLMConfig):
        super().__init__()
        width = config.hidden_size
        self.embeddings = nn.Embedding(config.vocab_size, width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            CELLS[config.cell](width, width, batch_first=True) for _ in range(config.num_hidden_layers)
        )

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> BaseModelOutput:
        """Read input_ids (B, L) → last_hidden_state (B, L, D), at each place of what was read up to it."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        # Padding may stand before a text, where it is to go on: it is read behind it.
        place = torch.arange(mask.shape[1], 0, -1, device=mask.device)
        order = (mask * place).argsort(dim=1, descending=True, stable=True)

        x = self.embeddings(input_ids)
        states = [x]
        for cell in self.layers:
            read, _ = cell(ordered(self.dropout(x), order))
            x = ordered(read, order.argsort(1))
            states.append(x)
        return BaseModelOutput(self.dropout(x), tuple(states) if output_hidden_states else None)


class RecurrentForCausalLM(PreTrainedModel, GenerationMixin):
    """An LSTM or GRU that predicts next tokens. Its hidden states are the tokens, then every layer, (B, L, D)."""

    config_class = RecurrentLMConfig
    base_model_prefix = "reader"
    gives: ClassVar[frozenset[str]] = frozenset({"logits", "hidden_states"})
    plain_head: ClassVar[bool] = True  # see forward.py
    # Press & Wolf 2017, arXiv:1608.05859.
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "reader.embeddings.weight"}

    def __init__(self, config: RecurrentLMConfig):
        super().__init__(config)
        self.reader = RecurrentReader(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> CausalLMOutput:
        """Compute logits (B, L, V); with `labels` (B, L), which are shifted here, the loss too, as in transformers."""
        out = self.reader(input_ids, attention_mask, output_hidden_states)
        logits = self.lm_head(out.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutput(loss, logits, out.hidden_states)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_
    ) -> dict:
        """Read the whole text anew for each token: nothing is kept between them."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def get_input_embeddings(self) -> nn.Module:
        return self.reader.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.reader.embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw weights as torch does, but for the tokens, whose mean is to be a small number: N(0, 0.1²)."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
        elif isinstance(module, nn.RNNBase):
            module.reset_parameters()


AutoConfig.register(RecurrentLMConfig.model_type, RecurrentLMConfig)
AutoModelForCausalLM.register(RecurrentLMConfig, RecurrentForCausalLM)


def lstm_lm(
    task: Task | str,
    teacher: PreTrainedModel | None = None,
    layers: int = 1,
    width: int = 256,
    dropout: float = 0.2,
    cell: str = "lstm",
    seed: int | None = None,
) -> PreTrainedModel:
    """Make an LSTM that predicts next tokens, for a causal-lm task; its tokens are its output layer too.

    teacher: whose vectors the tokens start from (`token_vectors`); None: random ones.
    """
    task = as_task(task)
    if task.rules.head != "CausalLM":
        raise KDTutorError(
            f'an LSTM language model predicts next tokens, but "{task.name}" is a {task.kind} task'
        )
    config = RecurrentLMConfig(
        vocab_size=len(task.tokenizer),
        cell=cell,
        hidden_size=COUNT("width", width),
        num_hidden_layers=COUNT("layers", layers),
        dropout=FRACTION("dropout", dropout),
        **special_tokens(task),
    )
    model = drawn(RecurrentForCausalLM, config, seed)
    if teacher is not None:
        model.reader.embeddings.weight.data.copy_(token_vectors(teacher, task, width))
    return model.train()


def gru_lm(task: Task | str, teacher: PreTrainedModel | None = None, **options) -> PreTrainedModel:
    """Make a GRU that predicts next tokens: `lstm_lm` with three gates for four."""
    return lstm_lm(task, teacher, cell="gru", **options)


register("lstm-lm")(with_vectors(lstm_lm))
register("gru-lm")(with_vectors(gru_lm))
