"""Every metric, defined once. All are percentages; the names are the same in results, tables and curves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nab.attacks import Triggered
from nab.data import Dataset, GroundTruth
from nab.training import Predictor


def percent(hits: Tensor) -> float:
    """Share of true values (bool, N) in percent; NaN where there are none to count."""
    return 100.0 * hits.sum().item() / len(hits) if len(hits) else math.nan


def attack_metrics(clean: Tensor, triggered: Tensor, test: Triggered) -> dict[str, float]:
    """Accuracy and attack success from predicted labels.

    Args:
        clean: int64, N; predictions on the clean test images.
        triggered: int64, N; predictions on the same images with the trigger.
        test: the true and the attacker's labels.

    Returns:
        ``clean_accuracy`` (ACC); ``attack_success_rate`` (ASR) and ``robust_accuracy`` (RA) over images that are not
        of the target class; ``backdoor_accuracy`` (BA), RA over all images as the authors of NAB report it.
    """
    eligible = test.is_eligible
    is_right = triggered == test.true_labels
    return {
        "clean_accuracy": percent(clean == test.true_labels),
        "attack_success_rate": percent((triggered == test.attack_labels)[eligible]),
        "robust_accuracy": percent(is_right[eligible]),
        "backdoor_accuracy": percent(is_right),
    }


def filter_metrics(
    clean: Tensor, clean_plain: Tensor, triggered: Tensor, triggered_plain: Tensor, test: Triggered
) -> dict[str, float]:
    """NAB's test-data filter, which rejects an image when its predictions with and without the stamp differ.

    Args:
        clean: int64, N; predictions on clean images with the stamp.
        clean_plain: the same without it.
        triggered: int64, N; predictions on triggered images with the stamp.
        triggered_plain: the same without it.
        test: the true and the attacker's labels.

    Returns:
        Over all test images, as the authors count (target class included): ``clean_reject_rate`` (C-REJ),
        ``backdoor_reject_rate`` (B-REJ), ``prediction_success_rate`` (PSR, clean: right and not rejected),
        ``defense_success_rate`` (DSR, triggered: right or rejected). And ``filtered_attack_success_rate``: triggered
        images, target class left out, that are neither rejected nor kept from the attacker's label.
    """
    clean_rejected, triggered_rejected = clean != clean_plain, triggered != triggered_plain
    succeeded = (triggered == test.attack_labels) & ~triggered_rejected
    return {
        "clean_reject_rate": percent(clean_rejected),
        "backdoor_reject_rate": percent(triggered_rejected),
        "prediction_success_rate": percent((clean == test.true_labels) & ~clean_rejected),
        "defense_success_rate": percent((triggered == test.true_labels) | triggered_rejected),
        "filtered_attack_success_rate": percent(succeeded[test.is_eligible]),
    }


def evaluate(predictor: Predictor, test: Dataset, triggered: Triggered) -> dict[str, float]:
    """All metrics of a predictor; for one that stamps its input also those of the bare network and of the filter.

    Those of the bare network have the suffix ``_unstamped``.
    """
    clean, attacked = predictor.predict(test.images), predictor.predict(triggered.images)
    metrics = attack_metrics(clean, attacked, triggered)
    if predictor.stamp is None:
        return metrics
    bare = predictor.with_stamp(None)
    clean_plain, attacked_plain = bare.predict(test.images), bare.predict(triggered.images)
    plain = attack_metrics(clean_plain, attacked_plain, triggered)
    metrics |= {f"{name}_unstamped": value for name, value in plain.items()}
    return metrics | filter_metrics(clean, clean_plain, attacked, attacked_plain, triggered)


def detection_metrics(scores: Tensor, is_suspect: Tensor, truth: GroundTruth) -> dict[str, float]:
    """How good the suspects are.

    Args:
        scores: float, N; higher = more suspicious.
        is_suspect: bool, N.
        truth: whose poisoned samples count as positives, those of the target class included, as the authors of NAB
            count.

    Returns:
        ``detection_accuracy`` (share of suspects that are poisoned), ``detection_recall`` (share of poisoned samples
        that are suspects), ``detection_auroc``.
    """
    return {
        "detection_accuracy": percent(truth.is_poisoned[is_suspect]),
        "detection_recall": percent(is_suspect[truth.is_poisoned]),
        "detection_auroc": auroc(scores, truth.is_poisoned),
    }


def auroc(scores: Tensor, positives: Tensor) -> float:
    """Probability, in percent, that a random positive scores higher than a random negative; ties count half, so do two
    scores of minus infinity."""
    from sklearn.metrics import roc_auc_score

    if positives.all() or not positives.any():
        return math.nan
    ranks = scores.unique(return_inverse=True)[1]  # scikit-learn refuses infinity
    return 100.0 * float(roc_auc_score(positives.numpy(), ranks.numpy()))


def pseudo_label_metrics(
    pseudo_labels: Tensor, is_suspect: Tensor, is_stamped: Tensor, truth: GroundTruth
) -> dict[str, float]:
    """How good the pseudo labels (int64, N) are: on the suspects, on all samples, on those that got the stamp."""
    is_right = pseudo_labels == truth.true_labels
    return {
        "pseudo_label_accuracy": percent(is_right[is_suspect]),
        "pseudo_label_accuracy_all": percent(is_right),
        "pseudo_label_accuracy_stamped": percent(is_right[is_stamped]),
        "suspect_count": float(is_suspect.sum()),
        "stamped_count": float(is_stamped.sum()),
    }


def defense_effectiveness(undefended: dict[str, float], defended: dict[str, float]) -> float:
    """DER: 100 when the whole attack is gone at no cost, 50 when nothing changed.

    ``(max(0, ASR drop) - max(0, ACC drop) + 100) / 2`` with both drops in points, as BackdoorBench defines it for
    scalars.
    """
    asr_drop = undefended["attack_success_rate"] - defended["attack_success_rate"]
    acc_drop = undefended["clean_accuracy"] - defended["clean_accuracy"]
    return (max(0.0, asr_drop) - max(0.0, acc_drop) + 100.0) / 2


def loss_gap(losses: Tensor, is_poisoned: Tensor, rate: float) -> list[dict[str, float]]:
    """What LGA saw, epoch by epoch: mean loss of poisoned and clean samples, and how many of those with the least
    loss are poisoned.

    These are the losses with which the samples were met in training, while the network changed. The detector's own
    score is computed afterwards with the network at rest, so the last row comes close to the detection accuracy but is
    not it.

    Args:
        losses: float, epochs x N; NaN for samples that an epoch left out.
        is_poisoned: bool, N.
        rate: the detection rate.
    """
    count = max(1, int(rate * losses.shape[1] + 1e-9))
    rows = []
    for epoch, row in enumerate(losses):
        seen = ~row.isnan()
        least = torch.where(seen, row, math.inf).argsort(stable=True)[:count]
        rows.append(
            {
                "epoch": epoch + 1,
                "loss_poisoned": row[seen & is_poisoned].mean().item(),
                "loss_clean": row[seen & ~is_poisoned].mean().item(),
                "detection_accuracy": percent(is_poisoned[least]),
            }
        )
    return rows
