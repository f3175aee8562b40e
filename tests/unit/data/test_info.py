"""The facts about a source are counted, not guessed."""

from tests.unit.data.recfile import Record, encoded, face, write_folder, write_rec
from topoface.data import describe_source, open_source


def test_counts_of_a_folder(tmp_path) -> None:
    write_folder(tmp_path, 3, 5)
    (tmp_path / "person_2" / "4.jpg").unlink()
    (tmp_path / "person_2" / "3.jpg").unlink()
    (tmp_path / "person_0" / "4.jpg").write_bytes(encoded(face(0)[:60].copy()))
    (tmp_path / "list.txt").write_text("x")
    info = describe_source(open_source(tmp_path))
    assert (info.images, info.identities, info.empty_identities) == (13, 3, 0)
    assert info.per_identity == (3, 5.0, 13 / 3, 5)
    assert info.histogram == ((2, 3, 1), (4, 7, 2))
    assert info.sizes == ((112, 112, 12), (60, 112, 1))
    text = "\n".join(info.lines())
    assert "min 3, median 5, mean 4.3, max 5" in text
    assert "112 x 112: 12, 112 x 60: 1 (of 13 images looked at)" in text
    assert "note          1 other files or deeper folders ignored" in text
    assert info.fingerprint in text


def test_gaps_in_the_labels_are_told(tmp_path) -> None:
    path = write_rec(tmp_path, [Record(n, 2 * n, encoded(face(n))) for n in range(3)])
    info = describe_source(open_source(path))
    assert (info.identities, info.empty_identities) == (5, 2)
    assert info.per_identity == (1, 1.0, 1.0, 1)
    assert "note          2 identities have no image" in "\n".join(info.lines())
