"""The table: what is written comes back, however it is asked for; damage is named; new identities find a code (oracles 23, 24)."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.oracles import code_vectors as oracle
from topoface.codes.insertion import codes_for, sibling_spread
from topoface.codes.packing import pack, unpack
from topoface.codes.table import CodeTable, open_table, write_table
from topoface.codes.tokenise import Kind, tokenise
from topoface.errors import UserError


def vectors(count: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    return oracle.unit(np.random.default_rng(seed).normal(size=(count, dimension))).astype(np.float32)


def built(folder: Path, count: int, shape: tuple[int, ...], kind: Kind = "arbitrary") -> CodeTable:
    rows = vectors(count)
    made = tokenise(rows, shape, kind=kind)
    uids = [f"{i:05d}" for i in range(count)]
    meta = {"kind": kind, "seed": 0, "message": 2}
    return write_table(
        folder, codes=made.codes, alphabets=shape, uids=uids, vectors=rows, books=made.books, meta=meta
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    table = built(tmp_path / "codes", 40, (3, 5, 4), "rq")
    for again in (table, open_table(tmp_path / "codes"), open_table(str(tmp_path / "codes"))):
        assert (again.num_identities, again.length, again.dimension) == (40, 3, 8)
        assert again.alphabets == (3, 5, 4)
        assert again.digest == table.digest
        assert again.meta["kind"] == "rq"
        rows = again.rows_of(["00007", "00003", "00007"], "here")
        assert rows.tolist() == [7, 3, 7]
        assert rows.dtype == np.int64
        assert again.tokens(rows).dtype == np.int64
        assert again.tokens(rows).tolist() == again.codes[rows].tolist()
        units = again.unit_vectors(rows)
        assert units.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(units, vectors(40)[rows], atol=1e-3)
        assert again.books is not None
        assert again.books.shape == (12, 8)
        assert isinstance(again.codes, np.memmap)
        assert again.codes.dtype == np.uint8
        again.folder.verify()


def test_rows_are_in_the_bytewise_order_of_the_uids_whatever_order_they_came_in(tmp_path: Path) -> None:
    uids = ["b", "ä", "a", "10", "9", "Z", "b\udcff"]
    codes = np.arange(7)[:, None]
    table = write_table(tmp_path / "one", codes=codes, alphabets=(7,), uids=uids, vectors=vectors(7))
    assert list(table.uids) == sorted(uids, key=lambda uid: uid.encode("utf-8", "surrogateescape"))
    assert table.tokens(table.rows_of(uids, "here"))[:, 0].tolist() == list(range(7))
    np.testing.assert_allclose(table.unit_vectors(table.rows_of(uids, "here")), vectors(7), atol=1e-3)
    order = [3, 1, 6, 0, 2, 5, 4]
    other = write_table(
        tmp_path / "other",
        codes=codes[order],
        alphabets=(7,),
        uids=[uids[i] for i in order],
        vectors=vectors(7)[order],
    )
    assert other.digest == table.digest
    assert list(table.uids[:2]) == ["10", "9"]


def test_a_code_finds_its_owner_and_nobody_s_finds_none(tmp_path: Path) -> None:
    table = built(tmp_path / "codes", 40, (3, 5, 4))
    everything = unpack(np.arange(60, dtype=np.uint64), (3, 5, 4))
    owners = table.owners_of(everything)
    assert sorted(owners[owners >= 0].tolist()) == list(range(40))
    assert (owners < 0).sum() == 20
    taken = owners >= 0
    assert (table.tokens(owners[taken]) == everything[taken]).all()


def test_a_million_codes_are_found_again(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).choice(128**3, 10**6, replace=False).astype(np.uint64)
    uids = [f"{i:07d}" for i in range(10**6)]
    table = write_table(tmp_path / "codes", codes=unpack(numbers, [128] * 3), alphabets=[128] * 3, uids=uids)
    some = np.arange(0, 10**6, 997)
    assert (pack(table.tokens(some), [128] * 3) == numbers[some]).all()
    assert (table.owners_of(table.codes[some]) == some).all()
    assert (table.rows_of([uids[i] for i in some], "here") == some).all()
    with pytest.raises(UserError, match="no code vectors"):
        table.unit_vectors(some)


def test_large_alphabets_take_two_bytes(tmp_path: Path) -> None:
    table = write_table(tmp_path / "codes", codes=np.array([[256], [3]]), alphabets=(257,), uids=["a", "b"])
    assert table.codes.dtype == np.uint16
    assert table.tokens(np.array([0, 1])).tolist() == [[256], [3]]


@pytest.mark.parametrize(
    ("codes", "uids", "said"),
    [
        ([[0, 1], [0, 1]], ["a", "b"], "1 identities have the code of another"),
        ([[0, 1], [0, 2]], ["a", "a"], "two identities are named 'a'"),
        ([[0, 1], [0, 3]], ["a", "b"], "outside its alphabet"),
        ([[0, 1], [0, -1]], ["a", "b"], "outside its alphabet"),
    ],
)
def test_what_is_no_table_is_refused_and_leaves_nothing(
    tmp_path: Path, codes: list[list[int]], uids: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        write_table(tmp_path / "codes", codes=np.array(codes), alphabets=(3, 3), uids=uids)
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_never_replaced(tmp_path: Path) -> None:
    built(tmp_path / "codes", 5, (5,))
    with pytest.raises(UserError, match="exists already"):
        built(tmp_path / "codes", 5, (5,))
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]


def test_a_name_without_a_code_is_named(tmp_path: Path) -> None:
    table = built(tmp_path / "codes", 5, (5,))
    with pytest.raises(UserError, match=r"^my/faces: identity 'zzz' has no code in .* \(2 of 3 have none\)"):
        table.rows_of(["00001", "zzz", ""], "my/faces")


def test_damage_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "codes"
    built(folder, 40, (3, 5, 4))

    def refused(said: str, check: bool = False) -> None:
        with pytest.raises(UserError, match=said):
            open_table(folder).folder.verify() if check else open_table(folder)

    codes, meta = folder / "codes.npy", folder / "meta.json"
    whole, described = codes.read_bytes(), meta.read_text()
    codes.write_bytes(whole[:-1])
    refused(r"codes.npy: has \d+ bytes instead of \d+")
    codes.write_bytes(whole[:-1] + bytes([(whole[-1] + 1) % 4]))
    refused("codes.npy: has changed", check=True)
    codes.unlink()
    refused("codes.npy: is missing")
    codes.write_bytes(whole)
    open_table(folder).folder.verify()
    for old, new, said in (
        ('"version": 1', '"version": 9', "of version 9"),
        ('"identities": 40', '"identities": 41', "does not describe the arrays"),
        (described[:60], "{", "cannot be read"),
        ('"digest": "', '"digest": "0', "was changed"),
        ('"alphabets"', '"alphabet"', "does not describe codes"),
    ):
        assert old in described
        meta.write_text(described.replace(old, new, 1))
        refused(said)
    meta.write_text(json.dumps({"version": 1}))
    refused("cannot be read")
    meta.unlink()
    refused("is no code table")


# --- insertion (oracle 24) -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["arbitrary", "rq", "aligned", "shuffled", "random", "numeric"])
def test_insertion_fills_the_code_space_and_then_says_so(tmp_path: Path, kind: Kind) -> None:
    table = built(tmp_path / "codes", 60, (4, 4, 4, 4), kind)
    new = vectors(196, seed=1)
    codes = codes_for(table, new)
    everybody = np.concatenate([table.codes, codes])
    assert sorted(pack(everybody, (4,) * 4).tolist()) == list(range(256))
    assert sibling_spread(everybody, table.alphabets) == 1
    with pytest.raises(UserError, match="is full: 257 identities for 256 codes"):
        codes_for(table, vectors(197, seed=1))


def test_a_new_identity_comes_to_rest_beside_its_likes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 15)
    middle = oracle.unit(rng.normal(size=(4, 16)))
    rows = oracle.unit(4 * middle[group] + rng.normal(size=(60, 16)) / 4)
    for kind in ("arbitrary", "rq"):
        made = tokenise(rows.astype(np.float32), (4, 5, 5), kind=kind)
        uids = [f"{i:02d}" for i in range(60)]
        table = write_table(
            tmp_path / kind, codes=made.codes, alphabets=(4, 5, 5), uids=uids, vectors=rows, books=made.books
        )
        new = codes_for(table, middle.astype(np.float32))
        for g in range(4):
            assert new[g, 0] == made.codes[group == g, 0][0]


def test_reed_solomon_codes_go_on_counting_to_the_end_of_their_message(tmp_path: Path) -> None:
    table = built(tmp_path / "codes", 40, (7,) * 5, "rs")
    everybody = np.concatenate([table.codes, codes_for(table, vectors(9))]).astype(int)
    agree = (everybody[:, None] == everybody[None]).sum(2)
    assert agree[np.tril_indices(49, -1)].max() == 1
    with pytest.raises(UserError, match="is full"):
        codes_for(table, vectors(10))
