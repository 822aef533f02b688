"""What lies in a folder: layouts are read without renaming, what could be two things is refused."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from ies_helpers import load_subject
from ies_helpers.subjects import layouts
from ies_helpers.subjects.layouts import LAYOUTS
from ies_helpers.subjects.sources import find_subject
from tests.patients import write_image

SHAPE = (4, 4, 4)
TURNED = np.diag([-1.0, 1, 1, 1])
ELSEWHERE = np.diag([-1.0, 1, 1, 1]) + np.array([[0, 0, 0, 5.0]] + [[0] * 4] * 3)


def write(folder: Path, files: Mapping[str, object]) -> Path:
    """Scans whose first voxel is a number, lesions as a mask of one voxel (`[7]`: number 7), JSON, or another grid."""
    for name, what in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, dict):
            path.write_text(json.dumps(what))
        elif isinstance(what, list):
            mask = np.zeros(SHAPE, dtype=np.uint8)
            mask.flat[what] = 1
            write_image(path, mask, TURNED)
        else:
            number, affine = what if isinstance(what, tuple) else (what, TURNED)
            order = np.arange(64) * (2 * number + 1) % 64  # no two numbers make the same image, but for a factor
            values = (number + order.reshape(SHAPE)).astype(np.float32)
            if path.suffix == ".mgz":
                nibabel.save(nibabel.MGHImage(values, affine), path)
            else:
                write_image(path, values, affine)
    return folder


def numbers(subject) -> dict[str, int]:
    """The number that each channel's file begins with."""
    assert subject.raw is not None
    return {name: int(values[0, 0, 0]) for name, values in zip(subject.channels, subject.raw, strict=True)}


def drawn(subject) -> list[int] | None:
    """The numbers of the voxels of the target."""
    return None if subject.target is None else torch.nonzero(subject.target.flatten()).flatten().tolist()


