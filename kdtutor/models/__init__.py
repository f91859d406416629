"""Teachers and students, and what they cost."""

from kdtutor.models.convolutional import cnn_student
from kdtutor.models.depth import half_depth, layer_choice
from kdtutor.models.ensemble import Ensemble, is_ensemble
from kdtutor.models.forward import (
    Outputs,
    check_finite_logits,
    forward,
    inputs_of,
    logits_by_batch,
    logits_of,
    texts_at_once,
    unembedding,
)
from kdtutor.models.heads import share_body
from kdtutor.models.load import TEACHERS, check_fits, freeze, load_ensemble, load_model, load_teacher, shipped
from kdtutor.models.pools import Pool, abstaining, by_agreement, by_confidence
from kdtutor.models.recurrent import gru_student, lstm_student
from kdtutor.models.recurrent_lm import gru_lm, lstm_lm
from kdtutor.models.sizes import Sizes, sizes
from kdtutor.models.static import static_student
from kdtutor.models.students import (
    make_student,
    register,
    set_dropout,
    small_bert,
    small_gpt2,
    small_seq2seq,
    student_names,
)
from kdtutor.models.vectors import token_vectors
from kdtutor.models.writing import generate, generated_ids
