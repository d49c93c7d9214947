"""Label files as people have them: every separator, encoding and heading; what is refused, and the
words for it."""

from __future__ import annotations

import csv
import io
import random
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from beit.config import LabelFileConfig
from beit.data.account import Account
from beit.data.dataset import Dataset, open_source
from beit.data.label_file import LabelFile, read_label_file
from beit.data.labelled import open_labelled
from beit.data.sources import ImageSource, class_names_at
from beit.errors import BeitError, ConfigError, DataError

Draw = Callable[..., Path]
NUMBER = 6
NAMES = [f"p{number}.png" for number in range(NUMBER)]
PLAIN = LabelFileConfig()


@pytest.fixture
def root(draw: Draw) -> Path:
    """Six images, p0.png to p5.png."""
    return draw(*NAMES)


def rows(heading: str, row: str, numbers: Iterable[int] = range(NUMBER), end: str = "\n") -> str:
    """A heading, and a row per image in which {n} is its number, {b} 0 or 1, {c} cat or dog."""
    lines = [heading] if heading else []
    lines += [row.format(n=n, b=n % 2, c=("cat", "dog")[n % 2]) for n in numbers]
    return end.join(lines) + end


def read(root: Path, text: str | bytes, name: str = "list.csv", **options: str) -> LabelFile:
    data = text if isinstance(text, bytes) else text.encode()
    (root / name).write_bytes(data)
    return read_label_file(str(root / name), LabelFileConfig(**options))  # type: ignore[arg-type]


def keys(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def paths(found: LabelFile) -> dict[str, list[str]]:
    return {split: keys(source) for split, source in found.splits.items()}


def account(found: LabelFile) -> Account:
    return next(iter(found.splits.values())).account


def labels(found: LabelFile, split: str = "") -> list[tuple[str, str | tuple[str, ...]]]:
    """Every image with the name of its class, or those of several."""
    source = found.splits[split]
    several = source.targets is not None and source.targets.ndim == 2
    named = [class_names_at(source, index) for index in range(len(source))]
    return [(key, names if several else "".join(names))
            for key, names in zip(keys(source), named, strict=True)]  # fmt: skip


CATS = [(name, ("cat", "dog")[number % 2]) for number, name in enumerate(NAMES)]
BITS = [(name, str(number % 2)) for number, name in enumerate(NAMES)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rows("id_code,diagnosis", "p{n},{b}"), BITS),
        (rows("image_id,label", "p{n}.png,{b}"), BITS),
        (rows("lesion_id,image_id,dx", "H{n},p{n},{c}"), CATS),
        (rows("filename,split,label", "p{n}.png,train,{c}"), CATS),
        (rows("filename,width,height,class", "p{n}.png,48,40,{c}"), CATS),
        (rows("file,age,sex,dx", "p{n}.png,4{b},f,{c}"), CATS),
        (rows(",image,label", "{n},p{n}.png,{b}"), BITS),
        (rows("Unnamed: 0,image,label", "{n},p{n}.png,{b}"), BITS),
        (rows("label,image", "{b},p{n}.png"), BITS),
        (rows("image;label", "p{n}.png;{b}"), BITS),
        (rows("image|label", "p{n}.png|{b}"), BITS),
        (rows("", "p{n}.png {b}"), BITS),
        (rows("", "p{n}.png   {b} "), BITS),
        (rows("image label", "p{n}.png {b}"), BITS),
        (rows("# image label", "p{n}.png {b}"), BITS),
        (rows("Image,Label", '"p{n}.png","{c}"', end="\r\n"), CATS),
        (rows("Image,Label", '"p{n}.png","{c}"', end="\r"), CATS),
        (rows("File Name,Label", "p{n}.png,{c}"), CATS),
        (rows("FILENAME, CLASS", "p{n}.png, {c}"), CATS),
        (rows("Image Index,Finding Labels", "p{n}.png,{c}"), CATS),
        (rows("image,label", ".\\p{n}.png,{b}"), BITS),
        (rows("image,label", "./p{n}.png,{b}"), BITS),
        ("sep=;\n" + rows("image;label", "p{n}.png;{b}"), BITS),
        (rows("image,label,,", "p{n}.png,{b},,"), BITS),
        (rows("image,label", "p{n}.png,{b},"), BITS),
        ("# made by hand\n" + rows("image,label", "p{n}.png,{c}") + "# the end\n", CATS),
        (rows("image,class_id,class_name", "p{n}.png,{b},{c}"), CATS),
        (rows("image,label", "p{n}.png,{b}.0"), BITS),
        (rows("Foto,Art", "p{n}.png,{c}"), CATS),
        (rows("image,x,y,class", "p{n}.png,{n},{n},{c}"), CATS),
        (rows("path,y", "p{n}.png,{c}"), CATS),
        (rows("path,label", "/kaggle/input/p{n}.png,{c}"), CATS),
        (rows("", "C:\\data\\p{n}.png,{c}"), CATS),
        (rows("", "{c},p{n}.png"), CATS),
    ],
)  # fmt: skip
def test_columns_are_found(root: Path, text: str, expected: list[tuple[str, str]]) -> None:
    found = read(root, text)
    assert found.problem is None
    assert labels(found, *found.splits) == expected


