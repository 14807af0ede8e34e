"""The attenuation lines as a picture."""

from pipelines.release.pages.calibration_plot import plot_attenuation
from pipelines.release.pages.judges import Attenuation


def test_each_judge_is_named_and_the_numbers_alone_decide() -> None:
    lines = [
        Attenuation("sharp", accuracy=0.75, low=0.5, rate=0.6, high=0.7),
        Attenuation("dull", accuracy=0.5, low=0.5, rate=0.6, high=0.7),
    ]
    svg = plot_attenuation(lines)
    assert svg == plot_attenuation(lines)
    assert ">sharp, 75% agreement</text>" in svg.decode()
    assert ">dull, 50% agreement</text>" in svg.decode()
    assert plot_attenuation(lines[:1]) != svg
