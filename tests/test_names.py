"""File names, labels and splits by patient."""

import pytest

from training.names import SPLITS, list_films, list_labelled, parse_path


@pytest.mark.parametrize(
    ("name", "series", "patient"),
    [
        ("train/PNEUMONIA/person123_bacteria_456.jpeg", "bacteria", "bacteria-123"),
        ("train/PNEUMONIA/person123_virus_457.jpeg", "virus", "virus-123"),
        ("train/NORMAL/IM-0115-0001.jpeg", "IM", "IM-115"),
        ("train/NORMAL/NORMAL2-IM-0115-0001-0002.jpeg", "NORMAL2-IM", "NORMAL2-IM-115"),
        ("train/PNEUMONIA/VIRUS-1234567-0001.jpeg", "virus", "virus-1234567"),
        ("gs://bucket/x/train/NORMAL/NORMAL-28501-0001.jpeg", "NORMAL", "NORMAL-28501"),
    ],
)
def test_paths_tell_patient_and_series(name, series, patient):
    film = parse_path(name)
    assert (film.series, film.patient) == (series, patient)
    assert film.label == int("PNEUMONIA" in name)
    assert film.path.startswith("train/")


@pytest.mark.parametrize("name", ["film.jpeg", "train/OTHER/IM-0001-0001.jpeg", "train/NORMAL/a.jpeg"])
def test_other_paths_are_refused(name):
    with pytest.raises(ValueError, match="accepted is"):
        parse_path(name)


def check_splits(data):
    films = list_films(data)
    patients = {split: {f.patient for f in films if f.split == split} for split in SPLITS}
    assert all(patients.values())
    assert not patients["train"] & patients["val"]
    assert not patients["test"] & (patients["train"] | patients["val"])
    return films


def test_no_patient_is_in_two_splits(tiny_data):
    check_splits(tiny_data)


def test_no_patient_is_in_two_splits_of_the_real_data(real_data):
    films = check_splits(real_data)
    assert len(films) == 5856
    share = sum(f.split == "val" for f in films) / sum(f.split != "test" for f in films)
    assert 0.08 < share < 0.16
    validation = [f for f in films if f.split == "val"]
    assert {f.series for f in validation} == {"IM", "NORMAL2-IM", "bacteria", "virus"}


def test_a_patient_stays_in_the_split_that_its_key_gives():
    """Published figures depend on it."""
    splits = {
        "train/NORMAL/IM-0115-0001.jpeg": "train",
        "train/PNEUMONIA/person1_bacteria_1.jpeg": "train",
        "train/NORMAL/IM-0128-0001.jpeg": "val",
        "train/PNEUMONIA/person1004_bacteria_2935.jpeg": "val",
        "train/PNEUMONIA/person1_virus_6.jpeg": "train",
        "val/NORMAL/NORMAL2-IM-1427-0001.jpeg": "train",
        "test/NORMAL/IM-0001-0001.jpeg": "test",
    }
    assert {path: parse_path(path).split for path in splits} == splits


def test_both_layouts_are_listed(tiny_data, labelled):
    (labelled / "NORMAL" / ".DS_Store").write_bytes(b"no film")
    films = list_labelled(tiny_data, "val")
    assert len(films) == 12
    assert sum(label for _, label, _ in films) == 6
    assert [(label, patient) for _, label, patient in list_labelled(labelled, "val")] == [
        (0, "NORMAL1"), (0, "NORMAL2"), (1, "PNEUMONIA1"), (1, "PNEUMONIA2"),
    ]  # fmt: skip