@pytest.mark.parametrize("seed", range(40))
def test_any_separator_encoding_and_quoting(draw: Draw, seed: int) -> None:
    """What one tool writes is read as it was meant: names and labels with foreign letters, spaces,
    separators and quotes, where the writer quotes them."""
    chance = random.Random(seed)
    separator = chance.choice("\t;|, ")
    encoding = chance.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
    quoting = chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    words = ["Löwe", "grand écart", "a,b", "x;y", 'he said "no"', "p|q", "0", "Ñandú", "#1"]
    classes = chance.sample(words, 3)
    names = [f"im {n}.png" if chance.random() < 0.3 else f"im{n}é.png" for n in range(9)]
    root = draw(*names)
    order = chance.choice([("image", "label"), ("label", "image"), ("x", "image", "label")])
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=separator, quoting=quoting, lineterminator=chance.choice(["\n", "\r\n"])
    )
    writer.writerow(order)
    for number, name in enumerate(names):
        row = {"image": name, "label": classes[number % 3], "x": str(number % 4)}
        writer.writerow([row[heading] for heading in order])
    (root / "list.csv").write_bytes(text.getvalue().encode(encoding))
    found = read_label_file(str(root / "list.csv"), LabelFileConfig(label_separator="none"))
    assert labels(found) == [(name, classes[at % 3]) for at, name in enumerate(names)]
    assert ("Windows-1252" in str(account(found).notes)) == (
        encoding == "cp1252" and not "".join(classes).isascii()
    )


def test_names_are_looked_for_below_the_list(draw: Draw) -> None:
    root = draw("train_images/a.png", "train_images/deep/b.jpg", "test_images/c.png", "d.png")
    found = read(root, "id,label\na,0\nb,1\nc,0\ndeep/b,1\nd,1\n")
    assert [path for path, _ in labels(found)] == [
        "train_images/a.png", "train_images/deep/b.jpg", "test_images/c.png", "d.png",
    ]  # fmt: skip
    assert [(one.reason, one.count) for one in account(found).skipped] == [("listed twice", 1)]


def test_a_name_of_several_images_is_refused_until_the_folder_is_named(draw: Draw) -> None:
    root = draw("train/1.png", "train/2.png", "test/1.png", "here/x.png", "here/x.jpg")
    text = "id,label\n1,cat\n2,dog\n"
    with pytest.raises(DataError, match=r"line 2 \('1: 'test/1.png', 'train/1.png''\)") as caught:
        read(root, text)
    assert "--image-folder" in caught.value.remedy
    found = read(root, text, image_folder=str(root / "train"))
    assert labels(found) == [("1.png", "cat"), ("2.png", "dog")]
    assert found.splits[""].path(0) == root / "train" / "1.png"
    with pytest.raises(DataError, match="may be more than one image: line 2"):
        read(root, "id,label\nx,1\n", image_folder=str(root / "here"))
    with pytest.raises(ConfigError, match="no such folder"):
        read(root, text, image_folder=str(root / "nowhere"))


def test_a_name_that_lies_where_it_says_comes_before_those_that_lie_deeper(draw: Draw) -> None:
    root = draw("a.png", "thumbs/a.png", "b.png", "thumbs/b.jpg")
    found = read(root, "id,label\na,0\nb,1\n")
    assert [path for path, _ in labels(found)] == ["a.png", "b.png"]


