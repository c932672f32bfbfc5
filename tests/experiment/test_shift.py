"""The cases of an experiment on two domains: what is read, refused and warned of."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.cases import write_cases
from keras_meduda.data.io import DataError
from keras_meduda.data.phantoms import write_brain, write_fundus
from keras_meduda.experiment import shift
from keras_meduda.recipes import aerunet_kd

DOMAINS = {"source_domain": "camera_a", "target_domain": "camera_b"}


def read(folder, table=None, **settings):
    """The data of a case table, or of other flags."""
    table = {"cases": table} if table is not None else {}
    return aerunet_kd.data(aerunet_kd.Flags(out=folder / "run", **table, **settings))


def of_domain(cases, domain, split):
    return (cases["domain"] == f"camera_{domain}") & (cases["split"] == split)


@pytest.fixture
def changed(phantoms, tmp_path):
    """Function from a change of the phantoms' case table to the path of the changed one."""

    def change(how):
        cases = km.read_cases(phantoms)
        write_cases(how(cases), tmp_path / "cases.csv")
        return tmp_path / "cases.csv"

    return change


def test_labels_of_the_targets_training_part_are_never_read(phantoms, tmp_path):
    """Files that cannot be read take their place, and nobody notices but an oracle."""
    folder = shutil.copytree(phantoms.parent, tmp_path / "data")
    cases = km.read_cases(folder / "cases.csv")
    hidden = cases[of_domain(cases, "b", "train")]
    for path in hidden["mask"]:
        Path(path).write_bytes(b"not an image")
    found = read(tmp_path, folder / "cases.csv", **DOMAINS)
    assert (found.parts["target"]["mask"] == "").all() and "oracle" not in found.parts
    Path(cases["mask"][cases["domain"] == "camera_a"].iloc[0]).write_bytes(b"not an image")
    with pytest.raises(DataError) as error:
        read(tmp_path, folder / "cases.csv", oracle=True, **DOMAINS)
    assert len(error.value.problems) == 1 + len(hidden), "of both domains at once"


def test_source_patients_are_held_out_where_the_table_tests_none(changed, tmp_path, capsys):
    def no_test(cases):
        return cases.assign(split=cases["split"].where(cases["domain"] == "camera_b", "train"))

    table = changed(no_test)
    found = read(tmp_path, table, **DOMAINS)
    held, trained = found.tests["source, test"], found.parts["source"]
    count = (km.read_cases(table)["domain"] == "camera_a").sum()
    assert len(held) and len(held) + len(trained) == count
    assert not set(held["group"]) & set(trained["group"])
    assert f"{len(held)} source cases of {held['group'].nunique()} patients are held" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.assign(split=c["split"].where(c.index > 1, "")), "no split in 2 of"),
        (lambda c: c.assign(split="training"), "no source case of split 'train'"),
        (lambda c: c.assign(split="test"), "no target case of split 'train'"),
        (lambda c: c.assign(mask=c["mask"].where(c.index != c.index[0], "")), "no mask in 1 of"),
    ],
    ids=["half a split", "other names", "all in test", "a mask missing"],
)
def test_a_table_that_cannot_be_used_is_refused(changed, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, changed(change), **DOMAINS)


def test_splits_that_nothing_reads_are_warned_of(changed, tmp_path, capsys):
    def rename(cases):
        return cases.assign(split=cases["split"].mask(of_domain(cases, "b", "test"), "testing"))

    table = changed(rename)
    found = read(tmp_path, table, **DOMAINS)
    count = (km.read_cases(table)["split"] == "testing").sum()
    assert f"{count} target cases of split 'testing' are not used" in capsys.readouterr().err
    assert list(found.scored) == ["source, test"] and next(iter(found.tests)) == "target, test"


def test_data_sets_of_other_tasks_are_refused(tmp_path, monkeypatch):
    def data_set(overlapping):
        values = {"cup": (255,), "disc": (128, 255) if overlapping else (128,)}
        return lambda root: (None, km.Task(("cup", "disc"), overlapping, values))

    monkeypatch.setattr(catalog, "refuge", data_set(True))
    monkeypatch.setattr(catalog, "folders", data_set(False))
    both = {"source_dataset": "refuge", "source_root": tmp_path}
    both |= {"target_dataset": "folders", "target_root": tmp_path}
    with pytest.raises(ValueError, match=r"overlapping\) .* True\), target .* False\)"):
        read(tmp_path, **both)


