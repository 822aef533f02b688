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
    "load_subject": "subjects.sources",
    "phantom": "subjects.phantom",
    "Subject": "subjects.subject",
    "fetch": "subjects.downloads",
    "add_lesion": "subjects.editing",
    "remove_lesion": "subjects.editing",
    "load_network": "segmentation.formats",
    "Network": "segmentation.network",
    "prepare": "segmentation.network",
    "predict": "segmentation.inference",
    "predict_logits": "segmentation.inference",
    "find_lesions": "segmentation.lesions",
    "Lesion": "segmentation.lesions",
    "Lesions": "segmentation.lesions",
    "true_negatives": "segmentation.lesions",
    "one_class": "segmentation.network",
    "gradient": "saliency.gradients",
    "smoothgrad": "saliency.smoothgrad",
    "smoothgrad_average": "saliency.smoothgrad",
    "gradcam": "saliency.gradcam",
    "gradcam_pp": "saliency.gradcam",
    "explain": "saliency.explain",
    "perilesional_curve": "saliency.context",
    "dose_response": "saliency.context",
    "dose_to_flip": "saliency.context",
    "input_x_gradient": "saliency.comparison",
    "integrated_gradients": "saliency.comparison",
    "occlusion": "saliency.comparison",
    "kernel_shap": "saliency.comparison",
    "proportional_energy": "measures.maps",
    "average_saliency_focus": "measures.maps",
    "pointing_game": "measures.maps",
    "peak": "measures.maps",
    "map_features": "measures.features",
    "road": "measures.removal",
    "insertion": "measures.removal",
    "deletion": "measures.removal",
    "faithfulness_correlation": "measures.removal",
    "randomise_layers": "measures.sanity",
    "structure_table": "measures.regions",
    "read_structures": "measures.regions",
    "group_map": "measures.groupmaps",
    "compare_groups": "measures.groups",
    "group_table": "measures.groups",
    "roc": "measures.refine",
    "predict_false": "measures.refine",
    "refine": "measures.refine",
    "members_of": "measures.uncertainty",
    "member_probabilities": "measures.uncertainty",
    "lesion_uncertainty": "measures.uncertainty",
    "patient_uncertainty": "measures.uncertainty",
    "retention_curve": "measures.uncertainty",
    "map_spread": "measures.uncertainty",
    "summarise_curves": "measures.context",
    "plot_slice": "figures.slices",
    "plot_lesions": "figures.lesions",
    "plot_saliency": "figures.lesions",
    "plot_maps": "figures.lesions",
    "plot_groups": "figures.charts",
    "plot_retention": "figures.charts",
    "plot_dose": "figures.charts",
    "plot_perilesional": "figures.charts",
    "saliency_html": "figures.pages",
    "view": "figures.viewer",
    "view_3d": "figures.pages",
    "report": "figures.report",
    "save_map": "subjects.folder",
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