def test_folders_of_another_machine_are_taken_off_only_where_all_images_lie_below(
    draw: Draw,
) -> None:
    root = draw("dog/1.png", "dog/2.png")
    found = read(root, "image,label\n/home/x/dog/1.png,a\n/home/x/dog/2.png,b\n")
    assert labels(found) == [("dog/1.png", "a"), ("dog/2.png", "b")]
    assert "names are read without '/home/x/', which is not here" in account(found).notes
    with pytest.raises(DataError, match="2 of the 2 images"):
        read(root, "image,label\ncat/1.png,a\ncat/2.png,b\n")
    with pytest.raises(DataError, match="1 of the 2 images") as caught:
        read(root, "image,label\ndog/1.png,a\ndog/2.jpg,b\n")
    assert "'dog/2.png' is there" in caught.value.remedy


def test_names_in_another_form_of_unicode(draw: Draw) -> None:
    written = unicodedata.normalize("NFD", "café.png")
    root = draw(written, "thé.png")
    found = read(root, "image,label\ncafé.png,café\nthé.png," + unicodedata.normalize("NFD", "thé"))
    assert labels(found) == [(written, "café"), ("thé.png", "thé")]


def test_absolute_paths_and_names_that_are_no_utf_8(draw: Draw) -> None:
    root = draw("a.png")
    (root / "a.png").rename(root / "b\udcff.png")
    draw("a.png")
    text = f"image,label\n{root}/a.png,x\n".encode() + b"b\xff.png,y\n"
    assert labels(read(root, text)) == [("a.png", "x"), ("b\udcff.png", "y")]


@pytest.mark.parametrize("values", [("0", "1"), ("0.0", "1.0"), ("-1", "1"), ("False", "True")])
def test_columns_of_zeros_and_ones(root: Path, values: tuple[str, str]) -> None:
    def text(*flags: Iterable[int]) -> str:
        lines = [f"p{at}.png, {', '.join(values[each] for each in row)}"
                 for at, row in enumerate(flags)]  # fmt: skip
        return "\n".join(["filename, b10, b2, a", *lines])

    found = read(root, text((1, 0, 0), (0, 1, 0), (1, 0, 0)))
    assert labels(found) == [("p0.png", "b10"), ("p1.png", "b2"), ("p2.png", "b10")]
    assert found.splits[""].classes == ("b2", "b10")
    assert "no image is of 'a'" in account(found).notes
    assert "one of them for every image" in account(found).layout
    found = read(root, text((1, 0, 1), (0, 1, 0), (0, 0, 0)))
    assert labels(found) == [("p0.png", ("b10", "a")[::-1]), ("p1.png", ("b2",)), ("p2.png", ())]
    assert found.splits[""].targets is not None
    assert found.splits[""].targets.dtype == bool


@pytest.mark.parametrize(
    ("heading", "cells", "mark"),
    [
        ("tags", ["haze primary", "clear", "clear primary"], " "),
        ("Tags", ["big cat,dog", "dog", "big cat"], ","),
        ("labels", ["big cat;dog", "dog", "big cat"], ";"),
        ("Finding Labels", ["Mass|No Finding", "Mass", "Edema"], "|"),
        ("labels", ["scab rust", "rust", "scab"], " "),
        ("labels", ["['scab', 'rust']", "['rust']", "['scab']"], ","),
    ],
)
def test_tags(root: Path, heading: str, cells: list[str], mark: str) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["image_name", heading], *zip(NAMES, cells, strict=False)])
    found = read(root, text.getvalue())
    tags = [{tag.strip("'[] ") for tag in cell.split(mark)} for cell in cells]
    assert [set(each) for _, each in labels(found)] == tags
    assert list(found.splits[""].classes) == sorted(found.splits[""].classes)


@pytest.mark.parametrize(
    ("heading", "cells", "separator"),
    [
        ("labels", ["golden retriever", "great dane", "great dane"], "space"),
        ("label", ["cat|dog", "cat", "dog"], "pipe"),
    ],
)
def test_one_label_or_several_is_settled_by_an_option(
    root: Path, heading: str, cells: list[str], separator: str
) -> None:
    lines = [f"{name},{cell}" for name, cell in zip(NAMES, cells, strict=False)]
    text = "\n".join([f"file,{heading}", *lines])
    found = read(root, text)
    assert found.problem is not None
    assert found.problem.remedy.startswith(f"say with --label-separator {separator}")
    whole = read(root, text, label_separator="none")
    assert [label for _, label in labels(whole)] == cells
    several = read(root, text, label_separator=separator)
    assert [len(each) for _, each in labels(several)] == [len(cell.replace("|", " ").split())
                                                          for cell in cells]  # fmt: skip


