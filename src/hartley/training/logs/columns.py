"""Which number a column of a training log really is: one table for TRL, verl and transformers.

A column named entropy can be Shannon's, of the distribution that is sampled from or of the model's plain one, or only
minus the log-probability of what was drawn, per token or summed over a text. The table says which, for the versions
named in it, from the trainers' own source; a column that is not in it is called unknown.
"""

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

Role = Literal["entropy", "reward", "kl", "length", "likelihood", "loss", "other"]

TRL, TRL_PPO, VERL = "TRL 1.16.0", "TRL 0.24.0 PPOTrainer", "verl 0.9.1"
TRAINER = "transformers 5.19.0"
HARTLEY = "Hartley"


class Entropy(NamedTuple):
    """Which entropy a column is."""

    kind: Literal["Shannon", "Shannon of the top k", "minus log-probability"]
    distribution: Literal["plain", "tempered", "plain or tempered"]
    average: str  # over what the mean goes


class Column(NamedTuple):
    """What is known of a column: its name (``*`` stands for anything), where it comes from, and what it is."""

    name: str
    source: str
    role: Role
    unit: str
    says: str
    entropy: Entropy | None = None
    needs: frozenset[str] = frozenset()  # columns beside it that tell which trainer wrote it


def _entropy(name: str, source: str, unit: str, entropy: Entropy, says: str, *needs: str) -> Column:
    return Column(name, source, "entropy", unit, says, entropy, frozenset(needs))


COMPLETIONS = "tokens of the policy's own completions"
TEMPERED = "tempered: logits divided by the sampling temperature (plain at the default of 1)"

