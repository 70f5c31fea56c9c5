"""Tiles, bundles and the reader, against the definition in C2SP tlog-tiles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import merkle
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.tiles import (
    ENTRIES,
    Tile,
    TileReader,
    parse_bundle,
    parse_tile,
    parse_tile_path,
    tile_at,
    tiles_of,
)

from . import builders as b
from .strategies import examples


def entries(count):
    """`count` entries of different lengths, one of them empty."""
    return [b"%d" % at * (at % 4) for at in range(count)]


def reader(items):
    """A reader of the log of `items`, from files written naively."""
    files = b.tile_files(items)
    return TileReader(files.get, len(items), b.naive_root([b.hash_entry(item) for item in items]))


def test_tiles_of_70000():
    """The specification's example: 273 full tiles and one of 112, one full and one of 17, one of 1."""
    paths = [tile.path for tile in tiles_of(70_000)]
    level0 = [b.naive_tile_path("0", index, 256) for index in range(273)]
    bundles = [path.replace("tile/0", "tile/entries") for path in level0]
    expected = [*bundles, "tile/entries/273.p/112", *level0, "tile/0/273.p/112"]
    assert paths == [*expected, "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"]


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537])
def test_tiles_of_size(size):
    """The tiles of a size are exactly those that the definition gives."""
    expected = b.tile_files([b""] * size)
    assert sorted(tile.path for tile in tiles_of(size)) == sorted(expected)
    assert {tile_at(tile.level, tile.index, size) for tile in tiles_of(size)} == set(tiles_of(size))


@pytest.mark.parametrize(
    ("path", "tile"),
    [
        ("tile/0/x001/x234/067", Tile(0, 1234067)),
        ("tile/entries/x001/x234/067.p/255", Tile(ENTRIES, 1234067, 255)),
        ("tile/7/000.p/1", Tile(7, 0, 1)),
        ("tile/3/999", Tile(3, 999)),
        ("tile/3/x001/000", Tile(3, 1000)),
    ],
)
def test_tile_path_of(path, tile):
    """A path is read as its tile."""
    assert parse_tile_path(path) == tile
    assert tile.path == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001",
        "tile/0/x001/x002",
        "tile/0/X001/002",
        "tile/00/001",
        "tile/8/001",
        "tile/-1/001",
        "tile/entry/001",
        "tile/0/001.p/0",
        "tile/0/001.p/01",
        "tile/0/001.p/256",
        "tile/0/001.p/1000",
        "tile/0/001.p/",
        "tile/0/001.p",
        "tile/0/001/",
        "tile/0/001\n",
        "/tile/0/001",
        "tile//0/001",
        "tile/0/../0/001",
        "tile/0/\u0660\u0660\u0661",
        "tile/0/\uff10\uff10\uff11",
        "tile/0/001.p/\uff11",
        "tile/0/+01",
        "tile\\0\\001",
        "TILE/0/001",
        "checkpoint",
    ],
)
def test_tile_path_malformed(path):
    """Another spelling of a path, or none, is refused."""
    with pytest.raises(MalformedError):
        parse_tile_path(path)


@pytest.mark.parametrize("width", [257, 300, 999])
def test_tile_path_wider_than_a_tile(width):
    """A tile has at most 256 hashes, so its path states no larger width."""
    with pytest.raises(MalformedError):
        parse_tile_path(f"tile/0/000.p/{width}")


def test_tile_path_of_enormous_index():
    """A path of any length is refused by our error."""
    with pytest.raises(MalformedError):
        parse_tile_path("tile/0/" + "x123/" * 1500 + "123")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_tile_of_another_length(length):
    """A tile has exactly as many hashes as its width says."""
    with pytest.raises(MalformedError):
        parse_tile(bytes(length), Tile(0, 0, 1))


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\1", b"\0\0\0", b"\0\0\0\0", b"\0\1ab", b"\xff\xff" + bytes(65_534)])
def test_bundle_malformed(data):
    """A bundle ends with its last entry."""
    with pytest.raises(MalformedError):
        parse_bundle(data, Tile(ENTRIES, 0, 1))


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 600, 65_540])
def test_reader_proves_what_is_there(size):
    """Entries and proofs read from tiles are those of the naive tree."""
    items = entries(size)
    hashes = [b.hash_entry(item) for item in items]
    tree = reader(items)
    for index in sorted({0, 1, 2, 100, 254, 255, 256, 257, 511, 512, size - 2, size - 1} & set(range(size))):
        assert tree.entry(index) == items[index]
        proof = tree.prove_inclusion(index)
        merkle.check_inclusion(index, size, hashes[index], proof, tree.root)
        if size < 1000:
            assert proof == b.naive_path(index, hashes)
    for old in sorted({0, 1, 2, 3, 128, 255, 256, 257, 512, size - 1, size} & set(range(size + 1))):
        expected = merkle.prove_consistency(old, size, tree.hash_at)
        assert tree.prove_consistency(old) == expected
        merkle.check_consistency(old, size, b.naive_root(hashes[:old]), tree.root, expected)
        if size < 1000:
            assert expected == (b.naive_consistency(old, hashes) if old else [])


@examples
@given(st.integers(1, 700), st.data())
def test_reader_naive(size, data):
    """At any size and index the reader agrees with the naive tree."""
    items = entries(size)
    hashes = [b.hash_entry(item) for item in items]
    index = data.draw(st.integers(0, size - 1))
    assert reader(items).prove_inclusion(index) == b.naive_path(index, hashes)


def test_reader_with_any_byte_changed():
    """With one byte of any tile or bundle changed, the reader refuses or the byte did not matter to the answer."""
    items = entries(9)
    files = b.tile_files(items)
    root = b.naive_root([b.hash_entry(item) for item in items])
    good = (items[5], reader(items).prove_inclusion(5))
    for path, content in files.items():
        for at in range(len(content)):
            changed = files | {path: content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]}
            tree = TileReader(changed.get, len(items), root)
            try:
                answer = (tree.entry(5), tree.prove_inclusion(5))
            except (MalformedError, VerificationError):
                continue
            assert answer == good


def test_reader_without_files():
    """A missing tile or bundle is named."""
    tree = TileReader({}.get, 300, bytes(32))
    with pytest.raises(VerificationError, match=r"tile/entries/001\.p/44: missing"):
        tree.entry(299)
    with pytest.raises(VerificationError, match=r"tile/.*: missing"):
        tree.prove_inclusion(0)


def test_reader_falls_back_to_the_full_tile():
    """A partial tile that gave way to the full one is read from it; the tree stays that of the checkpoint."""
    items = entries(256)
    full = b.tile_files(items)
    old = TileReader(full.get, 200, b.naive_root([b.hash_entry(item) for item in items[:200]]))
    assert old.entry(199) == items[199]
    assert len(old.prove_inclusion(199)) == len(b.naive_path(199, [bytes(32)] * 200))


@pytest.mark.parametrize("index", [-1, 9, 10, 2**64])
def test_reader_outside_the_log(index):
    """An index that is not in the log is refused."""
    tree = reader(entries(9))
    for ask in (tree.entry, tree.prove_inclusion):
        with pytest.raises(VerificationError, match="outside a log of size 9"):
            ask(index)


def test_reader_asked_for_consistency_with_the_future():
    """A size that the log has not reached is refused as an index would be."""
    with pytest.raises(LedgerError):
        reader(entries(9)).prove_consistency(10)