def test_names_with_spaces_are_no_tags(root: Path) -> None:
    cells = ["big cat", "cat", "New York"]
    text = "\n".join(["file,label", *map(",".join, zip(NAMES, cells, strict=False))])
    assert [label for _, label in labels(read(root, text))] == cells


def test_splits(root: Path) -> None:
    splits = ["Training", "train", "dev", "valid", "TEST", "testing"]
    lines = [f"p{at}.png,{split},{at % 2}" for at, split in enumerate(splits)]
    found = read(root, "\n".join(["image,set,label", *lines]))
    assert paths(found) == {
        "train": NAMES[:2], "val": NAMES[2:4], "test": NAMES[4:],
    }  # fmt: skip
    path = str(root / "list.csv")
    parts = open_labelled(path, split=0.5, per_class=None, seed=0)
    assert parts.test is not None
    assert [keys(part) for part in parts if part] == [NAMES[:2], NAMES[2:4], NAMES[4:]]
    assert keys(open_source(path)) == NAMES[:2]
    assert keys(Dataset(path).part("test")[1]) == NAMES[4:]
    assert list(Dataset(path).splits()) == ["train", "val", "test"]


def test_without_a_validation_split_some_of_training_is_held_out_and_test_stays(
    root: Path,
) -> None:
    lines = [f"p{at}.png,{'train' if at < 4 else 'test'},{'' if at > 3 else at % 2}"
             for at in range(NUMBER)]  # fmt: skip
    found = read(root, "\n".join(["image,split,label", *lines]))
    assert found.splits["test"].targets is None
    assert "the split test has no labels" in account(found).notes
    train, validation, test = open_labelled(
        str(root / "list.csv"), split=0.5, per_class=None, seed=0
    )
    assert test is None
    assert sorted(keys(train) + keys(validation)) == NAMES[:4]


def test_folders_of_splits_are_splits_and_test_is_not_learned_from(draw: Draw) -> None:
    root = draw(*(f"{part}/{at}.png" for part in ("train", "Testing") for at in range(4)))
    names = [f"{part}/{at}.png" for part in ("train", "Testing") for at in range(4)]
    text = "\n".join(["image,label", *(f"{name},{at % 2}" for at, name in enumerate(names))])
    found = read(root, text)
    assert paths(found) == {
        "train": names[:4], "test": names[4:],
    }  # fmt: skip
    assert "splits by the folders of the images" in account(found).layout
    assert list(read(root, text, split_column="none").splits) == [""]
    assert list(read(root, "image,label\ntrain/0.png,a\ntrain/1.png,b\n").splits) == [""]


def test_folds(root: Path) -> None:
    text = "\n".join(["image,fold,label", *(f"p{at}.png,{at % 3},{at // 3}" for at in range(6))])
    with pytest.raises(DataError, match=r"line 2 .* may be a fold") as caught:
        read(root, text)
    assert "--validation-fold" in caught.value.remedy
    found = read(root, text, validation_fold="1", test_fold="2")
    assert paths(found) == {
        "train": ["p0.png", "p3.png"], "val": ["p1.png", "p4.png"], "test": ["p2.png", "p5.png"],
    }  # fmt: skip
    assert list(read(root, text, split_column="none").splits) == [""]
    with pytest.raises(ConfigError, match="validation_fold is 7"):
        read(root, text, validation_fold="7")
    with pytest.raises(ConfigError, match="a fold was named"):
        read(root, rows("image,label", "p{n}.png,{b}"), validation_fold="1")


def test_options_name_columns(root: Path) -> None:
    text = rows("image,site,sort,good", "p{n}.png,s,{c},{b}")
    found = read(root, text)
    assert found.problem is not None
    assert "'image', 'site', 'sort', 'good'" in found.problem.problem
    assert "--label-column" in found.problem.remedy
    [note] = [note for note in account(found).notes if "labels are not used" in note]
    assert "--label-column" in note
    assert labels(read(root, text, label_column="sort")) == CATS
    assert labels(read(root, text, label_column="SORT")) == CATS
    assert "'site', 'good'" in str(account(read(root, text, label_column="sort")).notes)
    with pytest.raises(ConfigError, match="label_column is sorts") as caught:
        read(root, text, label_column="sorts")
    assert "sort" in caught.value.remedy
    with pytest.raises(ConfigError, match="which names the images"):
        read(root, text, label_column="image")
    text = rows("", "{b},p{n}.png,s")
    assert labels(read(root, text, image_column="2", label_column="1")) == BITS
    with pytest.raises(ConfigError, match="3 columns without headings"):
        read(root, text, label_column="4")
    text = rows("a,b,image,note", "{b},1,p{n}.png,x")
    assert labels(read(root, text, label_column="a,b"))[1] == ("p1.png", ("a", "b"))