COLUMNS: tuple[Column, ...] = (
    # Entropies. The order matters: the first whose neighbours are there is taken.
    _entropy(
        "entropy", f"{TRL} GRPOTrainer, RLOOTrainer", "nats/token",
        Entropy("Shannon", "tempered", COMPLETIONS),
        f"Shannon entropy of the whole distribution, {TEMPERED}; mean over all unmasked {COMPLETIONS} of a "
        "micro-batch on all processes, then over micro-batches since the last log (TRL 0.24: over processes too)",
        "reward", "completions/mean_length",
    ),
    _entropy(
        "entropy", f"{TRL} DistillationTrainer", "nats/token",
        Entropy("Shannon", "tempered", "completion tokens"),
        "Shannon entropy of the student's distribution, its logits divided by the distillation temperature (plain at "
        "the default of 1); mean over the completion tokens that the divergence is taken at",
        "completions/mean_length",
    ),
    _entropy(
        "entropy", f"{TRL} KTOTrainer", "nats/token",
        Entropy("Shannon", "plain", "completion tokens of the data set"),
        "Shannon entropy of the plain distribution; mean over the completion tokens of the data set, wanted and "
        "unwanted ones together: not of what the policy would write",
        "kl", "logps/chosen",
    ),
    _entropy(
        "entropy", f"{TRL} DPOTrainer", "nats/token",
        Entropy("Shannon", "plain", "tokens of chosen and rejected answers of the data set"),
        "Shannon entropy of the plain distribution; mean over the tokens of the chosen and rejected answers of the "
        "data set together: not of what the policy would write",
        "rewards/margins", "logps/chosen",
    ),
    _entropy(
        "entropy", f"{TRL} SFTTrainer", "nats/token",
        Entropy("Shannon", "plain", "tokens of the data set that carry a loss"),
        "Shannon entropy of the plain distribution; mean over the tokens of the data set that carry a loss "
        "(TRL 0.24: over the prompt's tokens too)",
        "mean_token_accuracy",
    ),
    _entropy(
        "entropy", TRL, "nats/token",
        Entropy("Shannon", "plain or tempered", "unmasked tokens"),
        "Shannon entropy, mean over unmasked tokens; the columns beside it do not tell which TRL trainer wrote it: "
        "GRPO, RLOO and distillation divide the logits by their temperature, SFT, DPO and KTO do not",
    ),
    _entropy(
        "objective/entropy", TRL_PPO, "nats/text",
        Entropy("minus log-probability", "tempered", "whole completions (a sum over tokens)"),
        "no entropy of a distribution: minus the log-probability of the sampled completion, summed over its tokens, "
        f"mean over completions; {TEMPERED}. Padding counts as −1 nat a token, so short completions lower it",
        "policy/entropy_avg",
    ),
    _entropy(
        "objective/entropy", f"{TRL} OnlineDPOTrainer (experimental)", "nats/text",
        Entropy("minus log-probability", "plain", "whole completions (a sum over tokens)"),
        "no entropy of a distribution: minus the log-probability of the sampled completion, summed over its tokens, "
        "mean over completions; of the plain distribution, whatever the temperature they were drawn at. The "
        "log-probabilities of padding tokens are in the sum",
    ),
    _entropy(
        "policy/entropy_avg", TRL_PPO, "nats/token",
        Entropy("Shannon", "tempered", "all positions, padding included"),
        f"Shannon entropy of the whole distribution, {TEMPERED}; mean over all response positions, padding "
        "included, so it moves with the length of the completions",
    ),
    _entropy(
        "actor/entropy", VERL, "nats/token",
        Entropy("Shannon", "tempered", "response tokens, by loss_agg_mode"),
        f"Shannon entropy of the whole distribution before the update, {TEMPERED}; averaged over response tokens as "
        "loss_agg_mode says: nats a token under token-mean (the default), a sum over each response under the modes "
        "that sum",
    ),
    _entropy(
        "actor/entropy_loss", VERL, "nats/token",
        Entropy("Shannon", "tempered", "response tokens, by loss_agg_mode"),
        f"Shannon entropy of the policy during the update, {TEMPERED}; averaged as actor/entropy. The loss subtracts "
        "entropy_coeff times it",
    ),
    _entropy(
        "topk_entropy", HARTLEY, "bits/token",
        Entropy("Shannon of the top k", "plain", "held-out answers, generated or chosen"),
        "entropy of the k likeliest tokens, renormalised, of the plain distribution; mean over the tokens of held-out "
        "answers (OverOptimisationCallback, k = 10 unless set)",
    ),
    # What the others are
    Column("topk_entropy_error", HARTLEY, "other", "bits/token", "one standard error of topk_entropy"),
    Column("topk_mass", HARTLEY, "likelihood", "share",
           "probability of the k likeliest tokens, mean over the same tokens"),
    Column("logps_chosen", HARTLEY, "likelihood", "nats/token", "mean log-probability of the held-out chosen answers"),
    Column("ead", HARTLEY, "other", "share", "expectation-adjusted distinct n-grams of what was generated, n = 1 to 5"),
    Column("logps/chosen", TRL, "likelihood", "nats/text", "log-probability of the chosen answers, a sum over tokens"),
    Column("logps/rejected", TRL, "likelihood", "nats/text",
           "log-probability of the rejected answers, a sum over tokens"),
    Column("rewards/margins", TRL, "reward", "nats", "implicit reward, beta times the log-ratio: chosen less rejected"),
    Column("rewards/chosen", TRL, "reward", "nats",
           "implicit reward of the chosen answers: beta times their log-ratio"),
    Column("rewards/rejected", TRL, "reward", "nats",
           "implicit reward of the rejected answers: beta times their log-ratio"),
    Column("rewards/accuracies", TRL, "reward", "share", "pairs whose chosen answer has the larger implicit reward"),
    Column("reward", TRL, "reward", "", "mean over completions of the weighted sum of the reward functions"),
    Column("reward_std", TRL, "other", "", "standard deviation of the reward within groups"),
    Column("frac_reward_zero_std", TRL, "other", "share", "groups whose rewards are all alike: they teach nothing"),
    Column("rewards/*/mean", TRL, "reward", "", "mean of one reward function"),
    Column("rewards/*/std", TRL, "other", "", "standard deviation of one reward function"),
    Column("objective/scores", TRL, "reward", "", "mean score of the reward model"),
    Column("objective/rlhf_reward", TRL, "reward", "", "score less the KL penalty"),
    Column("kl", f"{TRL} KTOTrainer", "kl", "nats/text",
           "log-ratio of mismatched pairs, clamped at 0", None, frozenset({"logps/chosen"})),
    Column("kl", TRL, "kl", "nats/token",
           "KL(policy || reference) by the estimator exp(d) − d − 1, mean over completion tokens"),
    Column("objective/kl", TRL, "kl", "nats/text", "log-ratio of policy and reference, summed over each completion"),
    Column("policy/approxkl_avg", TRL_PPO, "kl", "nats²/2",
           "half the squared log-ratio of new and old policy, padding included"),
    Column("completions/mean_length", TRL, "length", "tokens", "mean length of the completions"),
    Column("completions/mean_terminated_length", TRL, "length", "tokens",
           "mean length of those that ended by themselves"),
    Column("completions/*_length", TRL, "other", "tokens", "shortest or longest completion"),
    Column("completions/clipped_ratio", TRL, "other", "share", "completions cut off at the longest length"),
    Column("clip_ratio/*", TRL, "other", "share", "tokens whose ratio was clipped"),
    Column("sampling/*", TRL, "other", "", "difference between the sampler's log-probabilities and the trainer's"),
    Column("entropy_coef", TRL, "other", "", "coefficient of the entropy bonus"),
    Column("policy_loss", TRL, "loss", "", "loss before the entropy bonus"),
    Column("mean_token_accuracy", TRL, "other", "share", "tokens that are the model's likeliest"),
    Column("logits/*", TRL, "other", "logit", "mean of all logits at the answers' tokens"),
    Column("num_tokens", TRL, "other", "tokens", "tokens seen so far"),
    Column("step_time", TRL, "other", "s", "seconds a step"),
    Column("actor/ppo_kl", VERL, "kl", "nats/token",
           "log-probability before less after the update, mean over response tokens (may be negative); under kl_cov "
           "the mean of its absolute value"),
    Column("actor/kl_loss", VERL, "kl", "nats/token",
           "KL to the reference by the estimator kl_loss_type, averaged as loss_agg_mode says"),
    Column("kl_loss", VERL, "kl", "nats/token",
           "KL to the reference by the estimator kl_loss_type, averaged as loss_agg_mode says"),
    Column("actor/reward_kl_penalty", VERL, "kl", "nats/token",
           "KL to the reference that the reward is charged for: mean over tokens, then responses"),
    Column("actor/pg_loss", VERL, "loss", "", "policy-gradient loss"),
    Column("actor/pg_clipfrac*", VERL, "other", "share", "tokens whose ratio was clipped"),
    Column("actor/*", VERL, "other", "", "another figure of the policy's update"),
    Column("critic/score/mean", VERL, "reward", "", "mean over responses of the sum of their token scores"),
    Column("critic/rewards/mean", VERL, "reward", "", "mean reward of a response, the KL penalty taken off"),
    Column("critic/*", VERL, "other", "", "another figure of rewards, advantages, returns or values"),
    Column("val-core/*", VERL, "reward", "", "validation score: mean, majority or best of the most samples"),
    Column("val-aux/*", VERL, "other", "", "another validation figure"),
    Column("response_length/mean", VERL, "length", "tokens", "mean length of the responses"),
    Column("response_length*", VERL, "other", "tokens", "another figure of the responses' length"),
    Column("prompt_length/*", VERL, "other", "tokens", "length of the prompts"),
    *(Column(f"{group}/*", VERL, "other", "", f"{words}")
      for group, words in (("perf", "throughput and memory"), ("timing_s", "seconds of a part"),
                           ("timing_per_token_ms", "milliseconds a token"), ("global_seqlen", "balance of work"),
                           ("training", "step and epoch"))),
    Column("loss", TRAINER, "loss", "", "training loss, mean since the last log"),
    Column("grad_norm", TRAINER, "other", "", "norm of the gradient before clipping"),
    Column("learning_rate", TRAINER, "other", "", "learning rate"),
    Column("epoch", TRAINER, "other", "epochs", "epochs done"),
    Column("total_flos", TRAINER, "other", "", "floating-point operations done"),
    Column("train_loss", TRAINER, "other", "", "mean training loss of the whole run, at its end"),
    Column("accuracy", TRAINER, "reward", "share", "what compute_metrics calls accuracy"),
    *(Column(name, TRAINER, "other", unit, words)
      for name, unit, words in (("runtime", "s", "seconds of an evaluation"),
                                ("train_runtime", "s", "seconds of the whole run"),
                                ("*_per_second", "1/s", "throughput"), ("num_input_tokens_seen", "tokens",
                                       "tokens seen"))),
)  # fmt: skip


def canonical(name: str) -> str:
    """One name for what TensorBoard and ``trainer_state.json`` call differently; ``eval/`` marks evaluations.

    >>> canonical("train/entropy"), canonical("eval_loss"), canonical("actor/entropy")
    ('entropy', 'eval/loss', 'actor/entropy')
    """
    if name.startswith("eval_"):
        return "eval/" + name.removeprefix("eval_")
    return name.removeprefix("train/")


def meaning(name: str, beside: Collection[str] = ()) -> Column | None:
    """What the column ``name`` is, in a log that has the columns ``beside`` too; None where it is unknown.

    >>> meaning("train/entropy", ["train/reward", "train/completions/mean_length"]).entropy.distribution
    'tempered'
    >>> meaning("eval_entropy", ["eval_rewards/margins", "eval_logps/chosen"]).entropy.distribution
    'plain'
    >>> meaning("my_entropy") is None
    True
    """
    bare = canonical(name).removeprefix("eval/")
    there = {canonical(other).removeprefix("eval/") for other in beside}
    return next((one for one in COLUMNS if one.needs <= there and fnmatchcase(bare, one.name)), None)