def test_classes_are_those_of_plain_folders_and_of_no_data_set(phantoms, tmp_path, monkeypatch):
    for row in km.read_cases(phantoms).itertuples():
        for kind, file in (("images", row.image), ("masks", row.mask)):
            (folder := tmp_path / row.domain / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / f"{row.case}{Path(file).suffix}")
    data = {"source_dataset": "folders", "source_root": tmp_path, **DOMAINS}
    with pytest.raises(DataError, match="128"):
        read(tmp_path, **data)
    for classes in (("disc=128,255",), shift.TIDY_FUNDUS):  # the default, typed out, counts as well
        found = read(tmp_path, **data, classes=classes)
        assert len(found.task.classes) == len(classes) and len(found.parts["source"])
    monkeypatch.setattr(catalog, "refuge", catalog.folders)
    with pytest.raises(ValueError, match="--classes is for --cases and folders; refuge has"):
        read(tmp_path, **data | {"source_dataset": "refuge"}, classes=("disc=128,255",))


def test_a_table_without_rows_has_no_domain(tmp_path):
    (tmp_path / "cases.csv").write_text("case,image,domain\n")
    with pytest.raises(ValueError, match="no case of domain 'camera_a'; there are \\[\\]"):
        read(tmp_path, tmp_path / "cases.csv", **DOMAINS)


def test_a_source_of_one_patient_cannot_judge_an_adaptation(changed, tmp_path):
    one = changed(lambda cases: cases.assign(split="", group=cases["domain"]))
    with pytest.raises(ValueError, match="of 1 patients, too few to hold any out"):
        read(tmp_path, one, **DOMAINS)


def test_few_target_images_are_told_before_the_training(changed, tmp_path, capsys):
    read(tmp_path, changed(lambda cases: cases), **DOMAINS)
    assert "the target has 4 training images. Below 8" in capsys.readouterr().err


def test_patients_that_train_and_are_tested_are_warned_of(changed, tmp_path, capsys):
    read(tmp_path, changed(lambda cases: cases), **DOMAINS)
    assert "warning" not in capsys.readouterr().err

    def share(cases):
        both = of_domain(cases, "a", "train") | of_domain(cases, "b", "test")
        return cases.assign(group=cases["group"].mask(both, "patient 7"))

    read(tmp_path, changed(share), **DOMAINS)
    assert "target's test part: patient 7 (1 in all)" in capsys.readouterr().err


def test_a_patient_seen_by_both_scanners_is_on_one_side_of_a_split_that_is_made(changed, tmp_path):
    def pair(cases):
        names = cases.groupby("domain").cumcount().map("patient {}".format)
        return cases.assign(split="", group=names)

    found = read(tmp_path, changed(pair), **DOMAINS)
    trains, tested = (
        {group for cases in parts.values() for group in cases["group"]}
        for parts in (found.parts, found.tests)
    )
    assert trains and tested and not trains & tested


def test_target_cases_without_a_mask_are_left_out_of_the_scores(changed, tmp_path):
    def hide(cases):
        first = cases.index[of_domain(cases, "b", "test")][0]
        return cases.assign(mask=cases["mask"].where(cases.index != first, ""))

    found = read(tmp_path, changed(hide), **DOMAINS)
    assert len(found.scored["target, test"]) == len(found.tests["target, test"]) - 1
    assert [part["cases"] for part in found.table if part["use"] == "none there"] == [1]


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """The case table of twelve drawn discs a camera, each of a patient, without a split."""
    table = write_fundus(tmp_path_factory.mktemp("twelve"), cases_per_domain=12, size=64)
    write_cases(km.read_cases(table).assign(split="", group=lambda t: t["case"]), table)
    return table


def few_of(cases, folder):
    """A table of few labelled cases, as a user writes it."""
    write_cases(cases.drop(columns=["split", "domain"]), folder / "few.csv")
    return folder / "few.csv"


@pytest.mark.parametrize("named", [True, False], ids=["by group", "by file"])
def test_patients_of_few_labels_train_where_the_split_is_drawn(twelve, tmp_path, named):
    drawn = read(tmp_path, twelve, **DOMAINS)
    tested, trained = drawn.tests["target, test"], drawn.parts["target"]["case"]
    cases = km.read_cases(twelve)
    few = pd.concat([tested[:1], cases[cases["case"].isin(trained[:3])]])
    table = few_of(few if named else few.assign(group="", case=list("abcd")), tmp_path)
    found = read(tmp_path, twelve, few=table, **DOMAINS)
    assert set(found.tests["target, test"]["case"]) == set(tested["case"][1:])
    assert tested["case"].iloc[0] in set(found.parts["target"]["case"])
    for part, others in (("source", drawn.parts["source"]), ("few_target", few)):
        assert len(found.parts[part]) == len(others)
    with pytest.raises(ValueError, match="are of patients of the test part"):
        read(tmp_path, twelve, few=table, folds=2, fold=0, **DOMAINS)


def test_few_labels_of_a_case_that_is_never_scored_are_taken(changed, tmp_path):
    def hide(cases):
        return cases.assign(mask=cases["mask"].mask(of_domain(cases, "b", "test"), ""))

    def tested_in_one_part(cases):
        return cases.assign(group=cases["case"])

    table = changed(lambda cases: hide(tested_in_one_part(cases)))
    few = tested_in_one_part(km.read_cases(changed(lambda cases: cases)))
    few = few_of(few[few["domain"] == "camera_b"], tmp_path)
    table = changed(lambda cases: hide(tested_in_one_part(cases)))
    found = read(tmp_path, table, few=few, **DOMAINS)
    assert len(found.parts["few_target"]) == 6 and "target, test" not in found.scored


