from io import BytesIO

from pipelines.intake.decoding.frames import read_frame, write_frame


def test_frames_come_back_in_order_and_a_cut_one_is_none() -> None:
    stream = BytesIO()
    for content in (b"one", b"", b"x" * 100_000):
        write_frame(stream, content)
    whole = stream.getvalue()
    source = BytesIO(whole)
    assert [read_frame(source) for _ in range(4)] == [b"one", b"", b"x" * 100_000, None]
    assert read_frame(BytesIO(whole[:9])) is None
    assert read_frame(BytesIO(whole[:4])) is None
