"""USC-HAD: daily activities, felt by a sensor at the hip (Zhang and Sawchuk, 2012)."""

from __future__ import annotations

from mmlab.data.base import ProtocolName
from mmlab.data.sensors import Sensor, SensorDataset


class USCHAD(SensorDataset):
    """USC-HAD: twelve activities of 14 subjects, from an accelerometer and a gyroscope of three axes each.

    The raw files are the arrays of Harmony's release (Ouyang et al., MobiSys 2023), which ERL-MR's released code reads:
    ``<root>/node_<number>/x_train_1.npy`` (accelerometer) and ``x_train_2.npy`` (gyroscope), windows of (3, 200),
    ``y_train.npy``, labels 0 to 11, and ``x_test_1.npy`` and so on. ``mmlab prepare`` checks them and packs them into
    ``<root>/packed``, 5 kB a window. Windows with values that are no finite numbers are left out and named. The arrays
    are said to be normalised already and are taken as they are. The original recordings are not read.

    That release has a folder for each subject. ERL-MR's code reads a ``node_100`` that it doesn't have, probably all
    subjects together; hence the default of ``nodes``. Training and test windows are the files'. The honest protocol
    carves the validation split from the training windows of all subjects, by window: neighbouring windows may fall on
    both sides. The official protocol selects on the test split.

    The classes' names are those of the original data set in its order; whether Harmony's labels follow that order, no
    source that we had says. A confusion of two names changes no accuracy.

    Args:
        root: folder of the raw arrays and of the pack.
        nodes: the number or the numbers of the subjects that are used; all by default.
        validation_share: of the training windows of each class that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test split.
    """

    sensors = {
        "accelerometer": Sensor("x_{part}_1.npy", (3, 200), time=1),
        "gyroscope": Sensor("x_{part}_2.npy", (3, 200), time=1),
    }
    activities = (
        "Walking Forward",
        "Walking Left",
        "Walking Right",
        "Walking Upstairs",
        "Walking Downstairs",
        "Running Forward",
        "Jumping Up",
        "Sitting",
        "Standing",
        "Sleeping",
        "Elevator Up",
        "Elevator Down",
    )

    def __init__(
        self,
        root: str = "data/uschad",
        nodes: int | list[int] | None = None,
        validation_share: float = 0.1,
        split_seed: int = 0,
        protocol: ProtocolName = "honest",
    ) -> None:
        super().__init__(root, nodes, validation_share, split_seed, protocol)
