"""Text becomes a task, and a task becomes tokens."""

from kdtutor.data.hub import hub_access, unavailable
from kdtutor.data.kinds import KINDS, Kind
from kdtutor.data.load import EMBEDDED, HUB, load_task
from kdtutor.data.masking import mask_tokens, rarity
from kdtutor.data.parts import SPLITS
from kdtutor.data.task import Split, Task
from kdtutor.data.tokens import IGNORED, Encoded, length_bucketed_batches, load_tokenizer