def test_a_column_of_images_is_found_or_asked_for(draw: Draw) -> None:
    root = draw("a.png", "b.png", "m1.png", "m2.png")
    text = "image,path,label\na.png,m1.png,x\nb.png,m2.png,y\n"
    with pytest.raises(DataError, match="column 'image', column 'path'") as caught:
        read(root, text)
    assert "--image-column" in caught.value.remedy
    assert labels(read(root, text, image_column="path")) == [("m1.png", "x"), ("m2.png", "y")]
    both = read(root, "id,path,label\na,a.png,x\nb,b.png,y\n")
    assert labels(both) == [("a.png", "x"), ("b.png", "y")]
    with pytest.raises(DataError, match=r"no column of .* clearly names the images"):
        read(root, "who,where,what\nx,y,z\n")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image,label\n", "its only line is the headings 'image', 'label'"),
        ("\n\n", "names no images"),
        (b"PK\x03\x04rest", "an Excel workbook"),
        (b"\xff\xfeimage", "begins as UTF-16-LE, and breaks its rules"),
        (b"image,label\np0.png,\0\n", "zero byte in line 2"),
        ('image,label\n"p0.png,cat\np1.png,dog\n', "cannot be read from line 2 on"),
        ("image,label\np0.png,cat\np1.png,dog, brown\n", r"more than 2 cells: line 3 \('brown'\)"),
        ("image,label\np9.png,cat\np1.png,dog\n", r"1 of the 2 .* do not exist: line 2 \('p9.png'"),
        ("image,label\n,cat\np1.png,dog\n", "line 2 .'an empty cell'"),
        ("image,label\nhttps://host/a.png,cat\n", "do not exist: line 2"),
        ("image,split,label\np0.png,train,a\np0.png,val,a\n", r"two splits: lines 2 and 3"),
        ("image,split,label\np0.png,train,a\np1.png,extra,a\n", r"line 3 .*'extra'.* no split"),
        ("image,split,label\np0.png,train,a\np1.png,,a\n", "line 3 .* has nothing in"),
        ("image,split,fold,label\np0.png,train,0,a\n", "may be the split: .*'split'.*'fold'"),
        ("p0.png,cat,1\np1.png,dog,2\nhalf", "do not exist: line 3"),
    ],
)  # fmt: skip
def test_what_is_refused(root: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read(root, text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (rows("file,score", "p{n}.png,0.{n}7"), "6 different numbers, from 0.07 to 0.57"),
        (rows("image,label", "p{n}.png,c{n}"), "each of the 6 images .* has a label of its own"),
        (rows("image,text", "p{n}.png,c{n}"), "6 of the 6 cells of column 'text' .* are diff"),
        (rows("", "p{n}.png,{c},1"), "holds the labels: it has 3 columns without headings"),
        (rows("image,label,class", "p{n}.png,{c},{n}"), "may hold the labels: .*label.*class"),
        (rows("image,label", "p{n}.png,{c}") + "p0.png,dog\n", "two different .*lines 2 and 8"),
        (rows("image,label", "p{n}.png,{c}", range(5)) + "p5.png,\n", r"no label: line 7 \('p5"),
        (rows("image,label", "p{n}.png,{c}", range(5)) + "p5.png\n", r"no label: line 7"),
        (rows("image,label", "p{n}.png,{c}", range(5)) + "p5.png,nan\n", r"no label: line 7"),
        (rows("image,a,b", "p{n}.png,{b},{b}").replace("5.png,1,1", "5.png,1,-1"), "holds the lab"),
        (rows("image", "p{n}.png"), "has no labels"),
        (rows("image,set,label", "p{n}.png,val,{c}"), "no split for training"),
        ("image,set,label\np0.png,train,a\np1.png,train,b\np2.png,val,c\n", "learn from .* 'c'"),
    ],
)  # fmt: skip
def test_what_is_refused_for_labels_only(root: Path, text: str, match: str) -> None:
    """Training without labels reads the same files, and says that labels are not used."""
    (root / "list.csv").write_text(text)
    with pytest.raises(DataError, match=match) as caught:
        open_labelled(str(root / "list.csv"), split=0.5, per_class=None, seed=0)
    assert caught.value.remedy
    if "val," not in text:
        assert len(open_source(str(root / "list.csv"))) == NUMBER