def loaded(subject: str | Path, **how: str):
    """A subject, and what was said of it besides its grid."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = load_subject(subject, **how)
    return found, [str(w.message) for w in caught]


# The names of files


NAMES = {
    "sub-01_ses-1_FLAIR.nii.gz": "flair",
    "sub-01_space-T1w_FLAIR.nii.gz": "flair",
    "sub-flair1_T1w.nii.gz": "t1",
    "sub-lesion3_acq-mprage_T1w.nii": "t1",
    "sub-01_label-lesion_mask.nii.gz": "target",
    "sub-01_FLAIR_lesion_mask.nii.gz": "target",
    "T1_N4_regtoFLAIR_brain_N4_regtoMNI.nii.gz": "t1",
    "FLAIR_N4_regtoFLAIR_brain_N4_regtoMNI.nii.gz": "flair",
    "GOLD_STANDARD_N4_regtoFLAIR_regtoMNI.nii.gz": "target",
    "3DFLAIR.nii": "flair",
    "3DT1.nii": "t1",
    "rT1.nii": "t1",
    "patient7_mprage.nii.gz": "t1",
    "patient1_T2.nii.gz": "t2",
    "PATIENT1_PD.nii.gz": "pd",
    "sub-01_T2w.nii.gz": "t2",
    "sub-01_PDw.nii.gz": "pd",
    "T2_FLAIR.nii.gz": "flair",
    "t2_space_dark-fluid_flair.nii.gz": "flair",
    "T2_to_T1.nii.gz": "t1",
    "sub-01_T2starw.nii.gz": None,
    "subject10_DWI.nii.gz": None,
    "T1_brain_mask.nii.gz": None,
    "FLAIR_brainmask.nii.gz": None,
    "BraTS20_Training_001_t1ce.nii.gz": "t1c",
    "BraTS-GLI-00000-000-t1n.nii.gz": "t1",
    "BraTS-GLI-00000-000-t1c.nii.gz": "t1c",
    "BraTS-GLI-00000-000-t2w.nii.gz": "t2",
    "BraTS-GLI-00000-000-t2f.nii.gz": "flair",
    "sub-01_ce-gadolinium_acq-mprage_T1w.nii.gz": "t1c",
    "post_T1.nii.gz": "t1c",
    "3DT1GADO.nii": "t1c",
    "t1_mprage_sag_p2_iso_KM.nii.gz": "t1c",
    "MPRAGE_post_contrast.nii.gz": "t1c",
    "T1_no_contrast.nii.gz": "t1",
    "T1_postop.nii.gz": "t1",
    "Sag_MP-RAGE.nii.gz": "t1",
    "Ax_FSPGR_3D.nii.gz": "t1",
    "sT1W_3D_TFE.nii.gz": "t1",
    "T1_Warped.nii.gz": "t1",
    "T1_1Warp.nii.gz": None,
    "T1_InverseWarped.nii.gz": None,
    "GADO.nii.gz": "t1c",
    "FLAIRstar.nii.gz": None,
    "T1_fast_seg.nii.gz": None,
    "wm_mask.nii.gz": None,
    "wmh_mask.nii.gz": "target",
    "segmentation.nii.gz": "target",
    "truth.nii.gz": "target",
    "sub-r001s001_ses-1_space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask.nii.gz": "target",
    "sub-00001_acq-iso3D_FLAIR_roi.nii.gz": "target",
    "T1_coreg.nii": "t1",
    "T1_pre.nii": "t1",
    "sub-01_UNIT1.nii.gz": "t1",
    "sub-01_inv-1_MP2RAGE.nii.gz": None,
    "sub-01_acq-mp2rage_T1map.nii.gz": None,
    "t2_space_dark-fluid_sag_p2_iso.nii.gz": "flair",
    "t2_tirm_tra_dark-fluid.nii": "flair",
    "t1_mprage_sag_p2_iso_ND.nii.gz": "t1",
    "3DT1.NII.GZ": "t1",
    "Müller, Jörg FLAIR.nii.gz": "flair",
    "NCCT.nii.gz": "ct",
    "DP.nii": "pd",
    "p3FLAIR.nii": "flair",
    "sub-01_T1_brain.nii.gz": "t1",
    "FLAIR_mas.nii.gz": "flair",
    "T1_bet_mask.nii.gz": None,
    "T1_brain_pve_0.nii.gz": None,
    "T1_brain_seg.nii.gz": None,
    "T1seg.nii.gz": None,
    "c1T1.nii": None,
    "mwc1sub-01_T1w.nii": None,
    "mwp1T1.nii": None,
    "y_T1.nii": None,
    "wT1.nii": "t1",
    "T1_lesion_filled.nii.gz": None,
    "1_isovox_fg_mask.nii.gz": None,
    "sub-01_desc-brain_mask.nii.gz": None,
    "sub-01_space-T1w_dseg.nii.gz": None,
    "sub-01_label-lesion_dseg.nii.gz": "target",
    "space-flair_desc-annotated_seg-lst.nii.gz": None,
    "ples_lpa_mrFLAIR.nii": None,
    "wmh.nii.gz": "target",
    "FLAIR_seg.nii.gz": "target",
    "gt.nii.gz": "target",
    "roi.nii.gz": "target",
    "FLAIR.mgz": "flair",
}


@pytest.mark.parametrize(("name", "kind"), NAMES.items())
def test_a_file_name_tells_what_the_file_is(name: str, kind: str | None) -> None:
    assert layouts.kind_of(name) == kind


def test_two_patients_without_bids_names_get_two_names(tmp_path: Path) -> None:
    names = [
        layouts.name_of_file(tmp_path / p)
        for p in ("a/FLAIR.nii", "b/FLAIR.nii", "p-1_FLAIR.nii.gz", "sub-x_FLAIR.nii")
    ]
    assert names == ["a", "b", "p1", "x"]


# Data sets: by the name of the row, what lies where, whom to ask for, and who came which way

SHIPPED_TWO = {"flair": 100, "t1": 200}
CHANNEL_NAMES = {"channel_names": {"0": "T1", "1": "FLAIR", "2": "DIR"}, "labels": {"background": 0, "lesion": 1}}

DATA = {
    "MSLesSeg": (
        {
            f"train/P1/{t}/P1_{t}_{kind}.nii.gz": n
            for t, m in (("T1", 0), ("T2", 1))
            for kind, n in (("FLAIR", 100 + m), ("T1", 200 + m), ("T2", 300 + m), ("MASK", [5 + m]))
        },
        *("train/P1/T2", {"flair": 101, "t1": 201, "t2": 301}, [6], "P1T2", ""),
    ),
    "WMH 2017": (
        {
            **{f"W/training/Utrecht/0/pre/{kind}.nii.gz": n for kind, n in (("FLAIR", 100), ("T1", 200), ("3DT1", 1))},
            **{f"W/training/Utrecht/0/orig/{kind}.nii.gz": 1 for kind in ("FLAIR", "T1", "3DT1", "FLAIR_mask")},
            "W/training/Utrecht/0/wmh.nii.gz": [5],
            "W/additional_annotations/observer_o3/training/Utrecht/0/result.nii.gz": [6],
            "W/additional_annotations/observer_o4/training/Utrecht/0/result.nii.gz": [7],
        },
        *("W/training/Utrecht/0", SHIPPED_TWO, [5], "Utrecht0", "WMH 2017: the scans in pre, and label 1 of wmh"),
    ),
    "MS3SEG": (
        {
            **{
                f"M/MS_100_patient_nifti/001/001_{kind}.nii.gz": n
                for kind, n in (("FLAIR", 100), ("FLAIR_Sag", 1), ("T1WI", 1), ("T1WI_reg", 200), ("T2WI_reg", 300))
            },
            **{
                f"M/MS_100_patient_masks/{kind}_Masks/001/001_{kind}_Mask.nii.gz": n
                for kind, n in (("abWMH", [5]), ("nWMH", [6]), ("Vent", [7]))
            },
        },
        *("M/MS_100_patient_nifti/001", {**SHIPPED_TWO, "t2": 300}, [5], "001", "abnormal hyperintensities are"),
    ),
    "MSSEG 2016": (
        {
            **{
                f"Center_01/Patient_01/Preprocessed_Data/{kind}_preprocessed.nii.gz": n
                for kind, n in (("FLAIR", 100), ("T1", 200), ("T2", 300), ("DP", 400), ("GADO", 500))
            },
            "Center_01/Patient_01/Preprocessed_Data/Mask_registered.nii.gz": [1],
            "Center_01/Patient_01/Masks/Brain_Mask.nii.gz": [1],
            "Center_01/Patient_01/Masks/Consensus.nii.gz": [5],
            **{f"Center_01/Patient_01/Masks/ManualSegmentation_{n}.nii.gz": [5 + n] for n in range(1, 8)},
            **{f"Center_01/Patient_01/Raw_Data/{kind}.nii.gz": 1 for kind in ("3DFLAIR", "3DT1", "T2")},
        },
        "Center_01/Patient_01",
        *({**SHIPPED_TWO, "t2": 300, "pd": 400, "t1c": 500}, [5], "Center01Patient01", "Raw_Data is left aside"),
    ),
    "ISBI 2015": (
        {
            **{
                f"training01/preprocessed/training01_02_{kind}_pp.nii": n
                for kind, n in (("flair", 100), ("mprage", 200), ("t2", 300), ("pd", 400))
            },
            "training01/preprocessed/training01_01_flair_pp.nii": 1,
            **{f"training01/masks/training01_02_mask{n}.nii": [4 + n] for n in (1, 2)},
        },
        *("training01/preprocessed/training01_02", {**SHIPPED_TWO, "t2": 300, "pd": 400}, "mask2", "training0102", ""),
    ),
    "Shifts": (
        {
            f"S/train/{kind}/{n}_{name}.nii.gz": what
            for n, m in ((1, 0), (12, 1))
            for kind, name, what in (
                ("flair", "FLAIR_isovox", 100 + m),
                ("gt", "gt_isovox", [5 + m]),
                ("fg_mask", "isovox_fg_mask", [1, 2, 3]),
            )
        },
        *("S/train/flair/12", {"flair": 101}, [6], "12", ""),
    ),
    "the Mendeley set of 60 patients": (
        {
            f"Patient-1/1-{kind}.nii": n
            for kind, n in (
                ("Flair", 100),
                ("T1", 200),
                ("T2", 300),
                ("LesionSeg-Flair", [5]),
                ("LesionSeg-T1", [6]),
                ("LesionSeg-T2", [7]),
            )
        },
        *("Patient-1", {**SHIPPED_TWO, "t2": 300}, [5], "Patient1", "drawn on FLAIR are the target"),
    ),
    "BraTS": (
        {
            f"BraTS-GLI-00000-000/BraTS-GLI-00000-000-{kind}.nii.gz": n
            for kind, n in (("t2f", 100), ("t1n", 200), ("t2w", 300), ("t1c", 400), ("seg", [5]))
        },
        *("BraTS-GLI-00000-000", {**SHIPPED_TWO, "t2": 300, "t1c": 400}, [5], "BraTSGLI00000000", ""),
    ),
    "nnU-Net": (
        {
            "D/dataset.json": CHANNEL_NAMES,
            **{f"D/imagesTr/ms_{case}_{n:04}.nii.gz": 100 * (n + 1) + case for case in (1, 2) for n in range(3)},
            **{f"D/labelsTr/ms_{case}.nii.gz": [4 + case] for case in (1, 2)},
        },
        *("D/imagesTr/ms_2", {"t1": 102, "flair": 202, "DIR": 302}, [6], "ms2", ""),
    ),
}


def test_every_layout_is_tried() -> None:
    assert list(DATA) == list(LAYOUTS)


@pytest.mark.parametrize("title", DATA)
def test_a_data_set_is_read_as_it_lies(tmp_path: Path, title: str) -> None:
    files, word, channels, target, name, said = DATA[title]
    write(tmp_path, files)
    rater = {"rater": target} if isinstance(target, str) else {}
    subject, told = loaded(tmp_path / word, **rater)
    assert numbers(subject) == channels
    assert list(subject.channels) == list(channels)
    assert drawn(subject) == ([6] if rater else target)
    assert subject.name == name
    assert any(said in text for text in told) if said else not [text for text in told if "is read as" in text]
    again, _ = loaded(**subject.source)
    assert torch.equal(again.image, subject.image)


def test_the_raters_of_a_data_set_are_found_beside_its_consensus(tmp_path: Path) -> None:
    write(tmp_path, DATA["WMH 2017"][0] | DATA["MSSEG 2016"][0])
    wmh, msseg = tmp_path / "W/training/Utrecht/0", tmp_path / "Center_01/Patient_01"
    other = np.zeros(SHAPE, dtype=np.float32)
    other.flat[[5, 8, 9]] = 1, 2, 2
    write_image(wmh / "wmh.nii.gz", other, TURNED)  # 2 is another disease
    assert drawn(loaded(wmh)[0]) == [5]
    assert list(find_subject(wmh).targets) == ["o3", "o4"]
    assert drawn(loaded(wmh, rater="o4")[0]) == [7]
    assert list(find_subject(msseg).targets) == [f"manualsegmentation_{n}" for n in range(1, 8)]
    assert drawn(loaded(msseg, rater="manualsegmentation_7")[0]) == [12]


def test_one_data_set_is_read_from_any_folder_of_the_patient(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, DATA["WMH 2017"][0])
    (tmp_path / "link").symlink_to(tmp_path / "W/training/Utrecht/0")
    assert numbers(loaded(tmp_path / "link")[0]) == SHIPPED_TWO
    monkeypatch.chdir(tmp_path / "W/training/Utrecht/0")
    here, _ = loaded(".")
    assert (numbers(here), drawn(here), here.name) == (SHIPPED_TWO, [5], "Utrecht0")
    pre, _ = loaded(tmp_path / "W/training/Utrecht/0/pre")
    assert (numbers(pre), drawn(pre), pre.name) == (SHIPPED_TWO, [5], "Utrecht0")


MANY = {
    "MSLesSeg": (
        "train/P1",
        r"holds 2 of MSLesSeg \(P1_T1, P1_T2\); name one of them, as .*P1/T1\.",
    ),
    "ISBI 2015": ("training01", r"holds 2 of ISBI 2015 \(.*\); name one of them, as .*preprocessed/training01_01\."),
    "Shifts": ("S", r"holds 2 of Shifts \(12, 1\); name one of them, as .*S/train/flair/12\."),
    "nnU-Net": ("D", r"holds 2 of nnU-Net \(ms_1, ms_2\); name one of them, as .*D/imagesTr/ms_1\."),
}


@pytest.mark.parametrize("title", MANY)
def test_a_folder_of_many_patients_is_refused_with_how_to_name_one(tmp_path: Path, title: str) -> None:
    write(tmp_path, DATA[title][0])
    word, rule = MANY[title]
    with pytest.raises(ValueError, match=rule) as caught:
        load_subject(tmp_path / word)
    named = Path(str(caught.value).rpartition("as ")[2].removesuffix("."))
    words = layouts.find_patients(tmp_path / word)
    assert words[0] == named
    names = [find_subject(word).name for word in words]
    assert len(set(names)) == len(names) == 2


def test_a_case_of_nnunet_without_its_dataset_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"imagesTr/ms_1_0000.nii.gz": 1, "imagesTr/ms_1_0001.nii.gz": 2})
    with pytest.raises(FileNotFoundError, match=r"ms_1_0000.*nor the dataset\.json that says what _0000 is"):
        load_subject(tmp_path / "imagesTr")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_subject(tmp_path / "imagesTr" / "ms_1")


# Folders of any other kind: files, which of them is which, what is said

FOLDERS = {
    "names of a scanner": (
        {"t2_space_dark-fluid_sag_p2_iso.nii.gz": 100, "t1_mprage_sag_p2_iso.nii.gz": 200},
        *(SHIPPED_TWO, None, ""),
    ),
    "spaces, umlauts and capitals": (
        {"Müller Jörg FLAIR.NII.GZ": 100, "Müller Jörg T1.NII": 200},
        SHIPPED_TWO,
        None,
        "",
    ),
    "MSLesSeg, test": (
        {"P54_FLAIR.nii.gz": 100, "P54_T1.nii.gz": 200, "P54_T2.nii.gz": 300, "P54_MASK.nii.gz": [5]},
        *({**SHIPPED_TWO, "t2": 300}, [5], ""),
    ),
    "MS3SEG with masks of one's own": (
        {"001_FLAIR.nii.gz": 100, "001_T1WI_reg.nii.gz": 200, "my_lesions.nii.gz": [5]},
        *(SHIPPED_TWO, [5], r"is read as MS3SEG|my_lesions\.nii\.gz, no file of MS3SEG, is taken for the lesions"),
    ),
    "MS3SEG without lesions": (
        {"001_FLAIR.nii.gz": 100, "001_T1WI_reg.nii.gz": 200, "001_nWMH_Mask.nii.gz": [5], "001_Vent_Mask.nii.gz": [6]},
        *(SHIPPED_TWO, None, "is read as MS3SEG"),
    ),
    "FreeSurfer beside": (
        {"FLAIR.nii.gz": 100, "mask.nii.gz": [5], "fs/mri/T1.mgz": 1, "fs/mri/wm.seg.mgz": 1, "fs/mri/aseg.mgz": 1},
        *({"flair": 100}, [5], ""),
    ),
    "FreeSurfer alone": (
        {"T1.mgz": 200, "FLAIR.mgz": 100, "brainmask.mgz": 1},
        SHIPPED_TWO,
        None,
        "brainmask.mgz are no",
    ),
    "two formats": (
        {"FLAIR.nii.gz": 100, "T1.mgz": 1},
        {"flair": 100},
        None,
        r"T1\.mgz beside NIfTI files is not read",
    ),
    "a mask that says little": (
        {"FLAIR.nii.gz": 100, "T1.nii.gz": 200, "seg.nii.gz": [5]},
        *(SHIPPED_TWO, [5], r"seg\.nii\.gz is taken for the lesions, by its name alone"),
    ),
    "what systems hide": (
        {"FLAIR.nii.gz": 100, "T1.nii.gz": 200, "._FLAIR.nii.gz": 1, "__MACOSX/T1.nii.gz": 1, ".cache/T1.nii.gz": 1},
        *(SHIPPED_TWO, None, ""),
    ),
    "unpacked and packed": (
        {"FLAIR.nii.gz": 100, "FLAIR.nii": 1, "T1.nii": 200},
        *(SHIPPED_TWO, None, r"FLAIR\.nii\.gz is read, and not FLAIR\.nii beside it"),
    ),
    "FSL": (
        {
            "FLAIR.nii.gz": 100,
            "T1.nii.gz": 200,
            "T1_brain.nii.gz": 1,
            "T1_brain_mask.nii.gz": [1],
            "T1_brain_pve_0.nii.gz": 1,
            "T1_brain_seg.nii.gz": [1],
            "T1_brain_mixeltype.nii.gz": 1,
            "lesion_mask.nii.gz": [5],
        },
        *(SHIPPED_TWO, [5], r"^T1\.nii\.gz is read, since it is treated alike, and not T1_brain\.nii\.gz\."),
    ),
    "stripped": (
        {"FLAIR.nii.gz": 1, "FLAIR_brain.nii.gz": 100, "T1.nii.gz": 2, "T1_brain.nii.gz": 200, "lesions.nii.gz": [5]},
        *(
            SHIPPED_TWO,
            [5],
            r"^FLAIR_brain.nii.gz, T1_brain.nii.gz are read, since they are skull-stripped, and not FLAIR.nii.gz, T1.n",
        ),
    ),
    "ANTs": (
        {
            "FLAIR.nii": 100,
            "T1.nii": (1, ELSEWHERE),
            "T1_Warped.nii.gz": 200,
            "T1_InverseWarped.nii.gz": (1, ELSEWHERE),
        },
        *(SHIPPED_TWO, None, r"T1_Warped\.nii\.gz is read, since it is on one grid, and not T1\.nii\."),
    ),
    "SPM": (
        {
            "FLAIR.nii": 100,
            "T1.nii": (1, ELSEWHERE),
            "rT1.nii": 200,
            "c1T1.nii": (1, ELSEWHERE),
            "y_T1.nii": 1,
            "wT1.nii": (1, np.diag([-2.0, 2, 2, 1])),
        },
        *(SHIPPED_TWO, None, r"rT1\.nii is read, since it is on one grid, and not T1\.nii, wT1\.nii\."),
    ),
    "lesions filled": ({"FLAIR.nii.gz": 100, "T1.nii.gz": 200, "T1_lesion_filled.nii.gz": 1}, SHIPPED_TWO, None, ""),
    "LST-AI beside": (
        {
            "flair.nii.gz": 100,
            "t1.nii.gz": 200,
            "lst/space-flair_seg-lst.nii.gz": [1],
            "lst/space-flair_desc-annotated_seg-lst.nii.gz": [2],
        },
        *(SHIPPED_TWO, None, r"No lesions are known: .*seg-lst\.nii\.gz are no expert's lesion mask by their names"),
    ),
    "a brain mask alone": (
        {"FLAIR.nii.gz": 100, "T1.nii.gz": 200, "T1_bet_mask.nii.gz": [1]},
        *(SHIPPED_TWO, None, r"No lesions are known: T1_bet_mask\.nii\.gz"),
    ),
    "a mask of lesions beside a mask": (
        {"FLAIR.nii.gz": 100, "T1.nii.gz": 200, "Mask_registered.nii.gz": [1], "Consensus.nii.gz": [5]},
        *(SHIPPED_TWO, [5], ""),
    ),
    "BIDS, contrast and map": (
        {
            "anat/sub-01_FLAIR.nii.gz": 100,
            "anat/sub-01_T1w.nii.gz": 200,
            "anat/sub-01_ce-gadolinium_T1w.nii.gz": 300,
            "anat/sub-01_T1map.nii.gz": 1,
            "anat/sub-01_space-T1w_dseg.nii.gz": [1],
        },
        *({**SHIPPED_TWO, "t1c": 300}, None, "No lesions are known: sub-01_space-T1w_dseg"),
    ),
    "BIDS, MP2RAGE": (
        {"sub-01_run-1_FLAIR.nii.gz": 100, "sub-01_UNIT1.nii.gz": 200, "sub-01_inv-1_MP2RAGE.nii.gz": 1},
        *(SHIPPED_TWO, None, ""),
    ),
    "BIDS, derivatives": (
        {
            "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz": 100,
            "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz": 200,
            "derivatives/prep/sub-01/sub-01_ses-1_desc-preproc_T1w.nii.gz": 1,
            "derivatives/manual/sub-01/sub-01_ses-1_label-lesion_mask.nii.gz": [5],
        },
        *(SHIPPED_TWO, [5], ""),
    ),
    "one file for two": (
        {"FLAIR.nii.gz": 100, "T1.nii.gz": 100},
        {"flair": 100, "t1": 100},
        None,
        "T1 of p1 holds the same values as FLAIR",
    ),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_is_read_without_renaming(tmp_path: Path, what: str) -> None:
    files, channels, target, said = FOLDERS[what]
    subject, told = loaded(write(tmp_path / "p1", files))
    assert (numbers(subject), drawn(subject)) == (channels, target)
    told = [text for text in told if "The axes of" not in text and "litres" not in text]
    assert len(told) == (said.count("|") + 1) * bool(said)
    assert all(layouts.re.search(said, text) for text in told)


TWO = {
    "two runs": (
        {"sub-1_run-1_FLAIR.nii.gz": 1, "sub-1_run-2_FLAIR.nii.gz": 2, "sub-1_T1w.nii.gz": 3},
        "flair",
        "sub-1_run-1_FLAIR.nii.gz, sub-1_run-2_FLAIR.nii.gz",
    ),
    "two acquisitions": (
        {"sub-1_acq-a_T1w.nii.gz": 1, "sub-1_acq-b_T1w.nii.gz": 2, "sub-1_FLAIR.nii.gz": 3},
        "t1",
        "sub-1_acq-a_T1w.nii.gz, sub-1_acq-b_T1w.nii.gz",
    ),
    "two sessions": (
        {f"ses-{n}/sub-1_ses-{n}_{kind}.nii.gz": n for n in (1, 2) for kind in ("FLAIR", "T1w")},
        "flair",
        "ses-1/sub-1_ses-1_FLAIR.nii.gz, ses-2/sub-1_ses-2_FLAIR.nii.gz",
    ),
    "two patients, one without T1": (
        {"a/FLAIR.nii.gz": 1, "b/FLAIR.nii.gz": 2, "b/T1.nii.gz": 3},
        "flair",
        "a/FLAIR.nii.gz, b/FLAIR.nii.gz",
    ),
    "copies on one grid": (
        {"FLAIR.nii.gz": 1, "T1_n4.nii.gz": 2, "T1_reg.nii.gz": 3},
        "t1",
        "T1_n4.nii.gz, T1_reg.nii.gz",
    ),
    "two lesion masks": (
        {"FLAIR.nii.gz": 1, "lesion_old.nii.gz": [1], "lesion_new.nii.gz": [2]},
        "target",
        "lesion_new.nii.gz, lesion_old.nii.gz",
    ),
}


@pytest.mark.parametrize("what", TWO)
def test_what_could_be_two_things_is_refused_with_what_was_found(tmp_path: Path, what: str) -> None:
    files, kind, names = TWO[what]
    rule = (
        rf"A folder must hold one {kind} image, .*p1 holds 2 \({layouts.re.escape(names)}\); name a smaller folder, or"
    )
    with pytest.raises(ValueError, match=rule):
        load_subject(write(tmp_path / "p1", files))


@pytest.mark.parametrize(
    "names",
    [
        ("mask1", "mask2"),
        ("lesion_rater-A", "lesion_rater-B"),
        ("les_reader1", "les_reader2"),
        ("rater1/lesion", "rater2/lesion"),
    ],
)
def test_masks_of_several_raters_are_asked_for_by_name(tmp_path: Path, names: tuple[str, str]) -> None:
    write(tmp_path, {"FLAIR.nii.gz": 1, "T1.nii.gz": 2, f"{names[0]}.nii.gz": [5], f"{names[1]}.nii.gz": [6]})
    raters = list(find_subject(tmp_path).targets)
    assert len(raters) == 2
    assert [drawn(load_subject(tmp_path, rater=rater)) for rater in raters] == [[5], [6]]


def test_a_folder_of_another_format_is_told_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "FLAIR.nrrd").write_bytes(b"NRRD0004")
    with pytest.raises(
        FileNotFoundError, match=r"as NIfTI, .*FLAIR\.nrrd is NRRD; convert it first \(c3d .*FLAIR\.nii\.gz\)"
    ):
        load_subject(tmp_path)


def test_links_are_followed_once_and_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    scans = write(tmp_path / "store", {"a.nii.gz": 100, "T1.nii.gz": 200})
    patient = tmp_path / "p1"
    patient.mkdir()
    (patient / "FLAIR.nii.gz").symlink_to(scans / "a.nii.gz")
    (patient / "anat").symlink_to(scans)
    (patient / "back").symlink_to(patient)
    (patient / "FLAIR_again.nii.gz").symlink_to(patient / "FLAIR.nii.gz")
    assert numbers(load_subject(patient)) == SHIPPED_TWO
    (patient / "FLAIR_again.nii.gz").unlink()
    for path, told in ((".git/annex/objects/X/S--0.nii.gz", "git annex get"), ("gone.nii.gz", "a link to no file")):
        (patient / "FLAIR.nii.gz").unlink()
        (patient / "FLAIR.nii.gz").symlink_to(Path("..") / path)
        with pytest.raises(FileNotFoundError, match=rf"FLAIR image must be a file, .*FLAIR\.nii\.gz is .*{told}"):
            load_subject(patient)
    (patient / "FLAIR.nii.gz").unlink()
    (patient / "FLAIR.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"FLAIR\.nii\.gz is not readable as one \(a Git LFS pointer"):
        load_subject(patient)