MISTAKES = {  # what the user typed after the case table, and what the message says
    "table without domains": ("--cases {cases}", "--cases needs --source-domain"),
    "no such table": ("--cases no.csv {domains}", "no.csv"),
    "unknown domain": (
        "--cases {cases} --source-domain camera_a --target-domain canon",
        "no case of domain 'canon'; there are ['camera_a', 'camera_b']",
    ),
    "domains without data": ("{domains}", "--source-domain and --target-domain need data"),
    "one domain twice": (
        "--cases {cases} --source-domain camera_a --target-domain camera_a",
        "6 image files are in the source and in the target",
    ),
    "table and data set": ("--cases {cases} --source-dataset refuge", "expected one of them"),
    "half a data set": (
        "--source-dataset refuge --source-root {tmp}", "--target-root together",
    ),
    "empty data set": (
        "--source-dataset refuge --source-root {tmp} --target-dataset refuge --target-root {tmp}",
        "found",
    ),
    "classes that make no sense": (
        "--cases {cases} {domains} --classes cup=white",
        "received 'cup=white', expected name=value,value",
    ),
    "a mask value that is not declared": (
        "--cases {cases} {domains} --classes cup=255", "128",
    ),
    "no such run to start from": (
        "--cases {cases} {domains} --init {tmp}", "expected a run folder with config.json",
    ),
    "an oracle without labels": (
        "--cases {unlabelled} {domains} --oracle", "--oracle trains on the target's labels",
    ),
    "spacing of photographs": (
        "--cases {cases} {domains} --spacing 1 1 1", "--spacing and --fit are for volumes",
    ),
    "no update": ("--steps 0", "--steps 0: expected 1 or more"),
    "no seed": ("--seed -1", "--seed -1: expected 0 or more"),
    "no rate": ("--learning-rate nan", "--learning-rate nan: expected a number above 0"),
    "no side": ("--size 96 0", "--size 0: expected 1 or more"),
    "no width": ("--filters", "--filters: expected one value or more"),
    "no class": ("--classes", "--classes: expected one value or more"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_message(mistake, phantoms, changed, tmp_path, meduda):
    typed, message = MISTAKES[mistake]
    unlabelled = changed(lambda c: c.assign(mask=c["mask"].mask(c["domain"] == "camera_b", "")))
    names = {"cases": phantoms, "unlabelled": unlabelled, "tmp": tmp_path}
    domains = "--source-domain camera_a --target-domain camera_b"
    words = typed.format(**names, domains=domains).split()
    code, _, error = meduda("train", "aerunet_kd", *words, "--smoke", "--out", tmp_path / "out")
    assert code == 2 and message in " ".join(error.split())
    assert not [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".npz", ".image")]


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    """Five drawn brains in BraTS' layout; each contrast its own drawing."""
    drawn, root = (tmp_path_factory.mktemp(name) for name in ("drawn", "brats"))
    for domain, rows in km.read_cases(write_brain(drawn, 5, (18, 20, 16))).groupby("domain"):
        for i, row in enumerate(rows.itertuples()):
            shutil.copy(row.image, root / f"b{i}_{domain}.nii.gz")
            shutil.copy(row.mask, root / f"b{i}_seg.nii.gz")
    return root


def test_two_contrasts_of_one_data_set(brats, tmp_path):
    data = {"source_dataset": "brats", "source_root": brats, "source_domain": "t2"}
    found = read(tmp_path, **data, target_domain="flair")
    assert found.task.classes == ("tumour",) and found.task.unit == "mm"
    assert found.route == "t2 → flair" and set(found.parts) == {"source", "target"}
    learnt = {*found.parts["source"]["group"], *found.parts["target"]["group"]}
    assert not learnt & set(found.tests["target, test"]["group"])
    for domain, message in (
        ("t1", r"no case of domain 't1'; there are \['flair', 't2'\]"),
        (None, "--source-domain and --target-domain are two of one data set"),
        ("t2", "5 image files are in the source and in the target, such as"),
    ):
        with pytest.raises(ValueError, match=message):
            read(tmp_path, **data, target_domain=domain)


@pytest.mark.parametrize("change", [{"seed": 1}, {"smoke": False}, {"volumes": True}])
def test_other_flags_draw_other_phantoms(tmp_path, change):
    drawn = []
    for changes in ({}, {}, change):
        settings = {"volumes": False, "smoke": True, **changes}
        flags = aerunet_kd.Flags(out=tmp_path, **settings)
        drawn.append((shift.brains if flags.volumes else shift.discs)(flags)[0])
    assert drawn[0] == drawn[1] != drawn[2]