def test_numbers_that_are_classes(root: Path) -> None:
    found = read(root, rows("", "p{n}.png,1{b}"))
    assert found.splits[""].classes == ("10", "11")
    found = read(root, "\n".join(f"p{at}.png,{value}" for at, value in enumerate([10, 2, 10, 9])))
    assert found.splits[""].classes == ("2", "9", "10")


def test_many_numbers_with_gaps_are_no_classes_until_they_are_named(draw: Draw) -> None:
    root = draw(*(f"{number}.png" for number in range(50)))
    text = "\n".join(["image,label", *(f"{at}.png,{7 * (at // 2)}" for at in range(50))])
    found = read(root, text)
    assert found.problem is not None
    assert "25 different numbers, from 0 to 168" in found.problem.problem
    assert len(read(root, text, label_column="label").splits[""].classes) == 25
    counted = "\n".join(["image,label", *(f"{at}.png,{at // 2 + 1}" for at in range(50))])
    assert len(read(root, counted).splits[""].classes) == 25


def test_an_image_with_several_rows(root: Path) -> None:
    text = "image,label\np0.png,cat\np1.png,dog\np0.png,dog\np1.png,dog\n"
    assert "--multi-label" in str(read(root, text).problem)
    found = read_label_file(str(root / "list.csv"), PLAIN, multi_label=True)
    assert labels(found) == [("p0.png", ("cat", "dog")), ("p1.png", ("dog",))]
    assert account(found).layout.endswith("the rows of an image taken together")
    (root / "list.csv").write_text("image,label\np0.png,cat\np1.png,dog\n")
    once = read_label_file(str(root / "list.csv"), PLAIN, multi_label=True)
    assert "taken together" not in account(once).layout
    again = read(root, "image,label\np0.png,cat\np1.png,dog\np0.png,cat\n")
    assert labels(again) == [("p0.png", "cat"), ("p1.png", "dog")]
    assert [(one.reason, one.count, one.examples) for one in account(again).skipped] == [
        ("listed twice", 1, ("p0.png",))
    ]


def test_json_lines(root: Path) -> None:
    text = '{{"file_name": "p{n}.png", "label": "{c}", "extra": null}}'
    assert labels(read(root, rows("", text), "metadata.jsonl")) == CATS
    tags = '{"file_name": "p0.png", "tags": ["a b", "c"]}\n{"file_name": "p1.png", "tags": ["c"]}\n'
    assert labels(read(root, tags, "m.jsonl")) == [("p0.png", ("a b", "c")), ("p1.png", ("c",))]
    for wrong, match in (
        ("{", "line 1 .* no JSON"),
        ('{"file_name": "\\ud800"}', "line 1 .* no JSON"),
        ("[1]", "no JSON object"),
        ("", "no images"),
    ):
        with pytest.raises(DataError, match=match):
            read(root, wrong, "wrong.jsonl")


def test_whole_lines_that_are_names(draw: Draw) -> None:
    names = ["a,b.png", "c d.png", "e;f g.png"]
    root = draw(*names)
    assert [path for path, _ in labels(read(root, "\n".join(names), "list.txt"))] == names
    with_labels = "\n".join(f"{name} {at}" for at, name in enumerate(names[1:]))
    assert labels(read(root, with_labels, "list.txt")) == [("c d.png", "0"), ("e;f g.png", "1")]


@pytest.mark.parametrize("seed", range(60))
def test_rubbish_ends_in_an_error_of_ours(root: Path, seed: int) -> None:
    chance = random.Random(seed)
    good = rows("image,split,label", "p{n}.png,train,{c}")
    data = bytearray(good.encode())
    for _ in range(chance.randrange(1, 30)):
        data[chance.randrange(len(data))] = chance.choice(b"\0\xff\xfe\"',;|\t\n\r #[]{}p.-0123")
    try:
        found = read(root, bytes(data))
    except BeitError as error:
        assert error.remedy  # noqa: PT017
    else:
        assert all(set(keys(source)) <= set(NAMES) for source in found.splits.values())


