"""Explain a lesion-segmentation network one lesion at a time.

Every public name, in reading order: who there is to look at, what the network sees, why it sees it, what
a person looks at. Each is imported when it is first used.
"""

import os
from importlib import import_module
from typing import Any

# Threads that wait should sleep: torch's spin, and on a machine that does anything else at the same time the many
# short steps of a backward pass then take up to fifteen times as long. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Large pages for large tensors: a backward pass asks for hundreds of fresh megabytes, and the system spends as long
# on handing them out 4 kB at a time as torch on filling them. Linux only. Read when torch first allocates.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_HOMES = {
    "load_subject": "subjects.loading",
    "phantom": "subjects.phantom",
    "Subject": "subjects.subject",
    "fetch": "subjects.downloads",
    "add_lesion": "subjects.synthetic",
    "remove_lesion": "subjects.synthetic",
    "load_network": "segmentation.checkpoints",
    "Network": "segmentation.networks",
    "predict": "segmentation.inference",
    "predict_logits": "segmentation.inference",
    "find_lesions": "segmentation.lesions",
    "Lesion": "segmentation.lesions",
    "Lesions": "segmentation.lesions",
    "true_negatives": "segmentation.controls",
    "one_class": "segmentation.classes",
    "gradient": "saliency.gradients",
    "smoothgrad": "saliency.smoothgrad",
    "smoothgrad_average": "saliency.smoothgrad",
    "gradcam": "saliency.gradcam",
    "gradcam_pp": "saliency.gradcam",
    "explain": "saliency.explain",
    "perilesional_curve": "saliency.perilesional",
    "dose_response": "saliency.dose",
    "input_x_gradient": "saliency.others",
    "integrated_gradients": "saliency.others",
    "occlusion": "saliency.occlusion",
    "kernel_shap": "saliency.occlusion",
    "proportional_energy": "measures.maps",
    "average_saliency_focus": "measures.maps",
    "pointing_game": "measures.maps",
    "peak": "measures.maps",
    "road": "measures.road",
    "insertion": "measures.faithfulness",
    "deletion": "measures.faithfulness",
    "faithfulness_correlation": "measures.faithfulness",
    "randomise_layers": "measures.sanity",
    "structure_table": "measures.structures",
    "read_structures": "measures.masks",
    "group_map": "measures.groupmaps",
    "compare_groups": "measures.groups",
    "group_table": "measures.groups",
    "roc": "measures.discrimination",
    "predict_false": "measures.discrimination",
    "summarise_curves": "measures.perilesional",
    "plot_lesions": "figures.plots",
    "plot_saliency": "figures.plots",
    "plot_maps": "figures.networks",
    "plot_groups": "figures.groups",
    "plot_dose": "figures.dose",
    "plot_perilesional": "figures.perilesional",
    "saliency_html": "figures.html",
    "view": "figures.viewer",
    "view_3d": "figures.volume3d",
    "save_map": "subjects.saving",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"ies_helpers has no {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"ies_helpers.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
