import io

from PIL import Image

from diffmix.datasets.decode import checked, in_threads
from diffmix.datasets.raw import Found


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()


def test_bytes_and_paths_and_what_is_broken(tmp_path):
    (tmp_path / "a.png").write_bytes(png(4))
    found = checked(png(4), 100)
    assert found.data == png(4)
    assert checked(str(tmp_path / "a.png"), 100) == found
    assert "No such file" in checked(str(tmp_path / "b.png"), 100)
    assert isinstance(checked(png(11), 100), str), "too many pixels"
    assert isinstance(checked(None, 100), str)
    assert isinstance(checked(b"no image", 100), str)


def test_the_order_stays():
    found = [Found(f"{i}", png(1 + i % 5) if i % 7 else b"broken", i) for i in range(150)]
    results = list(in_threads(iter(found), 100))
    assert [one for one, _ in results] == found
    broken = [index for index, (_, result) in enumerate(results) if isinstance(result, str)]
    assert broken == list(range(0, 150, 7))
