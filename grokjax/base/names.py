"""Words that all rooms share: what has become of a run, probe types, metrics, thresholds.

Definitions: docs/protocol.md, section 4.
"""

# What has become of a run; on the device a status is its place in `RUN_STATUSES`.
RUNNING, DONE, DIVERGED, STOPPED = "running", "done", "diverged", "stopped"
RUN_STATUSES = (RUNNING, DONE, DIVERGED, STOPPED)
INTERRUPTED = "interrupted"  # of a table alone: its process has ended, and the run could go on

# What has become of a planned population.
PENDING, PARTIAL, FAILED, FINISHED = "pending", "partial", "failed", "done"

# What has become of an event in a run: it came, the run ended first, or it diverged first.
OBSERVED, CENSORED = "observed", "censored"

# Probe types of the study's task (`data/composition.py`), as the authors name them.
ID_ATOMIC, OOD_ATOMIC = "id_atomic", "ood_atomic"
TRAIN_INFERRED = "train_inferred"
TEST_INFERRED_IID, TEST_INFERRED_OOD = "test_inferred_iid", "test_inferred_ood"
ATOMIC_NEW = "atomic_new"
TEST_INFERRED_NEW, TEST_INFERRED_NEW_MIX = "test_inferred_new", "test_inferred_new_mix"
OLD_FOLDER_TYPES = (ID_ATOMIC, OOD_ATOMIC, TRAIN_INFERRED, TEST_INFERRED_IID, TEST_INFERRED_OOD)
NEW_FOLDER_TYPES = (ATOMIC_NEW, TEST_INFERRED_NEW, TEST_INFERRED_NEW_MIX)  # of finetuning alone
FOLDER_TYPES = (*OLD_FOLDER_TYPES, *NEW_FOLDER_TYPES)
# Our own: compositions with new facts, by the kinds of hop 1 and hop 2; what finetuning keeps.
NEW_THEN_OLD, OLD_THEN_NEW = "new_then_old", "old_then_new"
NEW_THEN_NEW = "new_then_new"
CATEGORIES = (NEW_THEN_OLD, OLD_THEN_NEW, NEW_THEN_NEW)
KEPT_ATOMIC, KEPT_INFERRED = "kept_atomic", "kept_inferred"

# Kinds of models.
RECURSIVE, DECODER = "recursive", "decoder"

# Where the tokens of a composition stand, and where a path is read: there, or at the best.
POSITIONS = ("head", "relation1", "relation2", "answer", "end")
BEST = "best"  # of the stages or positions, on ID compositions

# Metrics of a probe type; a column of `curves.csv` is `TYPE/METRIC`. What a task hides has more of
# them (`data/task.py`); of the study's task it is the bridge.
ANSWER_ACCURACY, EXACT_MATCH, TARGET_FOUND = "answer_accuracy", "exact_match", "target_found"
TRAINING_ACCURACY = "training_accuracy"
BRIDGE_FOUND = "bridge_found"
BRIDGE_FOUND_STRICT = "bridge_found_strict"
BRIDGE_CHANCE = "bridge_chance"
OOD_ACCURACY = f"{TEST_INFERRED_OOD}/{ANSWER_ACCURACY}"
OOD_BRIDGE_FOUND = f"{TEST_INFERRED_OOD}/{BRIDGE_FOUND}"
OOD_BRIDGE_FOUND_STRICT = f"{TEST_INFERRED_OOD}/{BRIDGE_FOUND_STRICT}"
OOD_BRIDGE_CHANCE = f"{TEST_INFERRED_OOD}/{BRIDGE_CHANCE}"

# Events; the metric that each is read from is a task's. Two readings of the path: strict, at the
# site that a run keeps, and the study's, anywhere.
MEMORISED, PATH, ANY_PATH, ANSWER = "memorised", "path", "any path", "answer"
GROKKED = "grokked"  # has answered at `EVENT_AT`: a checkpoint's name, and a group of runs

# Stored steps that finetuning starts from: by an event, or the last.
BEFORE, SATURATION, END = "before", "saturation", "end"
CHECKPOINTS = (BEFORE, SATURATION, PATH, GROKKED, END)

# In which order path and answer came in a run, both at one level.
PATH_FIRST, ANSWER_FIRST = "path first", "answer first"
TOGETHER, UNDECIDED = "together", "undecided"
ORDERS = (PATH_FIRST, ANSWER_FIRST, TOGETHER, UNDECIDED)

# What a training's page compares groups in, the study's question first.
STEPS_TO_ANSWER, STEPS_TO_PATH = "steps to answer", "steps to path"
STEPS_TO_MEMORISE = "steps to memorise"
FINAL_ACCURACY, FINAL_HELD_OUT_ACCURACY = "final accuracy", "final held-out accuracy"
COMPARED = (
    STEPS_TO_ANSWER, STEPS_TO_PATH, STEPS_TO_MEMORISE, FINAL_ACCURACY, FINAL_HELD_OUT_ACCURACY,
)  # fmt: skip

# Thresholds. An event is there at a level in `CONSECUTIVE` evaluations running.
EVENT_AT = 0.95
ALPHA = 0.05  # of tests, after Holm's correction
PATH_AT = 0.5  # a path is there, a site holds the bridge
ORDER_LEVELS = (0.5, EVENT_AT)  # at which the order of path and answer is told
ANSWERS_AT = 0.90  # OOD accuracy at the end that the closing verdict asks for
LEVELS = (0.95, 0.5, 0.9, 0.99)  # at which times are reported, the first one by default
CONSECUTIVE = 3