@pytest.mark.parametrize(
    "text", [rows("image,label", "p{n}.png,{c}"), rows("", "p{n}.png {b}"), rows("", "p{n}.png")]
)
def test_a_folder_is_searched_only_if_names_are_not_there_as_written(
    root: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree of a million files takes seconds."""
    monkeypatch.setattr("beit.data.image_names.find_images", None)
    assert len(read(root, text).splits[""]) == NUMBER


@pytest.mark.parametrize(
    ("heading", "cells"),
    [
        ("dataset", ("train", "test")),
        ("type", ("TRAIN", "Testing")),
        ("is_test", ("False", "True")),
        ("test", ("0", "1")),
    ],
)
def test_a_column_of_splits_is_known_by_its_cells(
    root: Path, heading: str, cells: tuple[str, str]
) -> None:
    text = rows(f"file,{heading},label", f"p{{n}}.png,{cells[0]},{{c}}", range(4))
    found = read(root, text + "".join(f"p{n}.png,{cells[1]},cat\n" for n in (4, 5)))
    assert paths(found) == {"train": NAMES[:4], "test": NAMES[4:]}
    assert f"splits in column '{heading}'" in account(found).layout
    if cells[0] == "train":
        assert set(read(root, text, label_column="dataset").splits) == {""}


def test_a_column_of_splits_without_headings(root: Path) -> None:
    found = read(root, rows("", "TRAIN,p{n}.png,{c}", range(4)) + "TEST,p4.png,cat\n")
    assert labels(found, "train") == CATS[:4]
    assert paths(found)["test"] == ["p4.png"]


def test_what_is_train_does_not_say_which_the_others_are(root: Path) -> None:
    text = rows("file,is_train,label", "p{n}.png,1,{c}", range(4)) + "p5.png,0,cat\n"
    with pytest.raises(DataError, match=r"line 6 .* has '0' .* may be a fold"):
        read(root, text)
    assert set(read(root, text, validation_fold="0").splits) == {"train", "val"}
    found = read(root, text.replace("is_train", "train"), label_column="train")
    assert found.splits[""].classes == ("0", "1")


@pytest.mark.parametrize("missing", ["N/A", "?", "NULL"])
def test_cells_that_are_no_label(root: Path, missing: str) -> None:
    found = read(root, rows("file,label", "p{n}.png,{c}", range(5)) + f"p5.png,{missing}\n")
    assert found.problem is not None
    assert "line 7 ('p5.png')" in found.problem.problem
    found = read(root, rows("file,label", "p{n}.png,{c}", range(5)) + "p5.png,none\n")
    assert found.splits[""].classes == ("cat", "dog", "none")


def test_minus_one_beside_numbers_may_be_no_label(root: Path) -> None:
    found = read(root, rows("file,label", "p{n}.png,{b}", range(5)) + "p5.png,-1\n")
    assert found.problem is not None
    assert "holds -1 beside the numbers of 2 classes" in found.problem.problem
    found = read(root, rows("file,label", "p{n}.png,{b}").replace(",0", ",-1"))
    assert set(found.splits[""].classes) == {"-1", "1"}


def test_names_in_another_case_and_addresses(root: Path) -> None:
    assert labels(read(root, rows("file,label", "P{n}.PNG,{c}"))) == CATS
    assert labels(read(root, rows("image_url,label", "https://x.org/a/p{n}.png,{c}"))) == CATS
    with pytest.raises(DataError, match="do not exist") as caught:
        read(root, rows("image_url,label", "https://x.org/{n},{c}"))
    assert "download the images" in caught.value.remedy


def test_zeros_that_a_spreadsheet_took_off_are_named(draw: Draw) -> None:
    root = draw("0007.png")
    with pytest.raises(DataError, match="do not exist") as caught:
        read(root, "id,label\n7,cat\n")
    assert caught.value.remedy.startswith("'0007' is there, and the list lacks its zeros")


@pytest.mark.parametrize(("name", "words"), [("a.json", "export other"), ("a.xlsx", "as .csv")])
def test_other_tables_are_to_be_exported(root: Path, name: str, words: str) -> None:
    (root / name).write_bytes(b"PK\x03\x04")
    for use in (open_source, lambda path: open_labelled(path, split=0.5, per_class=None, seed=0)):
        with pytest.raises(DataError, match="neither a folder nor a list file") as caught:
            use(str(root / name))
        assert words in caught.value.remedy
